"""How a pipeline is told to route: by a lambda, a target, a promise or a path; checked before any work."""

import math
import numbers
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from quee_hf.certificates import certified_lambda
from quee_hf.execution.budget import BudgetController
from quee_hf.execution.operating_points import lambda_within
from quee_hf.levels import Level

if TYPE_CHECKING:
    from quee_hf.modeling import QuEEForImageClassification

# The highest number that each may be.
_HIGHEST = {
    "cost_lambda": math.inf,
    "target_cost": 1.0,
    "target_latency_ms": math.inf,
    "max_accuracy_drop": 1.0,
}
ROUTING_ARGUMENTS = (*_HIGHEST, "path")


def resolve_route(
    model: "QuEEForImageClassification", image_processor: Any, given: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the model's routing arguments, both if any is given: a call's then replace the defaults.

    Args:
        model: That is to route.
        image_processor: That prepares its images.
        given: Some of `ROUTING_ARGUMENTS`; `None` stands for one that is not.

    Raises:
        ValueError: If these contradict each other, or one has no meaning.
        TypeError: If one is no number.
    """
    given = {name: value for name, value in given.items() if value is not None}
    if len(given) > 1:
        names = ", ".join(f"`{name}`" for name in given)
        raise ValueError(f"Give at most one of {names}: each alone says how to route.")
    for name, value in given.items():
        if name == "path":
            return {"cost_lambda": None, "path": _checked_path(model, value)}
        if isinstance(value, BudgetController) and name == "cost_lambda":
            value.check_costs(model)
            return {"cost_lambda": value, "path": None}
        number = _checked_number(name, value, _HIGHEST[name])
        if name == "max_accuracy_drop":
            number = certified_lambda(model, number, image_processor)
        elif name != "cost_lambda":
            number = lambda_within(model, **{name: number})
        return {"cost_lambda": number, "path": None}
    return {}


def _checked_path(model: "QuEEForImageClassification", path: Sequence[Level]) -> list[Level]:
    """Return the path as a list, or raise `ValueError` as the model would, but before any work."""
    levels, num_exits = model.config.level_list, model.config.num_exits
    is_list = isinstance(path, Sequence) and not isinstance(path, str)
    if not is_list or not 1 <= len(path) <= num_exits or any(level not in levels for level in path):
        raise ValueError(f"`path` must be a list of 1 to {num_exits} of the levels {levels}, got {path!r}.")
    return list(path)


def _checked_number(name: str, value: object, highest: float) -> float:
    """Return one number between 0 and `highest` as a float."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(
            f"`{name}` must be a number, got {type(value).__name__}. For one per image, call the model."
        )
    number = float(value)
    if not 0 <= number <= highest:  # NaN compares false
        raise ValueError(f"`{name}` must be between 0 and {highest}, got {number}.")
    return number
