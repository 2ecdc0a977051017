"""Memory of a process while it classifies a long stream of images: does it stay where it is?

Run: `python benchmarks/stream_memory.py --model runs/dinov2-cifar10/model`, on Linux; it takes minutes. The
images of CIFAR-10's validation file in `QUEE_ASSETS` come again and again, each decoded when it is its turn:
through `model.classify_stream`, and through the pipeline, which is given a generator. Each stream has a
process of its own. Writes `benchmarks/results/stream-memory.json`, `docs/results/stream-memory.md` and a
picture.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet
import torch
from _timing import RESULTS, write_result
from assets import ASSETS
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image
from transformers import AutoImageProcessor, pipeline

from quee_hf import QuEEForImageClassification
from quee_hf.execution.stream import MAX_LAG
from quee_hf.images import load_rgb
from quee_hf.tables import markdown_table

ROOT = Path(__file__).parents[1]
LAMBDAS = (0.0, 0.05, 0.125, 0.2, 0.4)  # of the images of `classify_stream`, in turn
STREAMS = {"stream": "`model.classify_stream`", "pipeline": '`pipeline("image-classification")`'}
PARTS = (0.1, 0.25, 0.5, 0.75, 1.0)  # of the images, after which memory is told
EVERY = 500  # images between two looks


def pictures(count: int) -> Iterator[Image.Image]:
    """Yield images, decoded one by one, from the first again after the last."""
    table = pyarrow.parquet.read_table(ASSETS / "cifar10" / "validation.parquet", columns=["image"])
    column = table.column("image")
    for number in range(count):
        yield load_rgb(column[number % len(column)]["bytes"].as_py())


def resident_mb() -> float:
    """Return what this process has in memory, in MB of a million bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 / 1e6 for line in lines if line.startswith("VmRSS"))


def stream(arguments: argparse.Namespace) -> Iterator[Any]:
    """Yield what the model says of each image, each at a lambda of its own."""
    model = QuEEForImageClassification.from_pretrained(arguments.model)
    model.set_engine(arguments.engine)
    processor = AutoImageProcessor.from_pretrained(arguments.model, backend="pil")

    def batches() -> Iterator[torch.Tensor]:
        source = pictures(arguments.num_images)
        while batch := list(islice(source, arguments.batch_size)):
            yield processor(batch, return_tensors="pt")["pixel_values"]

    lambdas = (LAMBDAS[number % len(LAMBDAS)] for number in range(arguments.num_images))
    return model.classify_stream(batches(), cost_lambda=lambdas, batch_size=arguments.batch_size)


def through_pipeline(arguments: argparse.Namespace) -> Iterator[Any]:
    """Yield what the pipeline says of each image that a generator gives it."""
    classify = pipeline(
        "image-classification", model=str(arguments.model), engine=arguments.engine, device="cpu"
    )
    return classify(pictures(arguments.num_images), batch_size=arguments.batch_size, return_routing=True)


def measure(arguments: argparse.Namespace) -> None:
    """Print a line for every few images: how many have come out, and what is in memory."""
    torch.set_num_threads(arguments.threads)
    results = {"stream": stream, "pipeline": through_pipeline}[arguments.measure](arguments)
    count = 0
    for count, _ in enumerate(results, start=1):
        if count % EVERY == 0:
            print(json.dumps([count, resident_mb()]), flush=True)
    assert count == arguments.num_images, f"{arguments.num_images} images went in, {count} came out."
    print(json.dumps([count, resident_mb()]), flush=True)


def run(name: str, arguments: argparse.Namespace) -> dict[str, float]:
    """Measure a stream in a process of its own; return what was in memory after so many images."""
    command = [sys.executable, __file__, "--measure", name]
    for option in ("model", "engine", "num_images", "batch_size", "threads"):
        command += [f"--{option.replace('_', '-')}", str(getattr(arguments, option))]
    found: dict[str, float] = {}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            count, resident = json.loads(line)
            found[str(count)] = round(resident, 1)
            print(name, count, resident, flush=True)
    if process.returncode:
        raise RuntimeError(f"{command} failed.")
    return found


def growth(found: dict[str, float], batch_size: int) -> dict[str, float]:
    """Say where memory was after parts of the stream, and how a line through its second half rises.

    The line ends where the last images have gone in: from there on batches are no longer full.
    """
    count, resident = np.array([int(number) for number in found]), np.array([*found.values()])
    is_late = (count >= count[-1] / 2) & (count <= count[-1] - (MAX_LAG + 1) * batch_size)
    slope, _ = np.polyfit(count[is_late], resident[is_late], 1)
    after = {f"{part:.0%}": float(resident[count <= part * count[-1]][-1]) for part in PARTS}
    return {**after, "highest": float(resident.max()), "rise": float(slope * 1e6)}


def write_page(result: dict[str, Any], folder: Path) -> None:
    """Write `stream-memory.md` and its picture."""
    draw(result, folder / "stream-memory.png")
    rows = [
        [STREAMS[name], *(f"{value:.0f}" for value in growth(found, result["batch_size"]).values())]
        for name, found in result["streams"].items()
    ]
    titles = [*(f"after {part:.0%}, MB" for part in PARTS), "highest, MB", "rise, bytes per image"]
    versions = {name: result["versions"][name] for name in ("torch", "transformers")}
    named = ", ".join(f"{name} {number}" for name, number in (versions | result["engine_version"]).items())
    text = [
        "# Memory over a long stream",
        f"Written by `python benchmarks/stream_memory.py` on {result['date']}, with {named}; batches of"
        f" {result['batch_size']}, threads: {result['threads']}.",
        f"{result['num_images']:,} images of CIFAR-10 through a DINOv2-S at 70 px on the engine"
        f" `{result['engine']}`, decoded one by one; all came out again. `classify_stream` has them at"
        " different lambdas in turn, the pipeline at the model's own, from a generator. Resident memory is"
        f" looked at every {EVERY} images, in MB of a million bytes, files included; the rise is that of a"
        " line through the second half, up to where the last images have gone in.",
        "Memory rises where an engine prepares: when a part is first needed, and for batches of sizes that it"
        " has not seen. The last batches of a stream are of such sizes once more.",
        markdown_table(["through", *titles], rows),
        "![Resident memory over images](stream-memory.png)",
    ]
    (folder / "stream-memory.md").write_text("\n\n".join(text) + "\n", encoding="utf-8")


def draw(result: dict[str, Any], path: Path) -> None:
    """Draw resident memory over images."""
    figure = Figure(figsize=(7, 3.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for (name, found), color in zip(result["streams"].items(), ("#0072B2", "#D55E00"), strict=True):
        axes.plot(
            [int(count) for count in found], [*found.values()], color=color, label=STREAMS[name].strip("`")
        )
    axes.set_ylim(bottom=0)
    axes.set_xlabel("images that have come out")
    axes.set_ylabel("resident memory, MB")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    figure.savefig(path, dpi=150)


def measure_all(arguments: argparse.Namespace) -> None:
    """Run all streams at once, and keep what was found."""
    with ThreadPoolExecutor(len(STREAMS)) as pool:
        streams = dict(zip(STREAMS, pool.map(lambda name: run(name, arguments), STREAMS), strict=True))
    fields = {name: getattr(arguments, name) for name in ("engine", "num_images", "batch_size")}
    package = {"torch_int8": "torch"}.get(arguments.engine, arguments.engine)
    torch.set_num_threads(arguments.threads)
    engine = {package: version(package)}
    write_result("stream-memory", {**fields, "engine_version": engine, "streams": streams})


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, default=ROOT / "runs" / "dinov2-cifar10" / "model")
    parser.add_argument("--engine", default="openvino")
    parser.add_argument("--num-images", type=int, default=100_000)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--threads", type=int, default=1, help="of each of the two processes")
    parser.add_argument("--page", action="store_true", help="write the page anew from the stored results")
    parser.add_argument("--measure", choices=STREAMS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        measure(arguments)
        return
    if not arguments.page:
        measure_all(arguments)
    result = json.loads((RESULTS / "stream-memory.json").read_text())
    write_page(result, ROOT / "docs" / "results")


if __name__ == "__main__":
    main()
