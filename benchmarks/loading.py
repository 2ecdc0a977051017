"""Loading a pushed model with `pipeline`, beside the HF model that it was made from.

Run: `python benchmarks/loading.py [MODEL]`; MODEL is a built model, `runs/dinov2-cifar10/model` if not given.
Both are pushed to a Hub on loopback and then loaded from the cache, as on every start but the first. Writes
`benchmarks/results/loading.json` and a sentence in `docs/hub.md`.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
THREADS, REPEATS = 2, 15


def measure(folder: Path) -> None:
    """Push both models and time loading them; the environment names the Hub."""
    import torch
    from _results import write_section
    from _timing import interleaved_ms, ratio, spread, write_result
    from assets import EXPERIMENTS
    from transformers import AutoImageProcessor, AutoModelForImageClassification, pipeline
    from transformers.utils import logging

    from quee_hf.hub.publish import publish_folder

    torch.set_num_threads(THREADS)
    logging.disable_progress_bar()
    source = EXPERIMENTS["dinov2-cifar10"]()["model"]
    AutoModelForImageClassification.from_pretrained(source).push_to_hub("org/stock")
    AutoImageProcessor.from_pretrained(source, backend="pil").push_to_hub("org/stock")
    publish_folder(folder, "org/quee")
    names = ("stock", "quee")
    times = interleaved_ms(
        {name: lambda name=name: pipeline("image-classification", model=f"org/{name}") for name in names},
        repeats=REPEATS,
    )
    over = ratio(times["quee"], times["stock"])
    taken = {name: spread(values) for name, values in times.items()}
    write_result("loading", {"ms": taken, "quee_over_stock": over})
    low, median, high = (f"{over[name]:.2f}" for name in ("low", "median", "high"))
    text = (
        "Loading the DINOv2-S model of the README with `pipeline`, from the cache, its three levels compared"
        f" with the Hub's checksum, takes {median} ({low} to {high}) times as long as loading the float32"
        f" model that it was made from ({REPEATS} rounds in turn, {THREADS} threads)."
    )
    write_section(ROOT / "docs" / "hub.md", text, command="python benchmarks/loading.py", name="loading")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    default = ROOT / "runs" / "dinov2-cifar10" / "model"
    parser.add_argument("model", nargs="?", type=Path, default=default)
    parser.add_argument("--measure", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        measure(arguments.model)
        return
    sys.path.insert(0, str(ROOT))
    from tests.hub.loopback import loopback_hub

    # The client reads these when it is imported: hence a process of its own.
    with loopback_hub() as hub, tempfile.TemporaryDirectory() as home:
        settings = hub.environment(Path(home))
        command = [sys.executable, __file__, "--measure", str(arguments.model)]
        subprocess.run(command, env={**os.environ, **settings}, check=True)


if __name__ == "__main__":
    main()
