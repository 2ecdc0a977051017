"""Pictures of a comparison, from what `comparison.json` holds."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from quee_hf.build.comparison_methods import CLUSTER_METHODS, OWN
from quee_hf.plots import plot_accuracy_cost, plot_numbers, plot_shares

# Others are close to one of these.
_MAIN_METHODS = (
    *(OWN, "quee-paper", "lra-ee", "jei-dnn", "max-probability"),
    *("patience", "dqnet-gate", "static", "random", "oracle"),
)
_MOST_CLASSES = 24  # of whose names there is room
_LEAST_SHARE = 0.02  # of a path that is shown by itself


def draw_comparison(result: Mapping[str, Any], path: Path) -> None:
    """Draw accuracy over cost, of many methods those that differ most, the largest area first."""
    found = {name: row for name, row in result["methods"].items() if name not in CLUSTER_METHODS}
    if len(found) > len(_MAIN_METHODS):
        found = {name: found[name] for name in _MAIN_METHODS if name in found}
    curves = {
        name: ([p["cost"] for p in row["curve"]], [p["accuracy"] for p in row["curve"]], None)
        for name, row in sorted(found.items(), key=lambda item: -item[1]["area"]["value"])
    }
    title = f"{result['data']['num_images']} test images, mean of {result['num_seeds']} fits"
    plot_accuracy_cost(curves, {}, path, title)


def draw_classes(described: Mapping[str, Any], path: Path) -> None:
    """Draw which paths the images of each class take, cheap classes first; of many, both ends."""
    rows = sorted(described["classes"], key=lambda row: float(row["cost"]))
    if len(rows) > _MOST_CLASSES:
        rows = [*rows[: _MOST_CLASSES // 2], *rows[-_MOST_CLASSES // 2 :]]
    total = sum(row["num_images"] for row in described["classes"])
    shares = [
        sum(row["path_shares"][position] * row["num_images"] for row in described["classes"]) / total
        for position in range(len(described["paths"]))
    ]
    shown = [position for position, share in enumerate(shares) if share >= _LEAST_SHARE]
    parts = ["-".join(map(str, described["paths"][position])) for position in shown]
    heights = [[row["path_shares"][position] for position in shown] for row in rows]
    names = [row["class"] for row in rows]
    if len(shown) < len(shares):
        parts.append("other paths")
        heights = [[*row, max(0.0, 1 - sum(row))] for row in heights]
    title = f"Paths by class, λ = {described['cost_lambda']:g}"
    plot_shares(names, heights, parts, path, title)


def draw_clusters(result: Mapping[str, Any], path: Path) -> None:
    """Draw the area under the curve over the number of clusters that gates are taught by."""
    found = {count: name for name, count in CLUSTER_METHODS.items() if name in result["methods"]}
    counts = sorted(found)
    areas = [result["methods"][found[count]]["area"] for count in counts]
    plot_numbers(
        counts,
        [area["value"] for area in areas],
        ([area["interval"][0] for area in areas], [area["interval"][1] for area in areas]),
        {"each image's own outcome": result["methods"][OWN]["area"]["value"]},
        path,
        labels=("Number of clusters", "Area under accuracy over cost"),
    )
