"""Pictures of a rescue experiment: accuracy over FLOPs saved, and by exit. No global state."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

_HEADS = {"ssa": ("SSA", "#0072B2", "o"), "cls": ("CLS", "#D55E00", "s")}  # colours as in the other pictures
_STYLES = {"distilled": "-", "hard": "--"}
_REGIME_STYLES = ("-", "--", ":", "-.")
_BASELINE_COLOR = "#000000"
_WIDTH, _HEIGHT, _DOTS_PER_INCH = 5.4, 3.9, 150
_MARGIN, _MOST_LOST = 0.01, 0.12  # of accuracy: what loses more is of no use

Regimes = Mapping[str, Mapping[str, Any]]


def plot_routes(regimes: Regimes, path: Path) -> None:
    """Draw for each network what leaving early saves and how accurate it then is, beside the whole network.

    Args:
        regimes: Name to `curves`, the accuracy at each saving, and `ablation`, as `rescue.json` has them.
        path: File to write; its suffix decides the format.
    """
    columns = min(2, len(regimes))
    rows = math.ceil(len(regimes) / columns)
    figure = Figure(figsize=(_WIDTH * columns, _HEIGHT * rows + 0.7), layout="constrained")
    FigureCanvasAgg(figure)
    panels = list(figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).flat)
    for axes, (name, found) in zip(panels, regimes.items(), strict=False):
        _draw_regime(axes, found)
        axes.set_title(name, parse_math=False)
    for axes in panels[len(regimes) :]:
        axes.set_axis_off()
    lowest = _lowest_shown(regimes)
    panels[0].set_ylim(bottom=lowest)
    panels[0].set_xlim(right=_most_shown(regimes, lowest))
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    figure.savefig(path, dpi=_DOTS_PER_INCH)


def _lowest_shown(regimes: Regimes) -> float:
    """Return where the axis begins: below everything, but not far below the whole network."""
    whole = min(found["ablation"]["rows"]["baseline"]["accuracy"]["value"] for found in regimes.values())
    points = [point for found in regimes.values() for curve in found["curves"].values() for point in curve]
    lowest = min(whole, *(point["accuracy"] for point in points))
    return float(max(lowest - _MARGIN, whole - _MOST_LOST))


def _most_shown(regimes: Regimes, lowest: float) -> float:
    """Return where the axis ends: a little beyond the last point above the picture's edge."""
    points = [point for found in regimes.values() for curve in found["curves"].values() for point in curve]
    return float(
        1.05 * max(point["flops_saved"] for point in points if point["accuracy"] >= lowest) + _MARGIN
    )


def _draw_regime(axes: Axes, found: Mapping[str, Any]) -> None:
    rows = found["ablation"]["rows"]
    axes.axhline(
        rows["baseline"]["accuracy"]["value"], color=_BASELINE_COLOR, linewidth=1, label="whole network"
    )
    for head, (title, color, marker) in _HEADS.items():
        for supervision, style in _STYLES.items():
            points = sorted(
                (point["flops_saved"], point["accuracy"])
                for point in found["curves"][f"{head}-{supervision}"]
            )
            label = f"{title}, {supervision}"
            axes.plot(*zip(*points, strict=True), color=color, linestyle=style, label=label)
            chosen = rows[f"{head}-adaptive-{supervision}"]
            point = [[chosen[name]["value"]] for name in ("flops_saved", "accuracy")]
            filled = color if supervision == "distilled" else "white"
            axes.plot(*point, color=color, marker=marker, markerfacecolor=filled, linestyle="none")
    axes.set_xlabel("FLOPs saved")
    axes.set_ylabel("Accuracy")
    _show_shares(axes)
    axes.xaxis.set_major_formatter(FuncFormatter(_percent))


def plot_exit_accuracies(regimes: Regimes, path: Path) -> None:
    """Draw how accurate CLS and SSA heads are after each block, for each supervision and network.

    Args:
        regimes: Name to `exit_accuracy`, as `rescue.json` has it.
        path: File to write; its suffix decides the format.
    """
    figure = Figure(figsize=(_WIDTH * len(_STYLES), _HEIGHT + 1.0), layout="constrained")
    FigureCanvasAgg(figure)
    panels = list(figure.subplots(1, len(_STYLES), sharey=True, squeeze=False).flat)
    for axes, supervision in zip(panels, _STYLES, strict=True):
        for number, (name, found) in enumerate(regimes.items()):
            rows = [row for row in found["exit_accuracy"] if row["supervision"] == supervision]
            style = _REGIME_STYLES[number % len(_REGIME_STYLES)]
            for head, (title, color, marker) in _HEADS.items():
                axes.plot(
                    [row["block"] for row in rows], [row[head]["value"] for row in rows],
                    color=color, marker=marker, markersize=4, linestyle=style, label=f"{title}, {name}",
                )  # fmt: skip
        axes.set_title("Labels only (hard)" if supervision == "hard" else "Labels and distillation")
        axes.set_xlabel("Exit after block")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axes.set_ylabel("Accuracy if all images leave here")
        _show_shares(axes)
    handles, labels = panels[0].get_legend_handles_labels()
    legend = figure.legend(
        handles, labels, loc="outside lower center", ncols=min(4, len(regimes)), frameon=False, fontsize=9
    )
    for text in legend.get_texts():
        text.set_parse_math(False)
    figure.savefig(path, dpi=_DOTS_PER_INCH)


def _show_shares(axes: Axes) -> None:
    axes.yaxis.set_major_formatter(FuncFormatter(_percent))
    axes.tick_params(labelleft=True, labelbottom=True)
    axes.grid(visible=True, color="0.88")


def _percent(share: float, _position: float) -> str:
    return f"{100 * share:.4g}%"
