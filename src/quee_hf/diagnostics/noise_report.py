"""A noise profile as a table and as a picture. The figure is an object of its own: no global state."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from quee_hf.plots import scale_as_cosine
from quee_hf.tables import markdown_table

COSINES = {"token_cosine": "tokens", "class_cosine": "class token", "mean_patch_cosine": "mean patch"}
# Title, vertical axis, and lines, of each panel.
_PANELS: tuple[tuple[str, str, Mapping[str, str]], ...] = (
    ("Noise over signal", "mean |q − h|² / mean |h|²", {"noise_ratio": "noise"}),
    (
        "What each block changes, and the noise after it",
        "mean squared length per image",
        {"evolution": "change, |h − h before|²", "noise": "noise, |q − h|²"},
    ),
    ("Information over noise (INR)", "mean of |h − h before|² / |q − h|²", {"inr": "INR"}),
    ("Quantized beside full precision", "cosine similarity", COSINES),
    ("Largest activation in full precision", "magnitude", {"largest": "largest"}),
    ("Tails of activations in full precision", "kurtosis (3 if normal)", {"kurtosis": "kurtosis"}),
)
_COLORS, _MARKERS = ("#0072B2", "#D55E00", "#009E73"), ("o", "s", "^")  # as in the other pictures
_BAND_COLOR = "#F3D9E8"
_DOTS_PER_INCH = 150
_LEAST = 1e-6  # cosines are known to six decimals
_LEAST_RANGE, _LONG_RANGE = 6.0, 200.0  # of a logarithmic axis, as factors

Row = Mapping[str, Any]


def noise_table(profile: Mapping[str, Any], against: Mapping[int, Sequence[str]]) -> str:
    """Return a profile as a Markdown table with a row for each block.

    Args:
        profile: As `measure_noise` returns it.
        against: As `objections` returns them.
    """
    titles = ["block", "noise / signal", "over its neighbours'", "INR", "against an exit",
              *(f"cosine, {name}" for name in COSINES.values()),
              "largest magnitude", "over the blocks' median", "kurtosis"]  # fmt: skip
    rows = [
        [
            str(row["block"]),
            *(number_text(row[name]) for name in ("noise_ratio", "noise_jump", "inr")),
            ", ".join(against[row["block"]]),
            *(f"{row[name]:.4f}" for name in COSINES),
            *(number_text(row[name]) for name in ("largest", "largest_ratio", "kurtosis")),
        ]
        for row in profile["blocks"]
    ]
    return markdown_table(titles, rows)


def number_text(value: float | None) -> str:
    """Write a number with three digits; what is infinite or unknown as a dash.

    Example:
        >>> number_text(0.012345), number_text(1234.5), number_text(None)
        ('0.0123', '1230', '-')
    """
    return "-" if value is None else f"{float(f'{value:.3g}'):.15g}"


def plot_noise(
    profile: Mapping[str, Any], against: Mapping[int, Sequence[str]], path: str | Path, title: str
) -> None:
    """Draw noise, INR, cosines and outliers over the blocks; a band marks a block that no exit should follow.

    What is infinite, or 0 on a logarithmic axis, is left out.

    Args:
        profile: As `measure_noise` returns it.
        against: As `objections` returns them.
        path: File to write; its suffix decides the format.
        title: Above the picture.
    """
    figure = Figure(figsize=(13.0, 7.2), layout="constrained")
    FigureCanvasAgg(figure)
    rows, panels = profile["blocks"], list(figure.subplots(2, 3).flat)
    spoilt = [block for block, reasons in against.items() if reasons]
    for axes, (heading, unit, lines) in zip(panels, _PANELS, strict=True):
        axes.set_title(heading, fontsize=10)
        axes.set_ylabel(unit)
        axes.set_xlabel("block")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axes.grid(visible=True, color="0.88")
        for block in spoilt:
            axes.axvspan(block - 0.5, block + 0.5, color=_BAND_COLOR, linewidth=0)
        is_cosine = lines is COSINES
        _draw_lines(axes, rows, lines, shown=_distance if is_cosine else _positive)
        axes.set_xlim(0.5, len(rows) + 0.5)
        if axes.get_lines():
            (scale_as_cosine if is_cosine else _scale_as_logarithm)(axes)
        if len(axes.get_lines()) > 1:
            axes.legend(fontsize=8)
    panels[0].yaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{100 * share:g}%"))
    if spoilt:
        band = Patch(color=_BAND_COLOR, label="no exit should follow this block")
        figure.legend(handles=[band], loc="outside lower center", frameon=False, fontsize=9)
    figure.suptitle(title, parse_math=False)
    figure.savefig(path, dpi=_DOTS_PER_INCH)


def _draw_lines(
    axes: Axes, rows: Sequence[Row], lines: Mapping[str, str], shown: Callable[[float], float | None]
) -> None:
    """Draw one line for each name, of what can be shown."""
    for (name, label), color, marker in zip(lines.items(), _COLORS, _MARKERS, strict=False):
        found = [(row["block"], None if row[name] is None else shown(row[name])) for row in rows]
        points = [(block, value) for block, value in found if value is not None]
        if points:
            axes.plot(*zip(*points, strict=True), color=color, marker=marker, markersize=4, label=label)


def _distance(cosine: float) -> float:
    return max(_LEAST, 1 - cosine)


def _positive(value: float) -> float | None:
    return value if value > 0 else None


def _scale_as_logarithm(axes: Axes) -> None:
    """Make the axis logarithmic, and so long that at least two ticks are on it."""
    values = [float(value) for line in axes.get_lines() for value in np.asarray(line.get_ydata())]
    low, high = min(values), max(values)
    # Any range of a factor 5 holds two numbers of 1, 2, 5, 10, 20, ...
    widening = max((high / low) ** 0.06, (_LEAST_RANGE * low / high) ** 0.5)
    axes.set_yscale("log")
    axes.set_ylim(low / widening, high * widening)
    axes.yaxis.set_minor_locator(NullLocator())
    if high / low < _LONG_RANGE:
        axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
