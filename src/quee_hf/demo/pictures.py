"""Pictures for the demo: the way of an image, the operating points, shares of exits."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

from quee_hf.configuration import QuEEConfig
from quee_hf.demo.classification import Answer, ExitReport
from quee_hf.demo.settings import level_name, path_name
from quee_hf.hub.sections import shown_points
from quee_hf.plots import accuracy_cost_figure

# Okabe and Ito's colours, distinct for colour-blind readers and under white numbers.
_LEVEL_COLORS = ("#0072B2", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#E69F00")
_INK, _PALE, _PALE_EDGE, _PALE_INK = "#1a1a1a", "#f4f4f4", "#dedede", "#b8b8b8"
_DOTS_PER_INCH = 120
# In units of a block's column, of which one is so many inches wide.
_INCHES, _GAP, _LEFT, _BOX, _ROW, _LEAST_WIDTH = 0.56, 0.9, 3.4, 0.82, 0.5, 9.0
_MOST_CHARACTERS = 12  # of a class below an exit


@dataclass(frozen=True)
class _Grid:
    """Where blocks, levels and exits are: columns of blocks, with a gap after each segment for its exit."""

    config: QuEEConfig

    @property
    def width(self) -> float:
        return max(self.exit_x(self.config.num_exits - 1) + 1.2, _LEAST_WIDTH)

    @property
    def exit_y(self) -> float:
        return -len(self.config.levels) - 0.15

    def block_x(self, segment: int, block: int) -> float:
        return block + _GAP * segment

    def exit_x(self, exit_index: int) -> float:
        return self.config.exit_blocks[exit_index] - 0.5 + _GAP * (exit_index + 0.5)

    def text_y(self, row: int) -> float:
        return self.exit_y - 0.62 - _ROW * row


def route_figure(config: QuEEConfig, answer: Answer | None) -> Figure:
    """Draw blocks as boxes, in a row for each level, and the way of an image through them.

    Boxes that were run have the colour of their level, the others are pale. Below are the exits: a filled
    mark where the image left, hollow ones that it passed, with the class that each named and the predicted
    probability that this class is wrong; pale ones that it did not reach.

    Args:
        config: Of the model.
        answer: What became of the image; without one nothing was run.
    """
    grid = _Grid(config)
    bottom, top = grid.text_y(2) - 0.4, 1.35
    figure = Figure(figsize=((grid.width + _LEFT) * _INCHES, (top - bottom) * _INCHES), dpi=_DOTS_PER_INCH)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    axes.set_xlim(-_LEFT, grid.width)
    axes.set_ylim(bottom, top)
    path = answer.path if answer else ()
    axes.text(-_LEFT + 0.2, 0.95, _title(config, answer), size=12, weight="bold", color=_INK, va="center")
    _draw_blocks(axes, grid, path)
    _draw_way(axes, grid, path)
    _draw_exits(axes, grid, path)
    _draw_reports(axes, grid, answer.exits if answer else ())
    return figure


def curve_figure(config: QuEEConfig, cost_lambda: float | None, cost: float | None) -> Figure | None:
    """Draw accuracy over mean cost of the operating points.

    Args:
        config: Of the model.
        cost_lambda: Whose place on the curve is marked, between measured points by interpolation; none if not
            given.
        cost: Of one image, marked by a line.

    Returns:
        The picture; `None` if no operating points were measured.
    """
    shown, points = shown_points(config), config.operating_points
    if not points:
        return None
    costs, accuracies, low, high = ([p[f] for p in shown] for f in ("cost", "accuracy", "low", "high"))
    marked = {}
    if cost_lambda is not None:
        lambdas = [point["cost_lambda"] for point in points]
        marked[f"λ = {cost_lambda:.3g}, now"] = (
            float(np.interp(cost_lambda, lambdas, [point["cost"] for point in points])),
            float(np.interp(cost_lambda, lambdas, [point["accuracy"] for point in points])),
        )
    measured = (config.record or {}).get("measured") or {}
    for entry in measured.get("uniform_paths", ()):
        name = f"whole network, {level_name(entry['path'][0])}"
        marked[name] = (entry["cost"], entry["accuracy"])
    title = f"Operating points, measured on {shown[0]['num_images']} images"
    figure = accuracy_cost_figure({"routed": (costs, accuracies, (low, high))}, marked, title)
    if cost is not None:
        _draw_cost(figure.axes[0], cost)
    return figure


def shares_figure(exit_blocks: Sequence[int], shares: Sequence[float]) -> Figure:
    """Draw the share of images that left at each exit.

    Args:
        exit_blocks: The block before each exit.
        shares: Of each, in [0, 1].
    """
    figure = Figure(figsize=(7.5, 2.6), dpi=_DOTS_PER_INCH, layout="constrained")
    axes = figure.add_subplot()
    places = range(len(exit_blocks))
    bars = axes.bar(places, shares, color=_LEVEL_COLORS[0], width=0.6)
    axes.bar_label(bars, [f"{share:.0%}" for share in shares], padding=2)
    axes.set_xticks(places, [f"block {block}" for block in exit_blocks])
    axes.set_ylim(0, 1.15 * max([*shares, 0.1]))
    axes.set_yticks([])
    axes.set_title("Where the images left", size=11)
    for side in ("top", "left", "right"):
        axes.spines[side].set_visible(False)
    return figure


def _title(config: QuEEConfig, answer: Answer | None) -> str:
    if answer is None:
        return "No image yet"
    block, levels = answer.exits[-1].block, [config.level_list[level] for level in answer.path]
    where = "Whole network" if len(levels) == config.num_exits else f"Left after block {block}"
    return f"{where}: levels {path_name(levels)}, {answer.spending.share:.0%} of the BitOPs"


def _color(level: int) -> str:
    return _LEVEL_COLORS[level % len(_LEVEL_COLORS)]


def _draw_blocks(axes: Axes, grid: _Grid, path: Sequence[int]) -> None:
    for level, name in enumerate(map(level_name, grid.config.level_list)):
        is_used = level in path
        axes.text(
            -0.75, -level, name, ha="right", va="center", size=10, weight="bold" if is_used else "normal",
            color=_color(level) if is_used else _PALE_INK,
        )  # fmt: skip
        for segment, (start, stop) in enumerate(grid.config.segments):
            is_run = segment < len(path) and path[segment] == level
            for block in range(start, stop):
                _draw_box(axes, grid.block_x(segment, block), -level, _color(level) if is_run else None)
                axes.text(
                    grid.block_x(segment, block), -level, str(block + 1), ha="center", va="center", size=10,
                    color="white" if is_run else _PALE_INK, weight="bold" if is_run else "normal", zorder=4,
                )  # fmt: skip
    axes.text(-_LEFT + 0.2, 0, "blocks", va="center", size=9, color=_INK)


def _draw_box(axes: Axes, x: float, y: float, color: str | None) -> None:
    """Draw a box around a point: of a block that was run if it has a colour."""
    inset = 0.08
    side = _BOX - 2 * inset
    axes.add_patch(
        FancyBboxPatch(
            (x - side / 2, y - side / 2), side, side, boxstyle=f"round,pad={inset}", linewidth=0.8,
            facecolor=color or _PALE, edgecolor=color or _PALE_EDGE, zorder=3 if color else 1,
        )
    )  # fmt: skip


def _draw_way(axes: Axes, grid: _Grid, path: Sequence[int]) -> None:
    """Draw a line from the left through the boxes that were run, and down to the exit."""
    if not path:
        return
    xs, ys = [-0.62], [-path[0]]
    for segment, level in enumerate(path):
        start, stop = grid.config.segments[segment]
        xs += [grid.block_x(segment, start) - 0.5, grid.block_x(segment, stop - 1) + 0.5]
        ys += [-level, -level]
    out = grid.exit_x(len(path) - 1)
    axes.plot([*xs, out], [*ys, ys[-1]], color=_INK, linewidth=2, zorder=2, solid_joinstyle="round")
    axes.annotate(
        "", xy=(out, grid.exit_y + 0.22), xytext=(out, ys[-1]), zorder=2,
        arrowprops={"arrowstyle": "-|>", "color": _INK, "linewidth": 2, "shrinkA": 0, "shrinkB": 0},
    )  # fmt: skip


def _draw_exits(axes: Axes, grid: _Grid, path: Sequence[int]) -> None:
    """Draw the marks: filled where the image left, hollow where it passed, pale beyond."""
    for position, block in enumerate(grid.config.exit_blocks):
        x, is_reached, is_left = grid.exit_x(position), position < len(path), position == len(path) - 1
        ink = _INK if is_reached else _PALE_INK
        if not is_left:
            axes.plot(
                [x, x], [0.4, grid.exit_y + 0.2], color=_PALE_EDGE, linewidth=1, linestyle=":", zorder=0
            )
        axes.plot(
            [x], [grid.exit_y], marker="o", markersize=13, markeredgewidth=1.8, zorder=4, linestyle="none",
            markerfacecolor=_color(path[-1]) if is_left else "white", markeredgecolor=ink,
        )  # fmt: skip
        weight = "bold" if is_left else "normal"
        axes.text(x, grid.text_y(0), str(block), ha="center", va="center", size=10, color=ink, weight=weight)
    for row, name in enumerate(("exit after block", "says", "predicted error")):
        axes.text(-_LEFT + 0.2, grid.text_y(row), name, va="center", size=9, color=_INK)


def _draw_reports(axes: Axes, grid: _Grid, exits: Sequence[ExitReport]) -> None:
    positions = {block: position for position, block in enumerate(grid.config.exit_blocks)}
    for number, report in enumerate(exits, start=1):
        x, weight = grid.exit_x(positions[report.block]), "bold" if number == len(exits) else "normal"
        label = report.label
        if len(label) > _MOST_CHARACTERS:
            label = f"{label[: _MOST_CHARACTERS - 1]}…"
        error = "–" if report.leave_error is None else f"{report.leave_error:.1%}"
        for row, text in ((1, label), (2, error)):
            axes.text(
                x, grid.text_y(row), text, ha="center", va="center", size=9, color=_INK, weight=weight,
                parse_math=False,
            )  # fmt: skip


def _draw_cost(axes: Axes, cost: float) -> None:
    """Mark what one image cost."""
    axes.axvline(cost, color=_INK, linestyle="--", linewidth=1, zorder=1)
    axes.annotate(
        "this image", xy=(cost, 0.03), xycoords=("data", "axes fraction"), rotation=90, size=9, color=_INK,
        xytext=(3, 0), textcoords="offset points", ha="left", va="bottom",
    )  # fmt: skip
