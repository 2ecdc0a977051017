"""Serve a model over HTTP, each request at its own price: `python examples/04_serve.py [--port 8000]`.

Run `01_convert.py` first. Then, with the server running:

    curl --data-binary @digit.png "http://127.0.0.1:8000/?cost_lambda=0.1"

Without `--port` it serves one request, its own, and stops.
"""

import argparse
import io
import json
import threading
import urllib.request
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from PIL import Image
from transformers import pipeline

import quee_hf  # noqa: F401 - registers the model type and the pipeline

OUTPUT = Path("examples-output")
classify = pipeline("image-classification", model=str(OUTPUT / "run" / "model"), return_routing=True)


class Handler(BaseHTTPRequestHandler):
    """Classify the image that a request brings."""

    def do_POST(self) -> None:
        """Answer with scores and routing as JSON; what is wrong with a request is said in the answer."""
        query = parse_qs(urlsplit(self.path).query)
        try:
            image = Image.open(io.BytesIO(self.rfile.read(int(self.headers["Content-Length"]))))
            answer = classify(image, **{name: float(values[0]) for name, values in query.items()})
            code = 200
        except (OSError, TypeError, ValueError) as error:
            answer, code = {"error": str(error)}, 400
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(json.dumps(answer).encode())


parser = argparse.ArgumentParser()
parser.add_argument("--port", type=int, default=0, help="0: serve one request, and stop")
port = parser.parse_args().port
server = HTTPServer(("127.0.0.1", port), Handler)
if port:
    print(f"Serving on http://127.0.0.1:{port}; interrupt to stop.")
    server.serve_forever()
threading.Thread(target=server.handle_request).start()
digit = next((OUTPUT / "images" / "test" / "7").iterdir()).read_bytes()
address = f"http://127.0.0.1:{server.server_port}/?cost_lambda=0.1"
with urllib.request.urlopen(urllib.request.Request(address, data=digit)) as response:
    answer = json.load(response)
print(answer["scores"][0], answer["routing"], sep="\n")
server.server_close()
