"""What the user of a demo may choose, and what that asks of the model."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from quee_hf.blueprint import uniform_paths
from quee_hf.configuration import QuEEConfig
from quee_hf.errors import NotReadyError
from quee_hf.execution.operating_points import lambda_within
from quee_hf.levels import Level, is_integer_level
from quee_hf.modeling import QuEEForImageClassification
from quee_hf.routing.costs import path_costs

LAMBDA, BUDGET, PATH = "λ", "budget", "fixed path"  # ways to route
_MOST_STEPS = 300  # of a slider
_MOST_LAMBDA = 1.0  # of a model without operating points
_SAME_COST = 0.01  # of cost; a larger lambda that saves less is of no use on a slider


@dataclass(frozen=True)
class Setting:
    """How images are routed: by lambda, within a budget, or along one path; as the config says if by none."""

    cost_lambda: float | None = None
    target_cost: float | None = None
    path: tuple[Level, ...] | None = None

    def arguments(self, model: QuEEForImageClassification) -> dict[str, Any]:
        """Return `cost_lambda` and `path` as a model takes them.

        Raises:
            ValueError: If no operating point is within the budget.
        """
        if self.path is not None:
            return {"cost_lambda": None, "path": list(self.path)}
        if self.target_cost is not None:
            return {"cost_lambda": lambda_within(model, target_cost=self.target_cost), "path": None}
        return {"cost_lambda": self.cost_lambda, "path": None}


@dataclass(frozen=True)
class Choices:
    """What a model lets its user choose.

    Args:
        ways: Of `LAMBDA`, `BUDGET` and `PATH`, the best first.
        missing: For each of the others, a sentence that says what the model lacks.
        most_lambda: End of the scale of lambda.
        default_lambda: Where it starts.
        budgets: The least mean cost there is, and the most.
        paths: Name to levels, the dearest first.
    """

    ways: tuple[str, ...]
    missing: tuple[str, ...]
    most_lambda: float
    default_lambda: float
    budgets: tuple[float, float]
    paths: Mapping[str, tuple[Level, ...]]


def choices_of(model: QuEEForImageClassification) -> Choices:
    """Say what can be chosen.

    Raises:
        NotReadyError: If the model can run no path at all, because it is not quantized.
    """
    config, ways, missing = model.config, [], []
    points = config.operating_points or []
    if has_gates := "gates" in config.trained_parts:
        ways.append(LAMBDA)
    else:
        missing.append("Its gates are not trained, so it cannot route each image: choose a path for all.")
    if has_gates and points:
        ways.append(BUDGET)
    else:
        missing.append("It has no operating points, so there is no budget to choose and no curve to show.")
    costs = [point["cost"] for point in points] or [0.0, 1.0]
    most = _most_lambda(points)
    return Choices(
        ways=(*ways, PATH),
        missing=tuple(missing),
        most_lambda=most,
        default_lambda=min(0.1 * most if config.cost_lambda is None else config.cost_lambda, most),
        budgets=_round_ends(min(costs), max(costs)),
        paths=_runnable_paths(model),
    )


def path_name(levels: Sequence[Level]) -> str:
    """Write a path.

    Example:
        >>> path_name([8, 6, "fp32"])
        '8 → 6 → fp32'
    """
    return " → ".join(map(str, levels))


def slider_step(length: float) -> float:
    """Return a round step that divides a scale into a few hundred.

    Example:
        >>> slider_step(1.0), slider_step(1.5), slider_step(0.0)
        (0.005, 0.005, 0.001)
    """
    if length <= 0:
        return 0.001
    finest = length / _MOST_STEPS
    power = 10.0 ** math.floor(math.log10(finest))
    return float(f"{next(factor * power for factor in (1, 2, 5, 10) if factor * power >= finest):.3g}")


def _round_ends(low: float, high: float) -> tuple[float, float]:
    """Return the ends of a scale on steps of its slider, neither below its own.

    Example:
        >>> _round_ends(0.7898333, 1.0)
        (0.79, 1.0)
    """
    step = slider_step(high - low)
    return round(math.ceil(low / step) * step, 9), round(math.ceil(high / step) * step, 9)


def level_name(level: Level) -> str:
    """Write a level.

    Example:
        >>> level_name(8), level_name("bf16")
        ('8 bits', 'bf16')
    """
    return f"{level} bits" if is_integer_level(level) else str(level)


def _most_lambda(points: Sequence[Mapping[str, Any]]) -> float:
    """Return the least lambda that is about as cheap as any."""
    if not points:
        return _MOST_LAMBDA
    cheapest = min(point["cost"] for point in points)
    return float(min(p["cost_lambda"] for p in points if p["cost"] <= cheapest + _SAME_COST)) or _MOST_LAMBDA


def _runnable_paths(model: QuEEForImageClassification) -> dict[str, tuple[Level, ...]]:
    config = model.config
    paths = dict.fromkeys([(0,) * config.num_exits, *uniform_paths(config), *model.paths])
    costs = path_costs(list(paths), model.cost_table).tolist()
    found = {}
    for path, cost in sorted(zip(paths, costs, strict=True), key=lambda each: (-each[1], each[0])):
        levels = tuple(config.level_list[level] for level in path)
        if config.quantization is not None or not any(map(is_integer_level, levels)):
            block = config.exit_blocks[len(path) - 1]
            found[f"{path_name(levels)}, out after block {block}, cost {cost:.2f}"] = levels
    if not found:
        raise NotReadyError(f"The model is not quantized, and its levels {config.level_list} need that.")
    return found


def describe_levels(config: QuEEConfig) -> str:
    """Say in a line where images may leave, and at which levels blocks run."""
    *early, last = map(str, config.exit_blocks)
    exits = f"{', '.join(early)} and {last}" if early else last
    return f"exits after blocks {exits}; levels {', '.join(map(level_name, config.level_list))}"
