"""Images per second of QuEE on a CUDA GPU, beside Hugging Face's model in float32, bfloat16 and float16.

Run: `python benchmarks/gpu.py --model RUN/model`, wherever there is a CUDA GPU; without a built model
nothing is routed. All contenders are loaded in one process and asked in turns. What they are made from is
kept in `runs/gpu/`; so are finished batch sizes until the run is complete: an interrupted one goes on. Writes
`benchmarks/results/gpu.json`, `docs/results/gpu.md` and its picture; `--report` writes the latter two from
the first. `--device cpu` runs the same code without a GPU, for trials.
"""

import argparse
import json
import os
import platform
from pathlib import Path
from typing import Any

import torch
from _gpu_report import write_page
from _gpu_run import GpuRun, summarize_batch
from _speed_plan import SIZES
from _speed_run import ASSETS, part
from _speed_tables import summarize_batches
from _timing import RESULTS, write_result

from quee_hf.machine import this_machine

ROOT = Path(__file__).parents[1]


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Measure everything and return what is to be kept of it."""
    run = GpuRun(arguments)
    sizes, versions = {}, {"python": platform.python_version()}
    if torch.version.cuda is not None:
        versions["CUDA"] = torch.version.cuda
    for size in arguments.sizes:
        run.prepare(size)
        parts = {batch_size: part(run, size, batch_size) for batch_size in arguments.batch_sizes}
        for one in parts.values():
            versions |= one["versions"]
        sizes[size] = {"title": SIZES[size].title, **summarize_batches(parts, summarize_batch)}
    return {
        "versions": versions,
        "device": arguments.device,
        "processor": this_machine(torch.device(arguments.device))["processor"],
        "host": this_machine(torch.device("cpu"))["processor"],
        "rounds": arguments.rounds,
        "seconds_per_visit": arguments.seconds,
        "cost_lambda": run.cost_lambda,
        "accuracy_batch_size": run.accuracy_batch_size,
        "sizes": sizes,
    }


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--model", type=Path, help="a built model, to be routed")
    add("--cost-lambda", type=float, help="of the routed model; else the cheapest within 0.5 points")
    add("--device", choices=["cuda", "cpu"], default="cuda")
    add("--sizes", nargs="+", choices=SIZES, default=list(SIZES))
    add("--batch-sizes", nargs="+", type=int, default=[1, 8, 32, 256])
    add("--rounds", type=int, default=15)
    add("--seconds", type=float, default=0.5, help="that a visit takes, about")
    add("--num-test", type=int, default=10000, help="test images for accuracy")
    add("--run", type=Path, default=ROOT / "runs" / "gpu", help="folder for what is prepared")
    add("--output", type=Path, help="one folder for all that is written; for trials")
    add("--report", action="store_true", help="write page and picture from the kept result")
    arguments = parser.parse_args()
    if arguments.report:
        return arguments
    if arguments.device == "cuda" and not torch.cuda.is_available():
        parser.error("there is no CUDA GPU here; `--device cpu --output FOLDER` tries the code without one")
    if arguments.device == "cpu" and arguments.output is None:
        parser.error("`--device cpu` is for trials: give `--output`, too")
    if arguments.model is not None and not (arguments.model / "config.json").exists():
        parser.error(f"there is no model in {arguments.model}")
    return arguments


def main() -> None:
    arguments = parse()
    os.environ.setdefault("QUEE_ASSETS", str(ASSETS))
    kept = arguments.output or RESULTS
    if not arguments.report:
        write_result("gpu", measure(arguments), kept)
        for size in arguments.sizes:
            for batch_size in arguments.batch_sizes:
                (arguments.run / size / f"batch-{batch_size}.json").unlink()
    write_page(json.loads((kept / "gpu.json").read_text()), arguments.output or ROOT / "docs" / "results")


if __name__ == "__main__":
    main()
