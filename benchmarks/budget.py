"""Whether `BudgetController` holds budgets on streams of real images that become noised, dark and blurred.

Run: `python benchmarks/budget.py RUN [BY_TIME]`, where `quee build` has made RUN, and BY_TIME is its model
that routes by time (`by_time.py`). The images are those that the build kept for operating points. Batches are
replayed from the outputs of all paths, which gives the routes of `model(...)`; streams run the network.
Writes `benchmarks/results/budget.json`, `docs/results/budget.md` and `docs/results/budget.png`.
"""

import argparse
import json
import os
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from _shifted import SHIFTS, pixels_of
from _timing import RESULTS, write_result
from by_time import rows_of
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from transformers import AutoImageProcessor

from quee_hf import BudgetController, QuEEForImageClassification
from quee_hf.data import LabelledImages, load_image_dataset
from quee_hf.data.roles import OPERATING_POINTS
from quee_hf.execution.operating_points import lambda_within
from quee_hf.execution.path_outputs import PathOutputs, collect_path_outputs, replay
from quee_hf.routing.ledger import TOLERANCE
from quee_hf.tables import markdown_table

ROOT = Path(__file__).parents[1]
ASSETS = Path(os.environ.get("QUEE_ASSETS", ROOT.parent / "shared" / "assets"))
PHASE = 2000  # images of a kind
ORDER = ("clean", "noised", "darkened", "blurred", "clean")
BUDGETS = (0.35, 0.5, 0.65)
BATCH_SIZES = (8, 32, 256, None)  # the last is `classify_stream`
HARDEST_BATCH_SIZES = (1, 8, 32, 256)
SHOWN = (0.5, 32)  # budget and batch size of the picture
STREAM_BATCH = 32
SETTLED = 1000  # images before the mean is judged
_LINES = ("#0072B2", "#D55E00", "#009E73")  # Okabe and Ito


def drifting(num_images: int) -> NDArray[np.int64]:
    """Return which images follow each other: drawn with replacement, a phase of each kind after the other."""
    random, kinds = np.random.default_rng(0), list(SHIFTS)
    phases = [kinds.index(kind) * num_images + random.integers(0, num_images, PHASE) for kind in ORDER]
    return np.concatenate(phases)


def hardest_first(model: Any, outputs: PathOutputs, num_images: int) -> NDArray[np.int64]:
    """Return clean images, drawn with replacement, in the order of their cost at one lambda."""
    drawn = np.random.default_rng(0).integers(0, num_images, 3 * PHASE)
    costs = model.router.costs.numpy()[replay(model, outputs, 0.1).node.numpy()]
    return drawn[np.argsort(-costs[drawn], kind="stable")]


class Stream(NamedTuple):
    """Images of all kinds, what the model's paths say of them, and in which order they come."""

    outputs: PathOutputs
    pixels: torch.Tensor
    rows: NDArray[np.int64]

    def in_order(self, rows: NDArray[np.int64]) -> "Stream":
        """Return the same images in another order."""
        return self._replace(rows=rows)


def replayed(model: Any, stream: Stream, cost_lambda: Any, batch_size: int) -> dict[str, Any]:
    """Return each image's cost and lambda in batches, and the accuracy."""
    costs, lambdas, right = [], [], []
    for start in range(0, len(stream.rows), batch_size):
        batch = stream.outputs.select(torch.from_numpy(stream.rows[start : start + batch_size]))
        is_fixed = isinstance(cost_lambda, float)
        value = cost_lambda if is_fixed else cost_lambda.next_lambda(len(batch))
        routes = replay(model, batch, value)
        costs.append(model.router.costs.numpy()[routes.node.numpy()])
        if not is_fixed:
            cost_lambda.settle(value, costs[-1])
        lambdas.append(np.full(len(batch), value))
        right.append((routes.logits.argmax(dim=1) == batch.labels).numpy())
    return _followed(*(np.concatenate(each).astype(float) for each in (costs, lambdas, right)))


def streamed(model: Any, stream: Stream, cost_lambda: Any) -> dict[str, Any]:
    """Return the same of `classify_stream`, which runs the network."""
    batches = (
        stream.pixels[torch.from_numpy(rows)] for rows in np.split(stream.rows, len(stream.rows) // 50)
    )
    names, found = ("cost", "cost_lambda", "logits"), []
    for output in model.classify_stream(batches, cost_lambda=cost_lambda, batch_size=STREAM_BATCH):
        found.append([output[name] for name in names])
    costs, lambdas, logits = (torch.cat(each) for each in zip(*found, strict=True))
    right = logits.argmax(dim=1) == stream.outputs.labels[torch.from_numpy(stream.rows)]
    return _followed(*(each.double().numpy() for each in (costs, lambdas, right)))


def _followed(costs: Any, lambdas: Any, right: Any) -> dict[str, Any]:
    return {"costs": costs, "lambdas": lambdas, "accuracy": float(right.mean())}


def describe(
    followed: dict[str, Any], budget: float, unit: tuple[float, float] = (0.0, 1.0)
) -> dict[str, Any]:
    """Say how far the running mean was from the budget; a unit is an offset and a scale."""
    mean = np.cumsum(unit[0] + unit[1] * followed["costs"]) / np.arange(1, len(followed["costs"]) + 1)
    deviation = mean / budget - 1
    outside = np.abs(deviation[SETTLED:]) > TOLERANCE
    return {
        "budget": budget,
        "mean": float(mean[-1]),
        "deviation": float(deviation[-1]),
        "largest": float(deviation[SETTLED:][np.abs(deviation[SETTLED:]).argmax()]),
        "outside": float(outside.mean()),
        "accuracy": followed["accuracy"],
        "lambda_range": [float(value) for value in np.quantile(followed["lambdas"], (0.05, 0.95))],
    }


def measure(
    model: Any, stream: Stream, budgets: tuple[float, ...], batch_sizes: tuple[int | None, ...]
) -> list[dict[str, Any]]:
    """Hold budgets with batches of several sizes; `None` stands for the stream."""
    rows = []
    for budget in budgets:
        for batch_size in batch_sizes:
            controller = BudgetController.for_model(model, target_cost=budget)
            if batch_size is None:
                followed = streamed(model, stream, controller)
            else:
                followed = replayed(model, stream, controller, batch_size)
            row = {"batch_size": batch_size, **describe(followed, budget)}
            print(row, flush=True)
            rows.append({**row, "followed": followed})
    return rows


def fixed(model: Any, stream: Stream, budgets: tuple[float, ...]) -> list[dict[str, Any]]:
    """Follow the lambda that `target_cost` takes, which does not move."""
    rows = []
    for budget in budgets:
        followed = replayed(model, stream, lambda_within(model, target_cost=budget), 32)
        rows.append({"batch_size": 32, **describe(followed, budget), "followed": followed})
    return rows


def by_time(source: Path, engine: str, stream: Stream) -> list[dict[str, Any]]:
    """Hold a budget in milliseconds."""
    model = QuEEForImageClassification.from_pretrained(source).eval()
    model.set_engine(engine)
    budget = round(float(np.median([point["latency_ms"] for point in model.config.operating_points])), 3)
    profile = model.config.profile
    embedding = profile["embedding"][profile["batch_sizes"].index(profile["batch_size"])][0]
    unit = embedding, sum(max(row) for row in model.cost_table)
    rows = []
    for batch_size in (32, None):
        controller = BudgetController.for_model(model, target_latency_ms=budget)
        followed = (
            streamed(model, stream, controller)
            if batch_size is None
            else replayed(model, stream, controller, batch_size)
        )
        rows.append({"batch_size": batch_size, **describe(followed, budget, unit)})
        print(rows[-1], flush=True)
    return rows


def collect(model: Any, images: LabelledImages, processor: Any, cache: Path | None) -> Stream:
    """Run every path on images of every kind, or read what an earlier call left."""
    labels, outputs, pixels = torch.from_numpy(np.array(images.labels)), [], []
    for kind, shift in SHIFTS.items():
        pixels.append(pixels_of(images, processor, shift))
        file = None if cache is None else cache / f"{kind}.safetensors"
        if file is not None and file.exists():
            outputs.append(load_file(file))
            continue
        items = [{"pixel_values": each, "labels": 0} for each in pixels[-1]]
        found = collect_path_outputs(model.network, items, batch_size=STREAM_BATCH)
        outputs.append({"logits": found.logits, "variance": found.variance})
        if file is not None:
            save_file(outputs[-1], file)
    joined = (torch.cat([each[name] for each in outputs]) for name in ("logits", "variance"))
    return Stream(
        PathOutputs(*joined, labels.repeat(len(SHIFTS))), torch.cat(pixels), np.arange(0, dtype=np.int64)
    )


def draw(path: Path, held: dict[str, Any], still: dict[str, Any], budget: float) -> None:
    """Draw the running mean cost and lambda over a stream."""
    figure = Figure(figsize=(9, 5.5), layout="constrained")
    FigureCanvasAgg(figure)
    upper, lower = figure.subplots(2, 1, sharex=True)
    for color, name, followed in ((_LINES[1], "fixed lambda", still), (_LINES[0], "BudgetController", held)):
        n = np.arange(1, len(followed["costs"]) + 1)
        upper.plot(
            n, np.cumsum(followed["costs"]) / n, color=color, label=f"{name}: mean of all images so far"
        )
        window = np.convolve(followed["costs"], np.full(200, 1 / 200), mode="valid")
        upper.plot(
            n[199:], window, color=color, alpha=0.3, linewidth=1, label=f"{name}: mean of the last 200"
        )
        lower.plot(n, followed["lambdas"], color=color, linewidth=0.8)
    upper.axhspan(
        budget * (1 - TOLERANCE), budget * (1 + TOLERANCE), color="0.8", label=f"budget ± {TOLERANCE:.0%}"
    )
    upper.set_ylabel("cost")
    upper.set_ylim(0.3, 1.0)
    lower.set_ylabel("lambda")
    lower.set_yscale("log")
    lower.set_xlabel("images")
    for number, kind in enumerate(ORDER):
        for axes in (upper, lower):
            axes.axvline(number * PHASE, color="0.7", linewidth=0.8)
        upper.text((number + 0.5) * PHASE, 0.97, kind, ha="center", va="top")
    upper.set_xlim(0, len(ORDER) * PHASE)
    figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    figure.savefig(path, dpi=150)


def write_page(result: dict[str, Any], path: Path) -> None:
    shown, batch_size = SHOWN
    text = [
        "# Budgets on streams that drift",
        f"Written by `python benchmarks/budget.py` on {result['date']}, with torch"
        f" {result['versions']['torch']}.",
        f"DINOv2-S at 70 px on CIFAR-10, engine `{result['engine']}`. The stream: {PHASE} images of each of"
        f" {', '.join(ORDER)}, drawn with replacement from the {result['num_images']} validation images of"
        f" the model's operating points; *hardest first* are {3 * PHASE} clean ones in the order of their"
        " cost. *Largest* is how far the mean of all images so far was from the budget at its worst, from"
        f" image {SETTLED} on; *outside* for how many of these images it was more than {TOLERANCE:.0%} off; λ"
        " is where 90 % of the images were. Batches are those of `model(...)`, *stream* is"
        f" `model.classify_stream` with batches of {STREAM_BATCH}, where images wait for others that fill up"
        " their batches.",
        "A shift cannot be answered before images that show it have left the network: what is on its way then"
        " costs what it costs. So the mean of all takes longer to be back with batches of 256 and in the"
        " stream. What was owed is paid back.",
        f"![Cost and lambda over a stream, budget {shown}, batches of {batch_size}](budget.png)",
        "## Drift",
        markdown_table(_TITLES, [_cells(row) for row in result["drift"]]),
        "The λ that `target_cost` takes on validation images, and that stays:",
        markdown_table(_TITLES, [_cells(row) for row in result["fixed"]]),
        "## Hardest first",
        markdown_table(_TITLES, [_cells(row) for row in result["hardest_first"]]),
    ]
    if result["by_time"]:
        text += [
            "## In milliseconds",
            "The same stream, with costs by measured time.",
            markdown_table(["ms", *_TITLES[1:]], [_cells(row) for row in result["by_time"]]),
        ]
    path.write_text("\n\n".join(text) + "\n", encoding="utf-8")


_TITLES = ["budget", "batch size", "mean", "off, %", "largest, %", "outside, %", "accuracy, %", "λ"]


def _cells(row: dict[str, Any]) -> list[str]:
    low, high = row["lambda_range"]
    return [
        f"{row['budget']:g}",
        str(row["batch_size"] or "stream"),
        f"{row['mean']:.4f}",
        *(f"{100 * row[name]:+.2f}" for name in ("deviation", "largest")),
        f"{100 * row['outside']:.1f}",
        f"{100 * row['accuracy']:.1f}",
        f"{low:.3f}" if low == high else f"{low:.3f} to {high:.3f}",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path)
    parser.add_argument("by_time", type=Path, nargs="?")
    parser.add_argument("--engine", default="openvino")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--cache", type=Path, help="folder for the outputs of all paths")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    model = QuEEForImageClassification.from_pretrained(arguments.run / "model").eval()
    model.set_engine(arguments.engine)
    processor = AutoImageProcessor.from_pretrained(arguments.run / "model", backend="pil")
    validation = load_image_dataset(str(ASSETS / "cifar10" / "validation.parquet"))
    images = validation.select(rows_of(arguments.run, OPERATING_POINTS))
    stream = collect(model, images, processor, arguments.cache)
    drift, hard = drifting(len(images)), hardest_first(model, stream.outputs, len(images))
    result: dict[str, Any] = {
        "engine": model.engine,
        "num_images": len(images),
        "drift": measure(model, stream.in_order(drift), BUDGETS, BATCH_SIZES),
        "fixed": fixed(model, stream.in_order(drift), BUDGETS),
        "hardest_first": measure(model, stream.in_order(hard), (SHOWN[0],), HARDEST_BATCH_SIZES),
        "by_time": [],
    }
    if arguments.by_time is not None:
        result["by_time"] = by_time(arguments.by_time, arguments.engine, stream.in_order(drift))
    held, still = (
        next(row["followed"] for row in result[name] if (row["budget"], row["batch_size"]) == SHOWN)
        for name in ("drift", "fixed")
    )
    for name in ("drift", "fixed", "hardest_first"):
        for row in result[name]:
            row.pop("followed")
    draw(ROOT / "docs" / "results" / "budget.png", held, still, SHOWN[0])
    write_result("budget", result)
    write_page(json.loads((RESULTS / "budget.json").read_text()), ROOT / "docs" / "results" / "budget.md")


if __name__ == "__main__":
    main()
