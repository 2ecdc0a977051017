"""Tests of `tree_forward`: every path's output, each node run once, few tokens alive."""

import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.execution.test_routed import networks
from tests.execution.toy import ToyNetwork

from quee_hf.execution.prefix_tree import tree_forward
from quee_hf.paths import PathRules


@given(network=networks, count=st.integers(0, 5))
def test_equals_every_path_run_alone(network, count):
    pixel_values = network.images(count)
    logits, variance = tree_forward(network, pixel_values)
    paths = network.router.tree.paths
    assert logits.shape == (count, len(paths), network.num_labels)
    assert logits.dtype == torch.float32
    assert variance.shape == (count, len(paths))
    for node, path in enumerate(paths):
        assert torch.equal(logits[:, node], network.run_alone(pixel_values, path))


@given(network=networks)
def test_each_node_runs_its_segment_exactly_once(network):
    tree_forward(network, network.images(3))
    expected = sorted((len(path) - 1, network.level_list[path[-1]], 3) for path in network.router.tree.paths)
    assert sorted(network.calls) == expected


def test_alive_are_at_most_the_tokens_of_one_branch():
    network = ToyNetwork(PathRules(6, 3, is_monotone=False, is_first_highest=False), max_paths=1100)
    assert len(network.router.tree.paths) == 1092
    tree_forward(network, network.images(2))
    # One per exit on the way down, and the embedded pixels.
    assert network.most_alive <= 6 + 1
