"""Operating points: what each lambda costs and how accurate it is, on images used for nothing else."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import torch

from quee_hf.configuration import QuEEConfig
from quee_hf.execution.network import Network
from quee_hf.execution.path_outputs import PathOutputs, replay
from quee_hf.machine import warn_if_elsewhere
from quee_hf.measurements import check_points

DEFAULT_LAMBDAS = (
    *(0.0, 0.002, 0.005, 0.01, 0.015, 0.02, 0.03, 0.04, 0.05, 0.065, 0.08, 0.1, 0.125, 0.15, 0.2, 0.25, 0.3),
    *(0.4, 0.5, 0.65, 0.8, 1.0, 1.5, 2.0, 3.0, 5.0),
)
_ROUNDING = 1e-6  # costs are float32: the cheapest path of 0.3 costs a little more


def measure_operating_points(
    network: Network,
    outputs: PathOutputs,
    lambdas: Sequence[float] = DEFAULT_LAMBDAS,
    latencies_ms: Sequence[float] | None = None,
) -> list[dict[str, Any]]:
    """Route a set of images at several lambdas.

    Args:
        network: The model.
        outputs: Of its paths, on these images.
        lambdas: To route at.
        latencies_ms: How long an image takes along each path, if that is known.

    Returns:
        One `{"cost_lambda", "cost", "accuracy", "num_images", "exit_shares"}` per lambda, ascending. Cost and
        accuracy are means over the images, both in [0, 1]; and `latency_ms` likewise.
    """
    tree = network.router.tree
    depths = torch.tensor([len(path) for path in tree.paths])
    times = None if latencies_ms is None else torch.tensor(latencies_ms, dtype=torch.float64)
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
                **({} if times is None else {"latency_ms": round(float(times[routes.node].mean()), 6)}),
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
    return _most_accurate(points, "cost", target_cost, "")


def lambda_for_latency(points: Sequence[Mapping[str, Any]] | None, target_latency_ms: float) -> float:
    """Return the lambda of the most accurate point whose mean time is at most `target_latency_ms`.

    Raises:
        ValueError: If there are no operating points with times, or all take longer.
    """
    if not points or not all("latency_ms" in point for point in points):
        raise ValueError(
            "`target_latency_ms` needs operating points with measured times; run `quee profile MODEL --data"
            " VALIDATION`, or `quee_hf.profile(model)` and then `model.fit_operating_points(validation)`."
        )
    return _most_accurate(points, "latency_ms", target_latency_ms, " ms")


def _most_accurate(points: Sequence[Mapping[str, Any]], field: str, target: float, unit: str) -> float:
    affordable = [point for point in points if point[field] <= target + _ROUNDING]
    if not affordable:
        cheapest = min(point[field] for point in points)
        raise ValueError(
            f"`target_{field}` {target} is below the cheapest operating point, {cheapest:.3f}{unit}."
        )
    best = max(affordable, key=lambda point: (point["accuracy"], -point[field]))
    return float(best["cost_lambda"])


class Routed(Protocol):
    """What a choice of lambda needs of a model."""

    config: QuEEConfig

    @property
    def engine(self) -> str:
        """What runs it."""

    @property
    def device(self) -> torch.device:
        """Where."""


def lambda_within(
    model: Routed, *, target_cost: float | None = None, target_latency_ms: float | None = None
) -> float:
    """Return the lambda of a model's most accurate operating point within one of two limits.

    Args:
        model: With operating points.
        target_cost: Highest mean cost, in [0, 1].
        target_latency_ms: Highest mean time of an image, in milliseconds; asked if the other is `None`.

    Raises:
        ValueError: If there are no such points, or none within the limit, or they are at other costs than
            those that the model routes by.
    """
    config = model.config
    check_points(config.operating_points, config.cost_model)
    if target_cost is not None:
        return lambda_for_cost(config.operating_points, target_cost)
    assert target_latency_ms is not None
    found = lambda_for_latency(config.operating_points, target_latency_ms)
    if config.profile is not None:
        warn_if_elsewhere(config.profile, model.engine, model.device)
    return found
