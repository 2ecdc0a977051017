"""What a comparison says beside its main table: widths, other costs, gates, classes."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quee_hf.baselines import Sweep
from quee_hf.blueprint import segment_costs, uniform_paths
from quee_hf.build.comparison_methods import METHODS, OWN, Fitted, OwnGates
from quee_hf.configuration import COST_MODELS
from quee_hf.diagnostics.comparison import compare_sweeps
from quee_hf.diagnostics.gate_quality import describe_gates
from quee_hf.diagnostics.report import (
    as_sweep,
    describe_classes,
    describe_uniform,
    rounded,
    route_images,
)
from quee_hf.execution.operating_points import DEFAULT_LAMBDAS
from quee_hf.execution.path_outputs import PathOutputs
from quee_hf.modeling import QuEEForImageClassification
from quee_hf.routing.costs import path_costs

_MOST_LOST = 0.01  # of accuracy, where classes are described
_FEWER_RESAMPLES = 300  # where intervals stand beside others


def describe_widths(model: QuEEForImageClassification, uniform: PathOutputs) -> list[dict[str, Any]]:
    """Return what the whole network costs and achieves at each level."""
    described = describe_uniform(model, uniform)
    return [{"level": row["path"][0], "cost": row["cost"], "accuracy": row["accuracy"]} for row in described]


def at_other_costs(
    model: QuEEForImageClassification, sweeps: Mapping[str, Sequence[Sweep]], full_path: NDArray[np.bool_]
) -> dict[str, Any]:
    """Compare the same routes by what they cost under other cost models than the one they were made for."""
    config, found = model.config, {}
    paths = [*model.paths, *uniform_paths(config)]
    for name in COST_MODELS:
        if name != config.cost_model and (name != "latency" or config.cost_table is not None):
            costs = path_costs(paths, segment_costs(config, name))
            changed = {
                method: [sweep._replace(cost=costs[sweep.node]) for sweep in made]
                for method, made in sweeps.items()
            }
            compared = compare_sweeps(changed, OWN, full_path, num_resamples=_FEWER_RESAMPLES)
            found[name] = {
                method: {key: row[key] for key in ("area", "accuracy_at_cost", "cost_at_drop")}
                for method, row in compared.items()
            }
    return found


def describe_own(
    model: QuEEForImageClassification, fits: Mapping[str, list[Fitted]], outputs: PathOutputs
) -> dict[str, list[dict[str, Any]]]:
    """Return how well each method's gates predict errors, the mean over fits, for gates of QuEE's kind."""
    described = {}
    for name, fitted in fits.items():
        method = METHODS[name]
        if isinstance(method, OwnGates):
            models = [method.restore(model, one.gates) for one in fitted]
            described[name] = _mean([describe_gates(fresh, outputs) for fresh in models])
    return described


def _mean(found: Sequence[list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """Return the mean of each number; `None` if one is missing."""
    means = []
    for gate in zip(*found, strict=True):
        columns = {name: [one[name] for one in gate] for name in gate[0]}
        means.append(
            {
                name: None if None in values else rounded(sum(values) / len(values))
                for name, values in columns.items()
            }
        )
        means[-1]["exit_block"] = gate[0]["exit_block"]
    return means


def classes_at_most_lost(
    model: QuEEForImageClassification, fits: Mapping[str, list[Fitted]], known: PathOutputs, test: PathOutputs
) -> dict[str, Any]:
    """Return what becomes of each class of test images in the first fit.

    Lambda is the largest at which the images that gates learnt from are at most a point less often right than
    by the full path.
    """
    own = METHODS[OWN]
    assert isinstance(own, OwnGates)
    fresh = own.restore(model, fits[OWN][0].gates)
    accuracy = as_sweep(route_images(fresh, known, DEFAULT_LAMBDAS)).is_correct.double().mean(dim=1)
    full = 1 - known.is_wrong[:, model.router.tree.exact_nodes[-1]].double().mean()
    points = zip(DEFAULT_LAMBDAS, accuracy, strict=True)
    kept = [value for value, found in points if found >= full - _MOST_LOST]
    return describe_classes(fresh, test, max(kept, default=0.0))
