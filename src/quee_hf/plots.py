"""Pictures for reports and model cards. Figures are objects of their own: no global matplotlib state."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import matplotlib as mpl
import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.container import Container
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator
from numpy.typing import ArrayLike
from PIL import Image

from quee_hf.images import to_rgb

Curve = tuple[ArrayLike, ArrayLike, tuple[ArrayLike, ArrayLike] | None]
Captioned = tuple[Image.Image, Sequence[str]]

# Okabe and Ito's colours without yellow, which is too light for a line: distinct for colour-blind readers.
_COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_LINE_MARKERS = ("o", "s", "^", "v", "P", "X")
_POINT_MARKERS = ("D", "h", "<", "p", ">", "8")
_DOTS_PER_INCH = 150
# The sheet of images, in inches.
_CELL, _MARGIN, _HEADING, _LINE = 1.6, 0.12, 0.42, 0.15
_FEW_PIXELS = 128  # images narrower than this are enlarged without smoothing


def plot_accuracy_cost(
    curves: Mapping[str, Curve], points: Mapping[str, tuple[float, float]], path: str | Path, title: str
) -> None:
    """Write what `accuracy_cost_figure` draws to a file; its suffix decides the format."""
    _save(accuracy_cost_figure(curves, points, title), path)


def accuracy_cost_figure(
    curves: Mapping[str, Curve], points: Mapping[str, tuple[float, float]], title: str
) -> Figure:
    """Draw accuracy over cost, with intervals where there are any, and single models as points.

    Args:
        curves: Name to costs, accuracies, and the lower and upper ends of their intervals or None; all from 0
            to 1.
        points: Name to cost and accuracy.
        title: Above the picture.
    """
    figure = _new_figure(7.5, 4.5, layout="constrained")
    axes = figure.add_subplot()
    for position, (name, (costs, accuracies, interval)) in enumerate(curves.items()):
        color, marker = _pick(_COLORS, position), _pick(_LINE_MARKERS, position)
        order = np.argsort(costs, kind="stable")
        x = np.asarray(costs)[order]
        axes.plot(x, np.asarray(accuracies)[order], color=color, marker=marker, markersize=4, label=name)
        if interval is not None:
            low, high = (np.asarray(end)[order] for end in interval)
            axes.fill_between(x, low, high, color=color, alpha=0.18, linewidth=0)
    for position, (name, (cost, accuracy)) in enumerate(points.items()):
        color, marker = _pick(_COLORS, len(curves) + position), _pick(_POINT_MARKERS, position)
        axes.plot(
            [cost], [accuracy], color=color, marker=marker, markersize=9, linestyle="none", label=name,
            markeredgecolor="black", markeredgewidth=0.8, zorder=3,
        )  # fmt: skip
    axes.set_title(title, parse_math=False)
    axes.set_xlabel("Mean cost, relative to the full model")
    axes.set_ylabel("Accuracy")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(_percent)
    axes.grid(visible=True, color="0.88")
    _add_legend(figure, axes.get_lines())
    return figure


def plot_image_sheet(easy: Sequence[Captioned], hard: Sequence[Captioned], path: str | Path) -> None:
    """Draw a row of easy and a row of hard images, each with its lines of text below.

    Args:
        easy: Images and their captions; long lines are cut.
        hard: The same.
        path: File to write; its suffix decides the format.

    Raises:
        ValueError: If there are no images at all.
    """
    rows = [(heading, row) for heading, row in (("Easy images", easy), ("Hard images", hard)) if row]
    if not rows:
        raise ValueError("There are no images to draw.")
    width = _MARGIN + _CELL * max(2, *(len(row) for _, row in rows))
    heights = [_HEADING + _CELL + _LINE * max(len(lines) for _, lines in row) + _MARGIN for _, row in rows]
    figure = _new_figure(width, sum(heights))
    top = sum(heights)
    for (heading, row), height in zip(rows, heights, strict=True):
        figure.text(
            _MARGIN / width, (top - _MARGIN) / sum(heights), heading, weight="bold", size=11, va="top"
        )
        for position, (image, lines) in enumerate(row):
            _draw_cell(figure, image, lines, left=_MARGIN + _CELL * position, top=top - _HEADING)
        top -= height
    _save(figure, path)


def plot_shares(
    names: Sequence[str], shares: ArrayLike, parts: Sequence[str], path: str | Path, title: str
) -> None:
    """Draw, for every name, how it is divided into parts, as a column.

    Args:
        names: One for each column.
        shares: `(names, parts)`, each row sums to 1.
        parts: What the shares are of.
        path: File to write; its suffix decides the format.
        title: Above the picture.

    Raises:
        ValueError: If the shape of `shares` does not fit.
    """
    heights = np.asarray(shares, dtype=np.float64)
    if heights.shape != (len(names), len(parts)) or not heights.size:
        raise ValueError(f"Expected shares of {len(names)} names x {len(parts)} parts, got {heights.shape}.")
    figure = _new_figure(7.5, 4.5, layout="constrained")
    axes = figure.add_subplot()
    colors = mpl.colormaps["viridis"](np.linspace(0.92, 0.08, len(parts)))
    columns, bottom = np.arange(len(names)), np.zeros(len(names))
    bars = []
    for position, part in enumerate(parts):
        height = heights[:, position]
        bars.append(axes.bar(columns, height, 0.92, bottom, color=colors[position], label=part))
        bottom += height
    axes.set_xticks(columns, names, rotation=90, parse_math=False)
    axes.margins(x=0.01)
    axes.set_ylim(0, 1)
    axes.yaxis.set_major_formatter(_percent)
    axes.set_title(title, parse_math=False)
    axes.set_ylabel("Share of images")
    _add_legend(figure, bars[::-1])  # from top to bottom, as in the picture
    _save(figure, path)


def plot_numbers(
    x: Sequence[float],
    y: Sequence[float],
    interval: tuple[Sequence[float], Sequence[float]],
    lines: Mapping[str, float],
    path: str | Path,
    *,
    labels: tuple[str, str],
) -> None:
    """Draw a number over another, with intervals, and others that do not depend on it as lines.

    Args:
        x: Positive; the axis is logarithmic.
        y: From 0 to 1.
        interval: Lower and upper ends.
        lines: Name to height.
        path: File to write; its suffix decides the format.
        labels: Of the two axes.
    """
    figure = _new_figure(7.5, 4.0, layout="constrained")
    axes = figure.add_subplot()
    axes.plot(x, y, color=_COLORS[0], marker="o", markersize=4)
    axes.fill_between(x, *interval, color=_COLORS[0], alpha=0.18, linewidth=0)
    for position, (name, height) in enumerate(lines.items(), start=1):
        axes.axhline(height, color=_pick(_COLORS, position), linestyle="--", label=name)
    axes.set_xscale("log")
    axes.set_xticks(x, [f"{value:g}" for value in x], minor=False)
    axes.minorticks_off()
    axes.yaxis.set_major_formatter(_percent)
    axes.set_xlabel(labels[0])
    axes.set_ylabel(labels[1])
    axes.grid(visible=True, color="0.88")
    _add_legend(figure, axes.get_lines()[1:])
    _save(figure, path)


def scale_as_cosine(axes: Axes) -> None:
    """Label distances from 1, on a logarithmic axis that grows downwards, as cosines.

    Args:
        axes: With lines of positive distances.
    """
    axes.set_yscale("log")
    distances = np.concatenate([np.asarray(line.get_ydata(), dtype=np.float64) for line in axes.get_lines()])
    # In half powers of ten, and at least two of them, so that there are ticks.
    low = math.floor(2 * math.log10(distances.min())) / 2
    high = max(low + 1, math.ceil(2 * math.log10(distances.max())) / 2)
    axes.set_ylim(10.0**high, 10.0**low)
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 3.0)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda distance, _: f"{1 - distance:.7g}"))
    axes.yaxis.set_minor_locator(NullLocator())


def _new_figure(width: float, height: float, layout: Literal["constrained"] | None = None) -> Figure:
    """Return an empty figure of this size in inches, drawn without a display."""
    figure = Figure(figsize=(width, height), layout=layout)
    FigureCanvasAgg(figure)
    return figure


def _pick(choices: Sequence[str], position: int) -> str:
    """Return one of the choices, which repeat."""
    return choices[position % len(choices)]


def _percent(share: float, _position: float) -> str:
    """Write a tick without needless decimals."""
    return f"{100 * share:.4g}%"


def _add_legend(figure: Figure, handles: Sequence[Artist | Container]) -> None:
    """Put the legend right of the axes, where no data is."""
    if handles:
        legend = figure.legend(handles=handles, loc="outside right upper", frameon=False, fontsize=9)
        for text in legend.get_texts():
            text.set_parse_math(False)


def _draw_cell(figure: Figure, image: Image.Image, lines: Sequence[str], *, left: float, top: float) -> None:
    """Draw an image and the lines below it; distances are in inches from the lower left corner."""
    width, height = figure.get_size_inches()
    side = _CELL - _MARGIN
    axes = figure.add_axes((left / width, (top - side) / height, side / width, side / height))
    axes.set_axis_off()
    axes.imshow(to_rgb(image), interpolation="nearest" if image.width < _FEW_PIXELS else "antialiased")
    for number, line in enumerate(lines):
        x, y = (left + side / 2) / width, (top - _CELL - _LINE * number) / height
        text = figure.text(x, y, line, size=7.5, ha="center", va="top", parse_math=False)
        _cut(text, side * figure.dpi)


def _cut(text: Text, width: float) -> None:
    """Drop characters from the end until the text is at most this many pixels wide."""
    line = text.get_text()
    while line and text.get_window_extent().width > width:
        line = line[:-1]
        text.set_text(f"{line}…")


def _save(figure: Figure, path: str | Path) -> None:
    """Write the picture."""
    figure.savefig(path, dpi=_DOTS_PER_INCH)
