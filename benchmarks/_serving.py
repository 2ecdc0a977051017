"""A handler behind HTTP, as Inference Endpoints run it, and clients that ask it all at once."""

import json
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128  # clients that knock at once


@contextmanager
def serving(answer: Callable[[Any], Any]) -> Iterator[str]:
    """Serve a handler on this machine's loopback, and yield the address."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            try:
                is_json = self.headers["Content-Type"] == "application/json"
                found, code = answer(json.loads(body) if is_json else {"inputs": body}), 200
            except ValueError as error:
                found, code = {"error": str(error)}, 400
            content = json.dumps(found).encode()
            self.send_response(code)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: Any) -> None:
            pass

    server = _Server(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def ask(url: str, request: Any, kind: str = "application/json") -> tuple[int, Any]:
    """Send a request, an object or bytes, and return status and answer."""
    body = request if isinstance(request, bytes) else json.dumps(request).encode()
    sent = urllib.request.Request(url, data=body, headers={"Content-Type": kind})
    try:
        with urllib.request.urlopen(sent, timeout=120) as response:
            return response.status, json.load(response)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def ask_at_once(
    url: str, requests: Sequence[Any], num_clients: int, send: Callable[[str, Any], Any] = ask
) -> list[Any]:
    """Let clients send requests, each the next as soon as it has an answer; return the answers in order."""
    start = threading.Barrier(num_clients)

    def client(number: int) -> list[tuple[int, Any]]:
        start.wait()
        return [send(url, request) for request in requests[number::num_clients]]

    with ThreadPoolExecutor(num_clients) as pool:
        parts = list(pool.map(client, range(num_clients)))
    return [parts[position % num_clients][position // num_clients] for position in range(len(requests))]
