"""Tests of operating points."""

import math

import pytest
import torch
from tests.execution.toy import ToyNetwork

from quee_hf.execution.operating_points import (
    DEFAULT_LAMBDAS,
    cheapest_within,
    lambda_for_cost,
    measure_operating_points,
)
from quee_hf.execution.path_outputs import PathOutputs
from quee_hf.execution.prefix_tree import tree_forward
from quee_hf.execution.routed import routed_forward
from quee_hf.paths import PathRules

POINTS = [
    {"cost_lambda": 0.0, "cost": 0.9, "accuracy": 0.95},
    {"cost_lambda": 0.1, "cost": 0.6, "accuracy": 0.95},
    {"cost_lambda": 0.3, "cost": 0.4, "accuracy": 0.93},
    {"cost_lambda": 1.0, "cost": 0.2, "accuracy": 0.70},
]


def test_measures_what_routing_costs_and_gets_right():
    network = ToyNetwork(PathRules(4, 2))
    pixel_values, labels = network.images(40), torch.arange(40) % 3
    outputs = PathOutputs(*tree_forward(network, pixel_values), labels)
    lambdas = [4.0, 0.0, 0.25, math.inf]
    points = measure_operating_points(network, outputs, lambdas)
    assert [point["cost_lambda"] for point in points] == sorted(lambdas)
    for point in points:
        routes = routed_forward(network, pixel_values, torch.full((40,), point["cost_lambda"]))
        paths = [network.router.tree.paths[node] for node in routes.node]
        costs = [network.router.costs[network.router.tree.index[path]].item() for path in paths]
        right = [logits.argmax().item() == label for logits, label in zip(routes.logits, labels, strict=True)]
        assert point["num_images"] == 40
        assert point["cost"] == pytest.approx(sum(costs) / 40)
        assert point["accuracy"] == pytest.approx(sum(right) / 40)
        shares = [sum(len(path) == depth for path in paths) / 40 for depth in (1, 2, 3, 4)]
        assert point["exit_shares"] == pytest.approx(shares, abs=1e-6)  # stored with six places
    assert len({point["cost"] for point in points}) > 1


def test_the_default_lambdas_ascend_from_0():
    assert DEFAULT_LAMBDAS[0] == 0
    assert list(DEFAULT_LAMBDAS) == sorted(set(DEFAULT_LAMBDAS))


@pytest.mark.parametrize(
    ("accuracy", "expected"), [(0.95, 0.1), (0.94, 0.1), (0.93, 0.3), (0.1, 1.0), (0.96, None)]
)
def test_cheapest_within_by_hand(accuracy, expected):
    assert cheapest_within(POINTS, accuracy) == expected


@pytest.mark.parametrize(("target", "expected"), [(1.0, 0.1), (0.6, 0.1), (0.59, 0.3), (0.2, 1.0)])
def test_lambda_for_cost_takes_the_most_accurate_then_the_cheapest(target, expected):
    assert lambda_for_cost(POINTS, target) == expected


def test_lambda_for_cost_says_what_cannot_be_had():
    with pytest.raises(ValueError, match=r"`target_cost` 0.1 is below the cheapest operating point, 0.200"):
        lambda_for_cost(POINTS, 0.1)
    for nothing in (None, []):
        with pytest.raises(ValueError, match=r"needs operating points; run `model.fit_operating_points"):
            lambda_for_cost(nothing, 0.5)
