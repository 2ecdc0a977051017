"""What a `BudgetController` writes down, read with care: another program may have written it."""

from collections.abc import Mapping
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from quee_hf.configuration import COST_MODELS
from quee_hf.execution.prices import Unit
from quee_hf.routing.cost_curve import CostCurve
from quee_hf.routing.ledger import Ledger
from quee_hf.values import is_number, is_sha256, is_whole

_START = "`BudgetController.to_dict` has not written this"
VERDICTS = ("settling", "held", "catching up", "too dear", "too cheap")
_FIELDS = ("lambdas", "costs", "unit", "ledger", "num_stuck", "verdict")
_LEDGER = ("budget", "window", "num_images", "total", "owed", "dearer", "written_off")
_MOST = 10**15  # images; and what they cost, in any unit
_ROUNDING = 1e-6  # of sums over many images


class BudgetState(NamedTuple):
    """All that a controller is made of."""

    curve: CostCurve
    unit: Unit
    ledger: Ledger
    num_stuck: int
    verdict: str


def read_state(content: object) -> BudgetState:
    """Return what `BudgetController.to_dict` wrote.

    Raises:
        ValueError: If it did not: a field is missing, unknown, or has a value that it cannot have.
    """
    fields = _fields(content, "it", _FIELDS)
    curve, unit, ledger = _curve(fields), _unit(fields["unit"]), _ledger(fields["ledger"])
    num_stuck, verdict, number = fields["num_stuck"], fields["verdict"], ledger.num_images
    _check("num_stuck", num_stuck, is_whole(num_stuck, -number, number), f"whole, from -{number} to {number}")
    _check("verdict", verdict, _is_one_of(verdict, VERDICTS), f"one of {list(VERDICTS)}")
    return BudgetState(curve, unit, ledger, num_stuck, verdict)


def _curve(fields: Mapping[str, Any]) -> CostCurve:
    lambdas, costs = fields["lambdas"], fields["costs"]
    is_right = _are_numbers(lambdas) and lambdas[0] >= 0 and all(a < b for a, b in pairwise(lambdas))
    _check("lambdas", lambdas, is_right, "two or more finite numbers from 0 on, ascending")
    is_right = _are_numbers(costs) and len(costs) == len(lambdas) and all(a > b for a, b in pairwise(costs))
    _check("costs", costs, is_right, f"{len(lambdas)} finite numbers, descending")
    return CostCurve(np.array(lambdas, np.float64), np.array(costs, np.float64))


def _are_numbers(values: object) -> bool:
    return isinstance(values, list | tuple) and len(values) > 1 and all(map(_is_sum, values))


def _unit(content: object) -> Unit:
    unit = Unit(**_fields(content, "`unit`", Unit._fields))
    _check("unit.name", unit.name, isinstance(unit.name, str) and unit.name, "a word")
    _check("unit.scale", unit.scale, _is_sum(unit.scale) and unit.scale > 0, "finite and above 0")
    _check("unit.offset", unit.offset, _is_sum(unit.offset) and unit.offset >= 0, "finite and at least 0")
    models = (None, *COST_MODELS)
    _check("unit.cost_model", unit.cost_model, _is_one_of(unit.cost_model, models), f"one of {list(models)}")
    _check(
        "unit.cost_table",
        unit.cost_table,
        unit.cost_table is None or is_sha256(unit.cost_table),
        "a SHA-256",
    )
    return unit


def _ledger(content: object) -> Ledger:
    """Return accounts that add up."""
    found = Ledger(**_fields(content, "`ledger`", _LEDGER))
    budget, number = found.budget, found.num_images
    _check("ledger.budget", budget, _is_sum(budget) and budget > 0, "finite and above 0")
    _check("ledger.window", found.window, is_whole(found.window, 1, _MOST), f"whole, from 1 to {_MOST}")
    _check("ledger.num_images", number, is_whole(number, 0, _MOST), f"whole, from 0 to {_MOST}")
    for name in ("total", "owed", "dearer", "written_off"):
        value = getattr(found, name)
        is_right = _is_sum(value) and (value == 0 or number > 0) and (name != "total" or value >= 0)
        sign = "at least 0, " if name == "total" else ""
        _check(f"ledger.{name}", value, is_right, f"finite, {sign}and 0 before the first image")
    spare = _ROUNDING * (found.total + number * budget)
    most = found.most_owed
    _check("ledger.owed", found.owed, abs(found.owed) <= most + spare, f"from -{most:g} to {most:g}")
    left = found.total - number * budget - found.owed
    is_right = abs(found.written_off - left) <= spare
    _check("ledger.written_off", found.written_off, is_right, f"{left:g}, what the other sums leave")
    return found


def _fields(content: object, what: str, names: tuple[str, ...]) -> dict[str, Any]:
    if not isinstance(content, Mapping) or set(content) != set(names):
        found = list(content) if isinstance(content, Mapping) else content
        raise ValueError(f"{_START}: {what} must have the fields {list(names)}, got {found!r:.200}.")
    return dict(content)


def _is_sum(value: Any) -> bool:
    return is_number(value) and abs(value) <= _MOST


def _is_one_of(value: object, allowed: tuple[str | None, ...]) -> bool:
    return (value is None or isinstance(value, str)) and value in allowed


def _check(name: str, value: object, is_right: object, allowed: str) -> None:
    if not is_right:
        raise ValueError(f"{_START}: `{name}` must be {allowed}, got {value!r:.200}.")
