"""Compare ways to route, with intervals over images and seeds. Pure functions."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quee_hf.baselines import Sweep
from quee_hf.diagnostics.curves import accuracy_at_cost, area_under_curve, cost_at_accuracy, draw_weights
from quee_hf.diagnostics.report import rounded
from quee_hf.tables import markdown_table

Floats = NDArray[np.float64]

COSTS = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8)
DROPS = (0.0, 0.005, 0.01, 0.02)
_TAIL = 0.025  # of a 95 % interval, at either end
_ROUNDING = 1e-9  # what sums of weights in another order may differ by, and more


def compare_sweeps(
    sweeps: Mapping[str, Sequence[Sweep]],
    reference: str,
    full_path: Sequence[bool] | NDArray[np.bool_],
    *,
    costs: Sequence[float] = COSTS,
    num_resamples: int = 1000,
    seed: int = 0,
) -> dict[str, Any]:
    """Describe every method's curve: accuracy at some costs, cost at the drops `DROPS`, area.

    Intervals hold 95 % of what resampled images and resampled seeds give; both are drawn with replacement,
    the same images and seeds for all methods, so what makes images easy for all cancels in differences. A
    number that is the mean over seeds is compared with the same mean of the reference.

    Args:
        sweeps: For each method one sweep per seed, all of the same test images.
        reference: The method that others are compared with.
        full_path: `(images,)`: whether the whole network at the most exact level is right; drops are from
            its accuracy.
        costs: At which accuracy is described.
        num_resamples: More make the ends of the intervals less random.
        seed: Of the resampling.

    Returns:
        For each method `curve`, `area`, `area_difference`, `accuracy_at_cost` and `cost_at_drop`, fit for
        JSON. Values are `None` where the curve does not reach.

    Raises:
        ValueError: If the reference is missing or the sweeps do not fit each other.
    """
    num_seeds = {len(found) for found in sweeps.values()}
    if reference not in sweeps or len(num_seeds) != 1:
        raise ValueError(f"Expected as many sweeps of {reference!r} as of each other, got {num_seeds}.")
    weights = _weights(len(full_path), num_resamples, seed)
    full = weights @ np.asarray(full_path, dtype=np.float64)
    targets = full[:, None] - np.asarray(DROPS) - _ROUNDING
    measured = {name: _resampled(found, weights, (targets, costs), seed) for name, found in sweeps.items()}
    return {
        name: {
            "curve": _curve(sweeps[name]),
            "area": _described(values[:, 0]),
            "area_difference": _described(values[:, 0] - measured[reference][:, 0]),
            "accuracy_at_cost": _named(costs, values[:, 1 : 1 + len(costs)]),
            "cost_at_drop": _named(DROPS, values[:, 1 + len(costs) :]),
        }
        for name, values in measured.items()
    }


def _weights(num_images: int, num_resamples: int, seed: int) -> Floats:
    """Return `(1 + resamples, images)`: the images as they are, then resampled."""
    drawn = draw_weights(np.random.default_rng(seed), num_resamples, num_images)
    return np.concatenate([np.full((1, num_images), 1 / num_images), drawn])


def _resampled(
    sweeps: Sequence[Sweep], weights: Floats, points: tuple[Floats, Sequence[float]], seed: int
) -> Floats:
    """Return area, accuracies at costs and costs at target accuracies for each row, meaned over seeds.

    Where a curve does not reach, an accuracy is -inf and a cost inf.
    """
    per_seed = np.stack([_of_seed(sweep, weights, *points) for sweep in sweeps], axis=1)
    drawn = np.random.default_rng([seed, 1]).integers(len(sweeps), size=(len(weights), len(sweeps)))
    drawn[0] = np.arange(len(sweeps))
    chosen = np.take_along_axis(per_seed, drawn[:, :, None], axis=1)
    return np.asarray(chosen.mean(axis=1))


def _of_seed(sweep: Sweep, weights: Floats, targets: Floats, costs: Sequence[float]) -> Floats:
    accuracies = weights @ sweep.is_correct.numpy().T.astype(np.float64)  # (rows, settings)
    spent = weights @ sweep.cost.numpy().T.astype(np.float64)
    rows = []
    for cost_row, accuracy_row, wanted in zip(spent, accuracies, targets, strict=True):
        reached = [accuracy_at_cost(cost_row, accuracy_row, cost) for cost in costs]
        needed = [cost_at_accuracy(cost_row, accuracy_row, accuracy) for accuracy in wanted]
        rows.append(
            [
                area_under_curve(cost_row, accuracy_row),
                *(-np.inf if value is None else value for value in reached),
                *(np.inf if value is None else value for value in needed),
            ]
        )
    return np.array(rows)


def _curve(sweeps: Sequence[Sweep]) -> list[dict[str, float]]:
    """Return each setting's cost and accuracy, meaned over seeds, and the accuracy's range over seeds."""
    cost = np.stack([sweep.cost.double().mean(dim=1).numpy() for sweep in sweeps])
    accuracy = np.stack([sweep.is_correct.double().mean(dim=1).numpy() for sweep in sweeps])
    return [
        {"cost": rounded(c.mean()), "accuracy": rounded(a.mean()), "accuracy_range": rounded(np.ptp(a))}
        for c, a in zip(cost.T, accuracy.T, strict=True)
    ]


def _named(names: Sequence[float], values: Floats) -> dict[str, dict[str, Any]]:
    return {f"{name:g}": _described(column) for name, column in zip(names, values.T, strict=True)}


def _described(values: Floats) -> dict[str, Any]:
    """Describe a number by its value on the images as they are, first, and its resampled values."""
    low, high = (
        np.quantile(values[1:], [_TAIL, 1 - _TAIL], method="nearest") if len(values) > 1 else values[[0, 0]]
    )
    return {"value": _finite(values[0]), "interval": [_finite(low), _finite(high)]}


def comparison_table(
    comparison: Mapping[str, Any], reference: str, other_costs: Mapping[str, Mapping[str, Any]]
) -> str:
    """Return what `compare_sweeps` found as a Markdown table, the largest area first.

    Args:
        comparison: What it returned.
        reference: Its reference.
        other_costs: What it returned for the same routes under other cost models, by their names.
    """
    costs, drops = ("0.4", "0.6"), ("0.005", "0.01")
    titles = [
        "method",
        "area, %",
        f"area less {reference}'s",
        *(f"accuracy at cost {cost}, %" for cost in costs),
        *(f"cost at −{100 * float(drop):g} points" for drop in drops),
        *(f"{name} at −0.5 points" for name in other_costs),
    ]
    rows = [
        [
            name,
            _percent_text(found["area"]),
            "" if name == reference else _percent_text(found["area_difference"]),
            *(_percent_text(found["accuracy_at_cost"][cost]) for cost in costs),
            *(_number_text(found["cost_at_drop"][drop]) for drop in drops),
            *(_number_text(others[name]["cost_at_drop"]["0.005"]) for others in other_costs.values()),
        ]
        for name, found in sorted(comparison.items(), key=lambda item: -item[1]["area"]["value"])
    ]
    return markdown_table(titles, rows)


def _percent_text(described: Mapping[str, Any]) -> str:
    return _text(described, lambda value: f"{100 * value:.2f}")


def _number_text(described: Mapping[str, Any]) -> str:
    return _text(described, lambda value: f"{value:.3f}")


def _text(described: Mapping[str, Any], shown: Callable[[float], str]) -> str:
    if described["value"] is None:
        return "not reached"
    low, high = ("…" if end is None else shown(end) for end in described["interval"])
    return f"{shown(described['value'])} ({low} to {high})"


def _finite(value: float) -> float | None:
    return rounded(value) if np.isfinite(value) else None
