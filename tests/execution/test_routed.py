"""Tests of the routing loop on a toy network: bit for bit against a router that knows one image at a time."""

import collections
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.execution.toy import ToyNetwork
from tests.reference.routing import route

from quee_hf.execution.path_outputs import PathOutputs, replay
from quee_hf.execution.prefix_tree import tree_forward
from quee_hf.execution.routed import routed_forward
from quee_hf.paths import PathRules

LAMBDAS = [0.0, 0.0625, 0.25, 0.5, 1.0, 4.0, math.inf]

rules = st.builds(
    PathRules,
    num_exits=st.integers(1, 5),
    num_levels=st.integers(1, 3),
    is_monotone=st.booleans(),
    is_first_highest=st.booleans(),
)
networks = st.builds(ToyNetwork, rules, max_paths=st.integers(5, 60), seed=st.integers(0, 50))


def route_alone(network, image, cost_lambda):
    """Route one image by the reference."""
    tree = network.router.tree

    def errors(gate, current, previous):
        predicted = network.predict_errors(gate, torch.tensor([current]), torch.tensor([previous]))[
            0
        ].tolist()
        return dict(zip(tree.paths[tree.first_at_depth(gate) :], predicted, strict=True))

    return route(
        costs=dict(zip(tree.paths, network.router.costs.tolist(), strict=True)),
        cost_lambda=cost_lambda,
        probabilities=lambda path: network.run_alone(image[None], path).softmax(dim=-1)[0].tolist(),
        errors=errors,
    )


@given(network=networks, lambdas=st.lists(st.sampled_from(LAMBDAS), max_size=9), seed=st.integers(0, 9))
def test_a_batch_equals_each_image_routed_alone_by_the_reference(network, lambdas, seed):
    pixel_values = network.images(len(lambdas), seed)
    routes = routed_forward(network, pixel_values, torch.tensor(lambdas))
    counted = collections.Counter()
    for i, cost_lambda in enumerate(lambdas):
        path, error = route_alone(network, pixel_values[i], cost_lambda)
        assert network.router.tree.paths[routes.node[i]] == path
        assert routes.error[i].item() == pytest.approx(error, abs=0, nan_ok=True)
        # The logits are those of the path run alone, and of nothing else.
        assert torch.equal(routes.logits[i], network.run_alone(pixel_values[i][None], path)[0])
        counted.update((segment, network.level_list[level]) for segment, level in enumerate(path))
    # Each segment ran at most once per level, on exactly the images whose path it is in.
    assert len(network.calls) == len({call[:2] for call in network.calls})
    assert {call[:2]: call[2] for call in network.calls} == counted


@given(network=networks, lambdas=st.lists(st.sampled_from(LAMBDAS), min_size=1, max_size=9), data=st.data())
def test_neighbours_batch_size_and_order_do_not_matter(network, lambdas, data):
    pixel_values, weights = network.images(len(lambdas)), torch.tensor(lambdas)
    together = routed_forward(network, pixel_values, weights)
    picked = torch.tensor(data.draw(st.lists(st.integers(0, len(lambdas) - 1), min_size=1, max_size=9)))
    routes = routed_forward(network, pixel_values[picked], weights[picked])
    assert torch.equal(routes.node, together.node[picked])
    assert torch.equal(routes.logits, together.logits[picked])
    assert torch.allclose(routes.error, together.error[picked], rtol=0, atol=0, equal_nan=True)


@given(network=networks, lambdas=st.lists(st.sampled_from(LAMBDAS), max_size=9))
def test_replay_equals_routed_forward_without_running_a_segment(network, lambdas):
    pixel_values, weights = network.images(len(lambdas)), torch.tensor(lambdas)
    expected = routed_forward(network, pixel_values, weights)
    outputs = PathOutputs(*tree_forward(network, pixel_values), torch.zeros(len(lambdas), dtype=torch.long))
    network.calls.clear()
    routes = replay(network, outputs, weights)
    assert not network.calls
    assert torch.equal(routes.node, expected.node)
    assert torch.equal(routes.logits, expected.logits)
    assert torch.allclose(routes.error, expected.error, rtol=0, atol=0, equal_nan=True)


@given(network=networks)
def test_run_path_equals_the_path_written_out(network):
    pixel_values = network.images(4)
    for path in network.router.tree.paths:
        network.calls.clear()
        assert torch.equal(network.run_path(pixel_values, path), network.run_alone(pixel_values, path))
        assert network.calls == [(i, network.level_list[level], 4) for i, level in enumerate(path)]


def test_the_examples_do_part_ways():
    """Guard the tests above: their images leave at different exits, at different levels, within one batch."""
    network = ToyNetwork(PathRules(4, 3, is_first_highest=False), seed=7)
    routes = routed_forward(network, network.images(60), torch.tensor(LAMBDAS).repeat(9)[:60])
    paths = [network.router.tree.paths[node] for node in routes.node]
    assert {len(path) for path in paths} == {1, 2, 3, 4}
    assert len({path[:2] for path in paths if len(path) > 1}) >= 3


def test_infinity_takes_the_cheapest_path():
    network = ToyNetwork(PathRules(4, 2), seed=3)
    routes = routed_forward(network, network.images(8), torch.full((8,), torch.inf))
    assert (network.router.costs[routes.node] == network.router.costs.min()).all()


def test_without_a_gate_no_error_is_predicted():
    network = ToyNetwork(PathRules(1, 2))
    routes = routed_forward(network, network.images(3), torch.zeros(3))
    assert routes.node.tolist() == [0, 0, 0]
    assert routes.error.isnan().all()


def test_an_empty_batch_gives_empty_results():
    network = ToyNetwork(PathRules(3, 2))
    routes = routed_forward(network, network.images(0), torch.zeros(0))
    assert routes.node.shape == (0,)
    assert routes.logits.shape == (0, 3)
    assert not network.calls
