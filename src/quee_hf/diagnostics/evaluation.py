"""`evaluate_model`: all that is known of a model on a set of images, and a picture of it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from quee_hf.baselines.confidence import DEFAULT_THRESHOLDS, threshold_exits
from quee_hf.baselines.sweep import Sweep
from quee_hf.diagnostics.curves import area_under_curve, bootstrap_area_difference
from quee_hf.diagnostics.gate_quality import describe_gates
from quee_hf.diagnostics.report import (
    RoutedImages,
    as_sweep,
    describe_exits,
    describe_routing,
    describe_thresholds,
    describe_uniform,
    rounded,
    route_images,
)
from quee_hf.diagnostics.static_paths import AllOutputs
from quee_hf.execution.operating_points import DEFAULT_LAMBDAS
from quee_hf.levels import Level
from quee_hf.modeling import QuEEForImageClassification
from quee_hf.plots import plot_accuracy_cost


def evaluate_model(
    model: QuEEForImageClassification, outputs: AllOutputs, lambdas: Sequence[float] | None = None
) -> dict[str, Any]:
    """Describe routing, exits, levels and gates on images that were used for nothing before.

    Both curves, of routing and of thresholding, are measured on a fixed grid, whatever `lambdas` are.

    Args:
        model: With trained gates, on the CPU.
        outputs: As `collect_all_outputs` returns them.
        lambdas: Operating points to describe; those of the model if not given.

    Returns:
        Fit for JSON. Costs are relative to the dearest path; `difference` is the area under the routed curve
        less that under the other, with a 95 % interval from resampled images.
    """
    config, routable = model.config, outputs.routable
    own = [point["cost_lambda"] for point in config.operating_points or ()]
    routed = route_images(model, routable, DEFAULT_LAMBDAS)
    thresholded = threshold_exits(model.router, routable)
    chosen = lambdas if lambdas is not None else own or DEFAULT_LAMBDAS
    points = route_images(model, routable, chosen)
    return {
        "exit_blocks": list(config.exit_blocks),
        "levels": config.level_list,
        "num_paths": len(model.paths),
        "cost_model": config.cost_model,
        "default_cost_lambda": config.cost_lambda,
        "points": [describe_routing(point, config.num_exits) for point in points],
        "exits": describe_exits(model, routable),
        "uniform_paths": describe_uniform(model, outputs.uniform),
        "gates": describe_gates(model, routable),
        "routed_curve": [describe_routing(point, config.num_exits) for point in routed],
        "thresholding_curve": describe_thresholds(DEFAULT_THRESHOLDS, thresholded),
        "area_under_curve": _compare(routed, thresholded),
    }


def plot_evaluation(evaluation: Mapping[str, Any], path: str | Path) -> None:
    """Draw accuracy over cost: routing, thresholding, every exit and every level alone.

    Args:
        evaluation: As `evaluate_model` returns it.
        path: File to write; its suffix decides the format.
    """
    points = {
        f"{_named(row['path'][0])}, all leave after block {row['exit_block']}": (row["cost"], row["accuracy"])
        for row in evaluation["exits"][:-1]
    }
    points |= {
        f"{_named(row['path'][0])}, whole network": (row["cost"], row["accuracy"])
        for row in evaluation["uniform_paths"]
    }
    num_images = evaluation["exits"][0]["num_images"]
    plot_accuracy_cost(
        {
            "routed by gates": _curve(evaluation["routed_curve"]),
            "largest probability": _curve(evaluation["thresholding_curve"]),
        },
        points,
        path,
        f"Accuracy over cost on {num_images} images, 95 % intervals",
    )


def _named(level: Level) -> str:
    return level if isinstance(level, str) else f"{level} bits"


def _curve(
    rows: Sequence[Mapping[str, Any]],
) -> tuple[list[float], list[float], tuple[list[float], list[float]]]:
    lows, highs = zip(*(row["accuracy_interval"] for row in rows), strict=True)
    return [row["cost"] for row in rows], [row["accuracy"] for row in rows], (list(lows), list(highs))


def _compare(routed: Sequence[RoutedImages], thresholded: Sweep) -> dict[str, Any]:
    is_correct, cost, _ = (part.numpy() for part in as_sweep(routed))
    other_correct, other_cost, _ = (part.numpy() for part in thresholded)
    difference, low, high = bootstrap_area_difference(is_correct, cost, other_correct, other_cost)

    def area(correct: np.ndarray, costs: np.ndarray) -> float:
        return rounded(area_under_curve(costs.astype(float).mean(axis=1), correct.mean(axis=1)))

    return {
        "routed": area(is_correct, cost),
        "thresholding": area(other_correct, other_cost),
        "difference": rounded(difference),
        "difference_interval": [rounded(low), rounded(high)],
    }
