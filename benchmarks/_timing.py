"""Interleaved timing: several functions in turn, many times over, compared within one run."""

import json
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

RESULTS = Path(__file__).parent / "results"
Times = dict[str, list[float]]


def interleaved_ms(
    functions: Mapping[str, Callable[[], Any]], *, repeats: int = 15, warmup: int = 2
) -> Times:
    """Time functions in turn, A B C A B C ..., and return each one's milliseconds per call."""
    for _ in range(warmup):
        for function in functions.values():
            function()
    times: Times = {name: [] for name in functions}
    for _ in range(repeats):
        for name, function in functions.items():
            start = time.perf_counter()
            function()
            times[name].append((time.perf_counter() - start) * 1e3)
    return times


def spread(values: list[float]) -> dict[str, float]:
    """Median, and the second smallest and second largest value."""
    ordered = sorted(values)
    return {"median": statistics.median(ordered), "low": ordered[1], "high": ordered[-2]}


def ratio(numerators: list[float], denominators: list[float]) -> dict[str, float]:
    """Spread of the ratio of two functions' times, round by round."""
    return spread([a / b for a, b in zip(numerators, denominators, strict=True)])


def write_result(name: str, result: dict[str, Any], folder: Path = RESULTS) -> None:
    """Write a result with what it was measured on, and print it."""
    packages = {package: version(package) for package in ("torch", "transformers", "quee-hf")}
    context = {
        "date": datetime.now(UTC).date().isoformat(),
        "versions": {**packages, "python": platform.python_version()},
        "threads": torch.get_num_threads(),
        "machine": platform.machine(),
    }
    folder.mkdir(exist_ok=True)
    text = json.dumps({**context, **result}, indent=2)
    (folder / f"{name}.json").write_text(text + "\n")
    print(text)
