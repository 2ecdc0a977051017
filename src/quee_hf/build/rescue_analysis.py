"""What the fits of a rescue experiment say: the ablation, heads exit by exit, rescue and loss."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from quee_hf.build.rescue_heads import SUPERVISIONS, HeadKind
from quee_hf.build.rescue_routes import Routes
from quee_hf.build.rescue_setting import Setting
from quee_hf.diagnostics.report import rounded
from quee_hf.diagnostics.rescue import describe_margins, describe_rescue_by_class, describe_selectivity
from quee_hf.diagnostics.rescue_at_cost import RoutedFit, compare_at_cost, state_rescue
from quee_hf.diagnostics.rescue_seeds import (
    compare_fits_with_control,
    describe_configuration,
    describe_difference,
    describe_fits,
)

Exits = tuple[int, ...]

BASELINE = "baseline"
# The paper's configurations that leave early, whose rescue is analysed.
RESCUE_ROWS = {"(iv)": HeadKind("ssa", "hard"), "(v)": HeadKind("ssa", "distilled")}
MAIN_ROW = "(v)"
ANY_COST = 1.0  # a budget that allows everything


# What ends the network, how it is marked in names of rows, and the budget if it is not the plan's.
_ROUTINGS = (("own", "", None), ("own", "-unlimited", ANY_COST), ("same", "-throughout", None))


@dataclass(frozen=True)
class Fitted:
    """What was fitted to one network, as the test images see it.

    Args:
        own_is_right: `(images,)`, bool: whether the whole network is right.
        own_logits: `(images, labels)`: of the whole network.
        labels: `(images,)`, int64.
        heads: For each kind `(fits, exits, images)`, bool: whether the head of each exit is right.
        routes: For each kind and exits, of each fit the routes by ending.
    """

    own_is_right: Tensor
    own_logits: Tensor
    labels: Tensor
    heads: Mapping[HeadKind, Tensor]
    routes: Mapping[tuple[HeadKind, Exits], Sequence[Mapping[str, Routes]]]


@dataclass(frozen=True)
class _Chosen:
    """The operating point of each fit."""

    budgets: list[float]  # for which its thresholds were chosen
    is_right: Tensor  # (fits, images), bool
    exit_index: Tensor  # (fits, images)
    cost: Tensor  # (fits,)


def analyse_regime(fitted: Fitted, setting: Setting, exits: Exits, *, is_cosine: bool) -> dict[str, Any]:
    """Return what `rescue.json` says of one network.

    Args:
        fitted: To the network.
        setting: Of the experiment.
        exits: After which images may leave, and the last block.
        is_cosine: Whether logits are cosines times a scale.
    """
    budget = setting.plan.budget
    return {
        "exit_accuracy": _describe_heads(fitted, setting.exits),
        "ablation": _ablation(fitted, exits, budget),
        "curves": {
            kind.name: _curve([fit["own"] for fit in fits])
            for (kind, of_exits), fits in fitted.routes.items()
            if of_exits == exits
        },
        "rescue": {
            row: _describe_rescue(
                fitted,
                _choose(fitted, kind, exits, budget),
                setting.class_names,
                len(exits),
                is_cosine=is_cosine,
            )
            for row, kind in RESCUE_ROWS.items()
        },
    }


def compare_regimes(pair: tuple[Fitted, Fitted], exits: Exits, budget: float, name: str) -> dict[str, Any]:
    """Return a quantized network's rescue beside that of the network in full precision, with the same exits.

    `rows` are at the operating points that each fit chose, `any_cost` at the most accurate ones whatever they
    cost, `equal_flops` at exactly the budget; the statement is of the last.

    Args:
        pair: What was fitted to the quantized network and to the other.
        exits: Of both.
        budget: Of both.
        name: Of the quantized network.
    """
    equal = {
        row: compare_at_cost(_routed(pair[0], kind, exits), _routed(pair[1], kind, exits), budget)
        for row, kind in RESCUE_ROWS.items()
    }
    return {
        "rows": {row: _compare_chosen(pair, kind, exits, budget) for row, kind in RESCUE_ROWS.items()},
        "any_cost": {row: _compare_chosen(pair, kind, exits, ANY_COST) for row, kind in RESCUE_ROWS.items()},
        "equal_flops": equal,
        "statement": state_rescue(equal[MAIN_ROW], name),
    }


def _routed(fitted: Fitted, kind: HeadKind, exits: Exits) -> tuple[list[RoutedFit], Tensor]:
    fits = [RoutedFit(fit["own"].is_right, fit["own"].cost) for fit in fitted.routes[kind, exits]]
    return fits, fitted.own_is_right


def _compare_chosen(
    pair: tuple[Fitted, Fitted], kind: HeadKind, exits: Exits, budget: float
) -> dict[str, Any]:
    sides = [(_choose(side, kind, exits, budget), side.own_is_right) for side in pair]
    (quantized, full), (control, exact) = sides
    return {
        **compare_fits_with_control((quantized.is_right, full), (control.is_right, exact)),
        "flops_saved": [rounded(1 - chosen.cost.mean()) for chosen, _ in sides],
    }


def _choose(fitted: Fitted, kind: HeadKind, exits: Exits, budget: float, ending: str = "own") -> _Chosen:
    """Take the operating point that the choosing images prefer, in each fit."""
    routes = [fit[ending] for fit in fitted.routes[kind, exits]]
    settings = [fit.setting_within(budget) for fit in routes]
    pairs = list(zip(routes, settings, strict=True))
    return _Chosen(
        [float(fit.budget[setting]) for fit, setting in pairs],
        torch.stack([fit.is_right[setting] for fit, setting in pairs]),
        torch.stack([fit.exit_index[setting] for fit, setting in pairs]),
        torch.stack([fit.cost[setting].double().mean() for fit, setting in pairs]),
    )


def _ablation(fitted: Fitted, exits: Exits, budget: float) -> dict[str, Any]:
    """Return the rows of head x supervision x routing, and what each step of the paper's adds."""
    own = fitted.own_is_right
    rights = {BASELINE: own[None]}
    rows = {BASELINE: describe_configuration(own[None], own, torch.ones(1))}
    for kind, right in fitted.heads.items():
        last = f"{kind.head}-last-{kind.supervision}"
        rights[last] = right[:, -1]
        rows[last] = describe_configuration(rights[last], own, torch.ones(len(right)))
        for ending, suffix, most in _ROUTINGS:
            chosen = _choose(fitted, kind, exits, budget if most is None else most, ending)
            name = f"{kind.head}-adaptive-{kind.supervision}{suffix}"
            rights[name] = chosen.is_right
            rows[name] = {
                **describe_configuration(chosen.is_right, own, chosen.cost),
                "fitted_budget": [rounded(budget) for budget in chosen.budgets],
                "exit_shares": _shares(chosen.exit_index, len(exits)),
            }
    return {"rows": rows, "steps": _steps(rights)}


def _steps(rights: Mapping[str, Tensor]) -> dict[str, Any]:
    """Return what each of the paper's three contrasts adds to accuracy, for either kind of token."""
    steps = {}
    for head in ("ssa", "cls"):
        hard, distilled = (f"{head}-last-{supervision}" for supervision in SUPERVISIONS)
        steps[f"{head}: head"] = describe_difference(rights[hard], rights[BASELINE])
        steps[f"{head}: distillation"] = describe_difference(rights[distilled], rights[hard])
        for last, supervision in ((hard, "hard"), (distilled, "distilled")):
            for suffix, title in (("", ""), ("-throughout", ", same head at the end")):
                adaptive = rights[f"{head}-adaptive-{supervision}{suffix}"]
                steps[f"{head}: routing, {supervision}{title}"] = describe_difference(adaptive, rights[last])
    return steps


def _describe_heads(fitted: Fitted, exits: Exits) -> list[dict[str, Any]]:
    """Return how accurate the heads of each exit are, and how much more SSA is than CLS."""
    own, rows = fitted.own_is_right, []
    for index, block in enumerate(exits):
        for supervision in SUPERVISIONS:
            found = {
                kind.head: right[:, index]
                for kind, right in fitted.heads.items()
                if kind.supervision == supervision
            }
            described = {
                head: describe_configuration(right, own, torch.full((len(right),), block / exits[-1]))[
                    "accuracy"
                ]
                for head, right in found.items()
            }
            difference = describe_difference(found["ssa"], found["cls"])
            rows.append({"block": block, "supervision": supervision, **described, "ssa_less_cls": difference})
    return rows


def _curve(fits: Sequence[Routes]) -> list[dict[str, Any]]:
    """Return FLOPs saved and accuracy at each setting, meaned over fits."""
    cost = torch.stack([fit.cost.double().mean(dim=1) for fit in fits]).mean(dim=0)
    accuracy = torch.stack([fit.is_right.double().mean(dim=1) for fit in fits]).mean(dim=0)
    return [
        {"flops_saved": rounded(1 - spent), "accuracy": rounded(right)}
        for spent, right in zip(cost, accuracy, strict=True)
    ]


def _describe_rescue(
    fitted: Fitted, chosen: _Chosen, class_names: Sequence[str], num_exits: int, *, is_cosine: bool
) -> dict[str, Any]:
    """Return quadrants of all fits; classes summed over fits; margins and selectivity of the first fit."""
    full, num_fits = fitted.own_is_right, len(chosen.is_right)
    first, cosines = chosen.is_right[0], fitted.own_logits if is_cosine else None
    return {
        **describe_fits(chosen.is_right, full),
        "classes": describe_rescue_by_class(
            chosen.is_right.flatten(), full.repeat(num_fits), fitted.labels.repeat(num_fits), class_names
        ),
        "margins": describe_margins(first, full, fitted.own_logits.softmax(dim=-1), cosines),
        "selectivity": describe_selectivity(first, full, chosen.exit_index[0] < num_exits - 1),
    }


def _shares(exit_index: Tensor, num_exits: int) -> list[float]:
    counts = torch.bincount(exit_index.flatten().long(), minlength=num_exits)
    return [rounded(count) for count in counts / exit_index.numel()]
