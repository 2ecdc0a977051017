"""A picture of what quantization does to a model. The figure is an object of its own: no global state."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from quee_hf.plots import scale_as_cosine

_DOTS_PER_INCH = 150
_MARKERS = ("o", "s", "^", "v", "D", "P", "X")
_FLOAT_COLOR = "#D55E00"
_LEAST = 1e-6  # cosines are known to six decimals

Row = Mapping[str, Any]


def plot_quantization(report: Mapping[str, Any], path: str | Path, title: str) -> None:
    """Draw SQNR of weights and of activations and the cosine of outputs per block, and accuracy per level.

    Args:
        report: As `describe_quantization` returns it. If all its `by_level` rows have an `accuracy` and an
            `accuracy_interval`, these are drawn, too, and the accuracy in `float_accuracy`, if that is there.
        path: File to write; its suffix decides the format.
        title: Above the picture.
    """
    rows = report["by_level"]
    is_measured = all("accuracy" in row for row in rows)
    shape, size = ((2, 2), (9.5, 7.0)) if is_measured else ((1, 3), (13.0, 3.9))
    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    panels = list(figure.subplots(*shape).flat)
    levels = [row["level"] for row in rows]
    _draw_blocks(panels[0], levels, lambda level: _decibels(report, level, {"weight"}))
    _draw_blocks(panels[1], levels, lambda level: _decibels(report, level, {"input", "left", "right"}))
    _draw_blocks(panels[2], levels, lambda level: _distances(report, level))
    for axes, heading in zip(panels, ("weights", "activations"), strict=False):
        axes.set_title(f"Signal to noise of {heading}", fontsize=10)
        axes.set_ylabel("mean SQNR over products, dB")
    _label_cosines(panels[2])
    if is_measured:
        _draw_accuracy(panels[3], rows, report.get("float_accuracy"))
    figure.suptitle(title, parse_math=False)
    figure.legend(handles=panels[0].get_lines(), loc="outside right upper", frameon=False, fontsize=9)
    figure.savefig(path, dpi=_DOTS_PER_INCH)


def _draw_blocks(
    axes: Axes, levels: Sequence[int], values_at: Callable[[int], tuple[list[int], list[float]]]
) -> None:
    """Draw one line per level over the blocks."""
    for position, level in enumerate(levels):
        blocks, values = values_at(level)
        marker = _MARKERS[position % len(_MARKERS)]
        axes.plot(blocks, values, color=_color(position, len(levels)), marker=marker, markersize=4,
                  label=f"{level} bits")  # fmt: skip
    axes.set_xlabel("block")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.grid(visible=True, color="0.88")


def _color(position: int, count: int) -> Any:
    return mpl.colormaps["viridis"](0.1 + 0.75 * position / max(1, count - 1))


def _decibels(report: Mapping[str, Any], level: int, tensors: set[str]) -> tuple[list[int], list[float]]:
    """Return blocks and their mean SQNR; blocks that lose nothing are left out."""
    found: dict[int, list[float]] = {}
    for row in report["rounding"]:
        if row["level"] == level and row["tensor"] in tensors and row["sqnr_db"] is not None:
            found.setdefault(row["block"], []).append(row["sqnr_db"])
    return list(found), [fmean(values) for values in found.values()]


def _distances(report: Mapping[str, Any], level: int) -> tuple[list[int], list[float]]:
    rows = [row for row in report["hidden"] if row["level"] == level]
    return [row["block"] for row in rows], [max(_LEAST, 1 - row["cosine"]) for row in rows]


def _label_cosines(axes: Axes) -> None:
    axes.set_title("Output of each block beside full precision", fontsize=10)
    axes.set_ylabel("cosine similarity")
    scale_as_cosine(axes)


def _draw_accuracy(axes: Axes, rows: Sequence[Row], exact: Row | None) -> None:
    places = range(len(rows))
    for position, row in enumerate(rows):
        low, high = row["accuracy_interval"]
        reach = [[max(0.0, row["accuracy"] - low)], [max(0.0, high - row["accuracy"])]]
        axes.errorbar([position], [row["accuracy"]], yerr=reach, color=_color(position, len(rows)), capsize=4,
                      marker=_MARKERS[position % len(_MARKERS)], markersize=5)  # fmt: skip
    heading = "Accuracy, 95 % intervals"
    if exact is not None:
        heading += f"; dashed: {exact['accuracy']:.1%} in float32"
        axes.axhline(exact["accuracy"], color=_FLOAT_COLOR, linestyle="--", linewidth=1.2)
    axes.set_title(heading, fontsize=10)
    axes.set_xticks(list(places), [str(row["level"]) for row in rows])
    axes.set_xlim(-0.5, len(rows) - 0.5)
    axes.set_xlabel("bits")
    axes.set_ylabel("accuracy")
    axes.yaxis.set_major_formatter(PercentFormatter(xmax=1))
    axes.grid(visible=True, axis="y", color="0.88")
