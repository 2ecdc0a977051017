"""LRA-EE's gates and thresholds on trained heads, and where they send test images."""

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor
from transformers import set_seed

from quee_hf.build.rescue_heads import stand_in
from quee_hf.build.training import Schedule, fit_gates
from quee_hf.diagnostics.report import route_images
from quee_hf.execution.operating_points import lambda_for_cost, measure_operating_points
from quee_hf.execution.path_outputs import PathOutputs
from quee_hf.gates import LRAGates
from quee_hf.modeling import QuEEForImageClassification
from quee_hf.routing.thresholds import search_thresholds_within
from quee_hf.training.gates import gate_arguments, gate_scores

NUM_SETTINGS = 60  # budgets for which thresholds are chosen, from all FLOPs to those of the first exit
# Of the validation images: gates and thresholds, early stopping of gates, choice of the operating point.
SHARES = (0.4, 0.1, 0.5)
# What classifies images that do not leave early: the classifier's own head, or one of the same kind.
ENDINGS = ("own", "same")


class Division(NamedTuple):
    """Positions of the validation images with each role, `(images,)` int64."""

    training: Tensor
    stopping: Tensor
    choosing: Tensor


class Routes(NamedTuple):
    """Where test images leave at each setting of thresholds, and what it gives on other images."""

    is_right: Tensor  # (settings, images), bool
    exit_index: Tensor  # (settings, images), uint8, counted from 0
    cost: Tensor  # (settings, images), float32, FLOPs relative to the whole network
    budget: Tensor  # (settings,), float64, for which thresholds were chosen, descending
    point_cost: Tensor  # (settings,), float64, mean on the images that choose the operating point
    point_accuracy: Tensor  # (settings,), float64, the same

    def setting_within(self, budget: float) -> int:
        """Return which setting is the most accurate of those within a budget, as the choosing images see it.

        Raises:
            ValueError: If all cost more.
        """
        points = [
            {"cost_lambda": float(index), "cost": cost, "accuracy": accuracy}
            for index, (cost, accuracy) in enumerate(
                zip(self.point_cost.tolist(), self.point_accuracy.tolist(), strict=True)
            )
        ]
        return int(lambda_for_cost(points, budget))


def routing_stand_in(network: QuEEForImageClassification, exit_blocks: Sequence[int]) -> Any:
    """Return a stand-in with LRA-EE's gates, untrained, which leaves after some of a network's exits."""
    return stand_in(
        network, list(exit_blocks), gate_type="lra", gate_features="spatial", cost_model="flops", max_paths=50
    )


def fit_routes(
    model: QuEEForImageClassification,
    outputs: Mapping[str, tuple[PathOutputs, PathOutputs]],
    division: Division,
    schedule: Schedule,
) -> dict[str, Routes]:
    """Train gates once, choose thresholds for each ending, and route the test images.

    Gates stand before the last exit and learn whether the exit where they stand is right: they do not depend
    on what the last exit says. Thresholds do.

    Args:
        model: As `routing_stand_in` returns it; changed.
        outputs: For each of `ENDINGS`, what the exits say of the validation and of the test images.
        division: Of the validation images.
        schedule: Of the gates.

    Returns:
        For each ending the routes.
    """
    first, _ = next(iter(outputs.values()))
    with torch.random.fork_rng(devices=[]), tempfile.TemporaryDirectory() as folder:
        set_seed(schedule.seed)
        parts = (first.select(division.training), first.select(division.stopping))
        fit_gates(model, parts, schedule, Path(folder) / "checkpoints")
    found = {}
    for ending, (validation, test) in outputs.items():
        budgets = _fit_thresholds(model, validation.select(division.training))
        found[ending] = _route(model, budgets, validation.select(division.choosing), test)
    return found


def gate_schedule(num_epochs: int, seed: int) -> Schedule:
    """Return how gates are trained."""
    return Schedule(num_epochs, gate_arguments("lra")["learning_rate"], seed)


def _fit_thresholds(model: QuEEForImageClassification, known: PathOutputs) -> Tensor:
    """Choose thresholds for descending budgets, in place; the number of a setting stands for its lambda."""
    costs = model.router.costs
    budgets = torch.linspace(1, float(costs[0]), NUM_SETTINGS, dtype=torch.float64)
    scores = gate_scores(model, model.summarize(known.readings()))
    thresholds = search_thresholds_within(scores, ~known.is_wrong, costs, budgets.tolist())
    thresholds[-1] = 0.0  # what is allowed the first exit only leaves there, however unsure
    cast(LRAGates, model.gates).set_thresholds(torch.arange(NUM_SETTINGS).float(), thresholds)
    return budgets


def _route(
    model: QuEEForImageClassification, budgets: Tensor, choosing: PathOutputs, test: PathOutputs
) -> Routes:
    settings = [float(number) for number in range(len(budgets))]
    points = measure_operating_points(model, choosing, settings)
    routed = route_images(model, test, settings)
    return Routes(
        torch.stack([point.is_correct for point in routed]),
        torch.stack([point.exit_index for point in routed]).to(torch.uint8),
        torch.stack([point.cost for point in routed]),
        budgets,
        torch.tensor([point["cost"] for point in points], dtype=torch.float64),
        torch.tensor([point["accuracy"] for point in points], dtype=torch.float64),
    )
