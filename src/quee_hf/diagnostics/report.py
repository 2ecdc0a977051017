"""What a report says of a model: its exits, its paths, its routing and its gates. All results fit JSON.

Every function replays outputs that were collected before; the model must be on the CPU.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from quee_hf.baselines.sweep import Sweep
from quee_hf.blueprint import segment_costs, uniform_paths
from quee_hf.configuration import QuEEConfig
from quee_hf.execution.path_outputs import PathOutputs, replay
from quee_hf.intervals import wilson_interval
from quee_hf.modeling import QuEEForImageClassification
from quee_hf.paths import Path
from quee_hf.routing.costs import path_costs


@dataclass(frozen=True)
class RoutedImages:
    """Where the images went at one lambda.

    Args:
        cost_lambda: At least 0.
        is_correct: `(images,)`, bool.
        cost: `(images,)`, float32, relative to the dearest path.
        node: `(images,)`, int64, which of the model's paths was taken.
        exit_index: `(images,)`, int64, counted from 0.
        error: `(images,)`, float32, predicted probability that the class is wrong.
    """

    cost_lambda: float
    is_correct: Tensor
    cost: Tensor
    node: Tensor
    exit_index: Tensor
    error: Tensor


def route_images(
    model: QuEEForImageClassification, outputs: PathOutputs, lambdas: Sequence[float]
) -> list[RoutedImages]:
    """Replay the gates' decisions at each lambda, in the given order."""
    depths = torch.tensor([len(path) for path in model.paths])
    routed = []
    for value in lambdas:
        routes = replay(model, outputs, float(value))
        is_correct = routes.logits.argmax(dim=-1) == outputs.labels
        cost, exit_index = model.router.costs[routes.node], depths[routes.node] - 1
        routed.append(RoutedImages(float(value), is_correct, cost, routes.node, exit_index, routes.error))
    return routed


def as_sweep(routed: Sequence[RoutedImages]) -> Sweep:
    """Return what each lambda gives each image."""
    return Sweep(
        torch.stack([point.is_correct for point in routed]),
        torch.stack([point.cost for point in routed]),
        torch.stack([point.node for point in routed]).int(),
    )


def describe_accuracy(is_correct: Tensor) -> dict[str, Any]:
    """Return the accuracy on a set of images with its 95 % Wilson interval."""
    count, total = int(is_correct.sum()), len(is_correct)
    low, high = wilson_interval(count, total)
    return {
        "accuracy": rounded(count / total),
        "accuracy_interval": [rounded(low), rounded(high)],
        "num_images": total,
    }


def describe_routing(routed: RoutedImages, num_exits: int) -> dict[str, Any]:
    """Return cost, accuracy, exit shares, and predicted beside actual error at one lambda."""
    shares = torch.bincount(routed.exit_index, minlength=num_exits) / len(routed.exit_index)
    return {
        "cost_lambda": routed.cost_lambda,
        "cost": rounded(routed.cost.double().mean()),
        **describe_accuracy(routed.is_correct),
        "exit_shares": [rounded(share) for share in shares],
        "predicted_error": rounded(routed.error.double().mean()),
        "actual_error": rounded(1 - routed.is_correct.double().mean()),
    }


def describe_thresholds(thresholds: Sequence[float], result: Sweep) -> list[dict[str, Any]]:
    """Return cost and accuracy at each threshold."""
    return [
        {"threshold": threshold, "cost": rounded(cost.double().mean()), **describe_accuracy(is_correct)}
        for threshold, is_correct, cost in zip(thresholds, result.is_correct, result.cost, strict=True)
    ]


def describe_exits(model: QuEEForImageClassification, outputs: PathOutputs) -> list[dict[str, Any]]:
    """Return what each exit achieves if all images leave there, at the most exact level."""
    nodes = model.router.tree.exact_nodes
    return _describe(model, [model.paths[node] for node in nodes], outputs.is_wrong[:, nodes])


def describe_paths(model: QuEEForImageClassification, outputs: PathOutputs) -> list[dict[str, Any]]:
    """Return what each path that the gates know achieves if all images take it."""
    return _describe(model, list(model.paths), outputs.is_wrong)


def describe_uniform(model: QuEEForImageClassification, uniform: PathOutputs) -> list[dict[str, Any]]:
    """Return what the whole network achieves at each single level."""
    return _describe(model, uniform_paths(model.config), uniform.is_wrong)


def _describe(model: QuEEForImageClassification, paths: list[Path], is_wrong: Tensor) -> list[dict[str, Any]]:
    return [
        {**described, **describe_accuracy(~wrong)}
        for described, wrong in zip(name_paths(model.config, paths), is_wrong.T, strict=True)
    ]


def describe_classes(
    model: QuEEForImageClassification, outputs: PathOutputs, cost_lambda: float
) -> dict[str, Any]:
    """Return what becomes of the images of each class at one lambda.

    Returns:
        `paths`, those that any image takes, and for each of `classes` with images how many there are, their
        accuracy and mean cost, and which share takes each of the paths.
    """
    routes = replay(model, outputs, float(cost_lambda))
    is_correct = routes.logits.argmax(dim=-1) == outputs.labels
    costs = model.router.costs[routes.node]
    nodes, taken = routes.node.unique(return_inverse=True)
    classes = []
    for label, name in enumerate(model.config.class_names):
        members = outputs.labels == label
        if not members.any():
            continue
        shares = torch.bincount(taken[members], minlength=len(nodes)) / members.sum()
        classes.append(
            {
                "class": name,
                **describe_accuracy(is_correct[members]),
                "cost": rounded(costs[members].double().mean()),
                "path_shares": [rounded(share) for share in shares],
            }
        )
    paths = [[model.level_list[level] for level in model.paths[node]] for node in nodes.tolist()]
    return {"cost_lambda": float(cost_lambda), "paths": paths, "classes": classes}


def name_paths(config: QuEEConfig, paths: Sequence[Path]) -> list[dict[str, Any]]:
    """Return each path's levels, the block after which it leaves, and its cost."""
    return [
        {
            "path": [config.level_list[level] for level in path],
            "exit_block": config.exit_blocks[len(path) - 1],
            "cost": rounded(cost),
        }
        for path, cost in zip(paths, path_costs(paths, segment_costs(config)), strict=True)
    ]


def rounded(value: float | Tensor) -> float:
    """Return a number with six decimals: what is beyond is noise, and files differ less."""
    return round(float(value), 6)
