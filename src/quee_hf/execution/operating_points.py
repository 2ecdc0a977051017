"""Operating points: what each lambda costs and how accurate it is, on images used for nothing else."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from quee_hf.execution.network import Network
from quee_hf.execution.path_outputs import PathOutputs, replay

DEFAULT_LAMBDAS = (
    *(0.0, 0.002, 0.005, 0.01, 0.015, 0.02, 0.03, 0.04, 0.05, 0.065, 0.08, 0.1, 0.125, 0.15, 0.2, 0.25, 0.3),
    *(0.4, 0.5, 0.65, 0.8, 1.0, 1.5, 2.0, 3.0, 5.0),
)


def measure_operating_points(
    network: Network, outputs: PathOutputs, lambdas: Sequence[float] = DEFAULT_LAMBDAS
) -> list[dict[str, Any]]:
    """Route a set of images at several lambdas.

    Returns:
        One `{"cost_lambda", "cost", "accuracy", "num_images", "exit_shares"}` per lambda, ascending. Cost and
        accuracy are means over the images, both in [0, 1].
    """
    tree = network.router.tree
    depths = torch.tensor([len(path) for path in tree.paths])
    points = []
    for value in sorted(lambdas):
        routes = replay(network, outputs, value)
        is_right = routes.logits.argmax(dim=-1) == outputs.labels
        shares = torch.bincount(depths[routes.node] - 1, minlength=int(depths.max())) / len(outputs)
        points.append(
            {
                "cost_lambda": float(value),
                "cost": float(network.router.costs[routes.node].double().mean()),
                "accuracy": float(is_right.double().mean()),
                "num_images": len(outputs),
                "exit_shares": [round(float(share), 6) for share in shares],
            }
        )
    return points


def cheapest_within(points: Sequence[Mapping[str, Any]], accuracy: float) -> float | None:
    """Return the lambda of the cheapest point of at least this accuracy, or `None` if there is none."""
    good = [point for point in points if point["accuracy"] >= accuracy]
    return min(good, key=lambda point: point["cost"])["cost_lambda"] if good else None


def lambda_for_cost(points: Sequence[Mapping[str, Any]] | None, target_cost: float) -> float:
    """Return the lambda of the most accurate point whose mean cost is at most `target_cost`.

    Raises:
        ValueError: If there are no operating points, or all cost more.
    """
    if not points:
        raise ValueError(
            "`target_cost` needs operating points; run `model.fit_operating_points(validation)`."
        )
    affordable = [point for point in points if point["cost"] <= target_cost]
    if not affordable:
        cheapest = min(point["cost"] for point in points)
        raise ValueError(
            f"`target_cost` {target_cost} is below the cheapest operating point, {cheapest:.3f}."
        )
    best = max(affordable, key=lambda point: (point["accuracy"], -point["cost"]))
    return float(best["cost_lambda"])
