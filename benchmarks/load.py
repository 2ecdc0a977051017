"""A handler under load: how long requests wait, by how many come, and whether all are answered.

Run: `python benchmarks/load.py --model runs/dinov2-cifar10/model`, on a quiet machine. Serves the handler for
Inference Endpoints on loopback, and asks it for test images from `QUEE_ASSETS`, each request with a lambda of
its own: by clients that each send the next request when they have an answer, and then at times of their own
that do not wait for answers. Writes `benchmarks/results/load.json` and `docs/results/load.md`.
"""

import argparse
import base64
import json
import multiprocessing
import os
import random
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from _serving import ask, ask_at_once, serving
from _timing import RESULTS, write_result
from assets import ASSETS

from quee_hf.data import load_image_dataset
from quee_hf.deployment.endpoint import EndpointHandler
from quee_hf.tables import markdown_table

ROOT = Path(__file__).parents[1]
LAMBDAS = (0.0, 0.02, 0.05, 0.1, 0.125, 0.2, 0.4, 1.0)
NUM_IMAGES = 64
CLIENTS = (1, 4, 16, 64)
SHARES = (0.5, 0.8)  # of the most requests per second that were answered, for requests that do not wait
ROUNDS = 4
_ENGINE = "QUEE_ENGINE"


class Answer(NamedTuple):
    """What came of a request, and after how many seconds; code 0 stands for nothing."""

    code: int
    content: Any
    seconds: float


def timed(url: str, request: Any, start: float | None = None) -> Answer:
    """Send a request, and count the time from a moment that is given, or from now."""
    start = time.perf_counter() if start is None else start
    try:
        code, content = ask(url, request)
    except OSError as error:
        code, content = 0, str(error)
    return Answer(code, content, time.perf_counter() - start)


def at_times(url: str, requests: Sequence[Any], per_second: float) -> list[Answer]:
    """Send requests at random moments, so many per second in the mean, earlier ones answered or not.

    Time counts from the moment when a request is due, so that what waits here is not left out.
    """
    draw, due = random.Random(0), time.perf_counter()
    with ThreadPoolExecutor(len(requests)) as pool:
        sent = []
        for request in requests:
            due += draw.expovariate(per_second)
            time.sleep(max(0.0, due - time.perf_counter()))
            sent.append(pool.submit(timed, url, request, due))
        return [each.result() for each in sent]


class Load:
    """What came of all requests under one load.

    Args:
        name: Of the load.
        send: Sends requests to a server, given the most per second that it has just answered.
    """

    def __init__(self, name: str, send: Callable[[str, Sequence[Any], float], list[Answer]]) -> None:
        self._name, self._send = name, send
        self._found: list[Answer] = []
        self._num_equal, self._seconds = 0, 0.0

    def run(self, url: str, requests: Sequence[Any], expected: Sequence[Any], most: float) -> float:
        """Send requests, and return how many were answered per second."""
        start = time.perf_counter()
        found = self._send(url, requests, most)
        seconds = time.perf_counter() - start
        self._found += found
        self._num_equal += sum(each.content == right for each, right in zip(found, expected, strict=True))
        self._seconds += seconds
        return len(found) / seconds

    def describe(self) -> dict[str, Any]:
        """Say how it went."""
        p50, p99 = np.quantile([answer.seconds * 1e3 for answer in self._found], [0.5, 0.99])
        return {
            "load": self._name,
            "requests": len(self._found),
            "answered": sum(answer.code == 200 for answer in self._found),
            "equal": self._num_equal,
            "per_second": len(self._found) / self._seconds,
            "p50_ms": float(p50),
            "p99_ms": float(p99),
        }


def make_loads(pool: ProcessPoolExecutor) -> tuple[list[Load], list[Load]]:
    """Return loads of clients that wait for answers, and of requests that come at random.

    Args:
        pool: Another process, where clients are: here they would keep the server waiting for the interpreter.
    """
    waiting = [
        Load(
            f"{clients} client{'s' if clients > 1 else ''}",
            lambda url, requests, _, clients=clients: pool.submit(
                ask_at_once, url, requests, clients, timed
            ).result(),
        )
        for clients in CLIENTS
    ]
    coming = [
        Load(
            f"at random, {share:.0%} of the most",
            lambda url, requests, most, share=share: pool.submit(
                at_times, url, requests, share * most
            ).result(),
        )
        for share in SHARES
    ]
    return waiting, coming


def make_requests(count: int) -> list[dict[str, Any]]:
    """Make requests of test images, as PNG in base64, every one at the next of the lambdas."""
    images = load_image_dataset(str(ASSETS / "cifar10" / "test.parquet")).spread(NUM_IMAGES)
    encoded = [base64.b64encode(images.encoded.read(row)).decode() for row in images.rows]
    return [
        {
            "inputs": encoded[number % len(encoded)],
            "parameters": {"cost_lambda": LAMBDAS[number % len(LAMBDAS)], "return_routing": True},
        }
        # Images and lambdas in step would always come in the same pairs.
        for number in (position + position // len(encoded) for position in range(count))
    ]


def measure(handler: EndpointHandler, requests: list[Any]) -> list[dict[str, Any]]:
    """Ask one request after the other, then under each load, in rounds."""
    expected = [json.loads(json.dumps(handler(request))) for request in requests]
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool, serving(handler) as url:
        pool.submit(time.sleep, 0).result()  # started
        waiting, coming = make_loads(pool)
        for number in range(ROUNDS):
            part = slice(number, None, ROUNDS)
            most = max(load.run(url, requests[part], expected[part], 0.0) for load in waiting)
            for load in coming:
                load.run(url, requests[part], expected[part], most)
    return [load.describe() for load in (*waiting, *coming)]


def write_page(result: dict[str, Any], path: Path) -> None:
    """Write what was measured as a page."""
    titles = ["requests", "answered", "equal to alone", "per second", "p50, ms", "p99, ms"]
    cells = [
        [
            *(str(row[name]) for name in ("load", "requests", "answered", "equal")),
            *(f"{row[name]:.0f}" for name in ("per_second", "p50_ms", "p99_ms")),
        ]
        for row in result["rows"]
    ]
    lambdas = ", ".join(f"{value:g}" for value in LAMBDAS)
    versions = result["versions"]
    text = [
        "# A handler under load",
        f"Written by `python benchmarks/load.py` on {result['date']}, with torch {versions['torch']},"
        f" transformers {versions['transformers']}; {result['threads']} threads for the server; clients are"
        " in another process on the same machine.",
        f"A DINOv2-S at 70 px on the engine `{result['engine']}`, behind"
        " `quee_hf.deployment.endpoint.EndpointHandler` and an HTTP server on this machine's loopback. Each"
        f" request brings one of {NUM_IMAGES} test images of CIFAR-10, a λ ({lambdas}), and a connection of"
        " its own. *Clients* send their next request when they have an answer. Requests at random moments do"
        " not wait for answers, and their time counts from the moment when they are due; as many come per"
        " second, in the mean, as is a share of the most that clients got answered just before. Loads take"
        f" turns in {ROUNDS} rounds.",
        "*Answered* are those with an answer of code 200, *equal to alone* those whose classes, scores and"
        " route are what the handler gives the same request when there is no other.",
        markdown_table(["load", *titles], cells),
    ]
    path.write_text("\n\n".join(text) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, default=ROOT / "runs" / "dinov2-cifar10" / "model")
    parser.add_argument("--engine", default="openvino")
    parser.add_argument("--requests", type=int, default=512, help="at each load")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    os.environ[_ENGINE] = arguments.engine
    handler = EndpointHandler(str(arguments.model))
    requests = make_requests(arguments.requests)
    for request in requests[: len(LAMBDAS)]:
        handler(request)  # every part has run once
    write_result("load", {"engine": arguments.engine, "rows": measure(handler, requests)})
    write_page(json.loads((RESULTS / "load.json").read_text()), ROOT / "docs" / "results" / "load.md")


if __name__ == "__main__":
    main()
