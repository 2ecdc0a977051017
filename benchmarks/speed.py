"""Images per second of QuEE on each engine, beside ONNX Runtime, OpenVINO, NNCF and torchao, in one run.

Run: `python benchmarks/speed.py --peers-python PEERS/bin/python`, on a quiet machine. NNCF and torchao need
an environment of their own, with what `benchmarks/speed-peers.txt` says; without it they are reported as
not run. Every contender is a process, and all are asked in turns. What they are made from is kept in
`runs/speed/`; so are finished batch sizes until the run is complete: an interrupted one goes on. Writes
`benchmarks/results/speed.json`, `docs/results/speed.md` and its picture; `--report` writes the latter two
from the first.
"""

import argparse
import json
import os
import platform
import re
from pathlib import Path
from typing import Any

from _speed_plan import BATCH_SIZES, SIZES
from _speed_report import summarize, write_page
from _speed_run import Run, part
from _timing import RESULTS, write_result

ROOT = Path(__file__).parents[1]
FLAGS = ("avx2", "avx512f", "avx_vnni", "avx512_vnni", "avx512_bf16", "amx_int8", "amx_bf16")


def describe_processor() -> dict[str, Any]:
    """Model, number of cores, and which instructions for small numbers it has."""
    path = Path("/proc/cpuinfo")
    text = path.read_text() if path.exists() else ""
    model = re.search(r"model name\s*: (.*)", text)
    flags = set((re.search(r"flags\s*: (.*)", text) or ["", ""])[1].split())
    return {
        "model": model[1] if model else platform.processor(),
        "cores": os.cpu_count(),
        "flags": [flag for flag in FLAGS if flag in flags],
    }


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Measure everything and return what is to be kept of it."""
    run = Run(arguments)
    sizes, versions = {}, {"python": platform.python_version()}
    for size in arguments.sizes:
        run.prepare(size)
        parts = {batch_size: part(run, size, batch_size) for batch_size in arguments.batch_sizes}
        for one in parts.values():
            versions |= one["versions"]
        sizes[size] = {"title": SIZES[size].title, **summarize(parts)}
    return {
        "versions": versions,
        "threads": arguments.threads,
        "processor": describe_processor(),
        "omp_wait_policy": os.environ.get("OMP_WAIT_POLICY", "default"),
        "rounds": arguments.rounds,
        "seconds_per_visit": arguments.seconds,
        "cost_lambda": run.cost_lambda,
        "sizes": sizes,
    }


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--model", type=Path, default=ROOT / "runs" / "dinov2-cifar10" / "model", help="a built model")
    add("--peers-python", type=Path, help="interpreter that has NNCF and torchao")
    add("--cost-lambda", type=float, help="of the routed model; else the cheapest within 0.5 points")
    add("--sizes", nargs="+", choices=SIZES, default=list(SIZES))
    add("--batch-sizes", nargs="+", type=int, choices=BATCH_SIZES, default=list(BATCH_SIZES))
    add("--rounds", type=int, default=11)
    add("--seconds", type=float, default=0.5, help="that a visit takes, about")
    add("--threads", type=int, default=2)
    add("--num-test", type=int, default=2000, help="test images for accuracy")
    add("--run", type=Path, default=ROOT / "runs" / "speed", help="folder for what is prepared")
    add("--output", type=Path, help="one folder for all that is written; for trials")
    add("--report", action="store_true", help="write page and picture from the kept result")
    arguments = parser.parse_args()
    if arguments.peers_python is not None and not arguments.peers_python.exists():
        parser.error(f"there is no {arguments.peers_python}")
    return arguments


def main() -> None:
    arguments = parse()
    kept = arguments.output or RESULTS
    if not arguments.report:
        result = measure(arguments)
        write_result("speed", result, kept)
        for size in arguments.sizes:
            for batch_size in arguments.batch_sizes:
                (arguments.run / size / f"batch-{batch_size}.json").unlink()
    result = json.loads((kept / "speed.json").read_text())
    write_page(result, arguments.output or ROOT / "docs" / "results")


if __name__ == "__main__":
    main()
