"""Times of contenders as numbers, as cells of tables and as pictures; for `speed.py` and `gpu.py`."""

import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from quee_hf.intervals import wilson_interval

Spread = dict[str, float]
OURS, THEIRS, MARKED = "#D55E00", "#56B4E9", "#0072B2"  # Okabe and Ito


def quartiles(values: Sequence[float]) -> Spread:
    """Median and quartiles."""
    if len(values) < 2:
        return dict.fromkeys(("median", "low", "high"), values[0])
    low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    return {"median": median, "low": low, "high": high}


def ratios(times: Sequence[float], others: Sequence[float]) -> Spread:
    """Speed relative to another's, round by round, from the times of both."""
    return quartiles([other / time for time, other in zip(times, others, strict=True)])


def mean_times(visits: Mapping[str, Sequence[dict[str, Any]]]) -> dict[str, list[float]]:
    """Milliseconds of a batch, one number for each visit."""
    return {name: [visit["mean_ms"] for visit in those] for name, those in visits.items()}


def speed_rows(
    batch_size: int, visits: Mapping[str, Sequence[dict[str, Any]]], references: Mapping[str, str | None]
) -> dict[str, Any]:
    """Reduce visits to medians and quartiles.

    Args:
        batch_size: Images of a batch.
        visits: Of each contender.
        references: Name of a ratio to the contender that it refers to; one that did not run gives none.
    """
    times, rows = mean_times(visits), {}
    for name, values in times.items():
        rows[name] = {
            "images_per_second": quartiles([1e3 * batch_size / value for value in values]),
            "latency_ms": quartiles([visit["median_ms"] for visit in visits[name]]),
            "batches_per_visit": statistics.median(visit["num_batches"] for visit in visits[name]),
            **{key: ratios(values, times[other]) for key, other in references.items() if other in times},
        }
    return rows


def summarize_batches(
    parts: Mapping[int, dict[str, Any]], summarize: Callable[[int, dict[str, Any]], dict[str, Any]]
) -> dict[str, Any]:
    """Put together what was measured of a size at all batch sizes, each reduced by `summarize`."""
    accuracy: dict[str, Any] = {}
    for part in parts.values():
        accuracy |= part["accuracy"]
    labels = {name: label for part in parts.values() for name, label in part["labels"].items()}
    batches = {str(size): summarize(size, part) for size, part in parts.items()}
    return {"labels": labels, "batches": batches, "accuracy": accuracy}


def accuracy_entry(
    logits: NDArray[np.float64], reference: NDArray[np.float64], labels: NDArray[np.int64]
) -> dict[str, Any]:
    """Compare classes with labels, and logits with those of another contender."""
    classes, count = logits.argmax(axis=1), len(labels)
    correct = int((classes == labels).sum())
    return {
        "num_images": count,
        "accuracy": correct / count,
        "accuracy_interval": wilson_interval(correct, count),
        "same_class": float((classes == reference.argmax(axis=1)).mean()),
        "logit_error": float(np.linalg.norm(logits - reference) / np.linalg.norm(reference)),
    }


def cells(batches: Mapping[str, Any], name: str, field: str) -> list[str]:
    """One cell for each batch size; what did not run says why."""
    found = []
    for batch in batches.values():
        if name in batch["not_run"]:
            reason = batch["not_run"][name].replace("|", "/")
            found.append(f"not run: {reason}")
        else:
            found.append(_spread(batch["rows"].get(name, {}).get(field)))
    return found


def _spread(values: Spread | None) -> str:
    if values is None:
        return "–"
    median, low, high = (_number(values[name]) for name in ("median", "low", "high"))
    return f"{median} ({low} to {high})"


def _number(value: float) -> str:
    """Three digits, or all before the point."""
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def quality(size: dict[str, Any], name: str, has_labels: bool) -> str:
    """One cell: accuracy, or without labels how far logits are from Hugging Face's in float32."""
    if name not in size["accuracy"]:
        return "–"
    entry = size["accuracy"][name]
    if not has_labels:
        return f"{entry['logit_error']:.2%}"
    low, high = entry["accuracy_interval"]
    return f"{100 * entry['accuracy']:.2f} ({100 * low:.2f} to {100 * high:.2f})"


def about_quality(size: dict[str, Any], has_labels: bool, batch_size: int) -> str:
    """Say what the cells of `quality` are, and at which batch size they were found."""
    count = next((entry["num_images"] for entry in size["accuracy"].values()), 0)
    if has_labels:
        return f"Accuracy on {count} test images, at batch {batch_size}."
    return (
        f"Weights are random, so there is no accuracy: by this share of their norm logits of {count} images"
        " differ from those of Hugging Face float32."
    )


def draw_ratios(
    sizes: Sequence[dict[str, Any]],
    path: Path,
    *,
    field: str,
    title: str,
    marked: Callable[[dict[str, Any]], str | None],
) -> None:
    """Draw ratios: a row for each size, a panel for each batch size.

    Args:
        sizes: As `summarize_batches` gives them, with titles.
        path: Of the picture.
        field: Of the rows, what is drawn.
        title: Below the picture.
        marked: Returns the contender whose ratio is a dashed line in a batch size's panel.
    """
    heights = [len(size["labels"]) + 3 for size in sizes]
    columns = max(len(size["batches"]) for size in sizes)
    figure = Figure(figsize=(4 + 3 * columns, 0.24 * sum(heights) + 0.4), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(len(sizes), columns, squeeze=False, sharex=True, height_ratios=heights)
    for row, size in zip(panels, sizes, strict=True):
        for axes, (batch_size, batch) in zip(row, size["batches"].items(), strict=False):
            _draw_panel(axes, size["labels"], batch, field)
            line = batch["rows"].get(marked(batch) or "", {}).get(field)
            if line is not None:
                axes.axvline(line["median"], color=MARKED, linestyle="--", linewidth=1)
            axes.set_title(
                f"{size['title']}\nbatch {batch_size}" if axes is row[0] else f"batch {batch_size}"
            )
            axes.title.set_size(10)
            if axes is not row[0]:
                axes.tick_params(labelleft=False)
    figure.supxlabel(title, fontsize=10)
    figure.savefig(path, dpi=150)


def _draw_panel(axes: Axes, labels: Mapping[str, str], batch: dict[str, Any], field: str) -> None:
    for position, name in enumerate(labels):
        color = OURS if name.startswith("quee-") else MARKED if name.startswith("nncf-") else THEIRS
        value = batch["rows"].get(name, {}).get(field)
        if value is None:
            text = " not run" if name in batch["not_run"] else ""
            axes.text(0.02, position, text, transform=axes.get_yaxis_transform(), va="center", fontsize=8)
            continue
        axes.barh(position, value["median"], color=color, height=0.7)
        axes.plot([value["low"], value["high"]], [position, position], color="black", linewidth=1.2)
        axes.text(value["high"], position, f"  {value['median']:.2f}", va="center", fontsize=8)
    axes.set_yticks(range(len(labels)), list(labels.values()), fontsize=9)
    axes.set_ylim(len(labels) - 0.4, -0.6)  # from top to bottom
    axes.margins(x=0.15)
    axes.grid(visible=True, axis="x", color="0.9")
    axes.set_axisbelow(True)
