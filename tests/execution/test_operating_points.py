"""Tests of operating points."""

import math
from types import SimpleNamespace

import pytest
import torch
from tests.execution.toy import ToyNetwork
from tests.profiles import make_profile
from transformers import ViTConfig

from quee_hf import QuEEConfig
from quee_hf.execution.operating_points import (
    DEFAULT_LAMBDAS,
    cheapest_within,
    lambda_for_cost,
    lambda_for_latency,
    lambda_within,
    measure_operating_points,
)
from quee_hf.execution.path_outputs import PathOutputs
from quee_hf.execution.prefix_tree import tree_forward
from quee_hf.execution.routed import routed_forward
from quee_hf.machine import this_machine
from quee_hf.paths import PathRules

POINTS = [
    {"cost_lambda": 0.0, "cost": 0.9, "accuracy": 0.95},
    {"cost_lambda": 0.1, "cost": 0.6, "accuracy": 0.95},
    {"cost_lambda": 0.3, "cost": 0.4, "accuracy": 0.93},
    {"cost_lambda": 1.0, "cost": 0.2, "accuracy": 0.70},
]
TIMED = [{**point, "latency_ms": 10 * point["cost"]} for point in POINTS]


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


def test_times_are_means_over_the_images():
    network = ToyNetwork(PathRules(3, 2))
    outputs = PathOutputs(*tree_forward(network, network.images(20)), torch.zeros(20).long())
    times = torch.arange(1.0, len(network.router.tree.paths) + 1).tolist()
    (point,) = measure_operating_points(network, outputs, [0.2], times)
    nodes = routed_forward(network, network.images(20), 0.2).node
    assert point["latency_ms"] == pytest.approx((nodes + 1).double().mean().item(), abs=1e-6)


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


@pytest.mark.parametrize(("target", "expected"), [(math.inf, 0.1), (6.0, 0.1), (5.9, 0.3), (2.0, 1.0)])
def test_lambda_for_latency_takes_the_most_accurate_then_the_fastest(target, expected):
    assert lambda_for_latency(TIMED, target) == expected


def test_a_limit_may_be_met_but_for_the_rounding_of_costs():
    rounded = [{**point, "cost": float(torch.tensor(point["cost"]))} for point in POINTS]
    assert rounded[-1]["cost"] > 0.2
    assert lambda_for_cost(rounded, 0.2) == 1.0


def test_lambda_for_latency_says_what_cannot_be_had():
    with pytest.raises(ValueError, match=r"`target_latency_ms` 1 is below .* operating point, 2.000 ms"):
        lambda_for_latency(TIMED, 1)
    for nothing in (None, [], POINTS, [*TIMED, POINTS[0]]):
        with pytest.raises(ValueError, match="needs operating points with measured times; run `quee profile"):
            lambda_for_latency(nothing, 5.0)


class TestLambdaWithin:
    def model(self, points, cost_model="bitops"):
        config = QuEEConfig(
            backbone_config=ViTConfig(),
            operating_points=points,
            record={"profile": make_profile(3, 2, machine=this_machine(torch.device("cpu")))},
        )
        config.cost_model = cost_model
        return SimpleNamespace(config=config, engine="torch", device=torch.device("cpu"))

    def test_either_limit(self):
        model = self.model(TIMED)
        assert lambda_within(model, target_cost=0.5) == lambda_within(model, target_latency_ms=5.0) == 0.3

    def test_points_at_other_costs_are_refused(self):
        model = self.model([{**point, "cost_model": "bitops"} for point in TIMED], "flops")
        for limit in ({"target_cost": 0.5}, {"target_latency_ms": 5.0}):
            with pytest.raises(
                ValueError, match="measured at costs in 'bitops', but `cost_model` is 'flops'"
            ):
                lambda_within(model, **limit)

    def test_times_of_another_engine_are_pointed_out(self):
        model = self.model(TIMED)
        model.engine = "slide rule"
        assert lambda_within(model, target_cost=0.5) == 0.3
        with pytest.warns(UserWarning, match="'torch' on .*, but the model runs with 'slide rule'"):
            assert lambda_within(model, target_latency_ms=5.0) == 0.3


def test_lambda_for_cost_says_what_cannot_be_had():
    with pytest.raises(ValueError, match=r"`target_cost` 0.1 is below the cheapest operating point, 0.200"):
        lambda_for_cost(POINTS, 0.1)
    for nothing in (None, []):
        with pytest.raises(ValueError, match=r"needs operating points; run `model.fit_operating_points"):
            lambda_for_cost(nothing, 0.5)
