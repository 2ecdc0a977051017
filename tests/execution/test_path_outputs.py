"""Tests of `PathOutputs` and how they are collected."""

import pytest
import torch
from tests.execution.toy import ToyNetwork

from quee_hf.execution.path_outputs import PathOutputs, collect_path_outputs
from quee_hf.execution.prefix_tree import tree_forward
from quee_hf.paths import PathRules


@pytest.fixture
def network():
    return ToyNetwork(PathRules(3, 2))


def examples(network, count):
    return [{"pixel_values": image, "labels": i % 3} for i, image in enumerate(network.images(count))]


@pytest.mark.parametrize("batch_size", [1, 3, 7, 64])
def test_collects_the_outputs_of_the_whole_tree_whatever_the_batch_size(network, batch_size):
    outputs = collect_path_outputs(network, examples(network, 7), batch_size=batch_size)
    assert len(outputs) == 7
    logits, variance = tree_forward(network, network.images(7))
    assert torch.equal(outputs.logits, logits)
    assert torch.equal(outputs.variance, variance)
    assert outputs.labels.tolist() == [0, 1, 2, 0, 1, 2, 0]
    assert outputs.labels.dtype == torch.int64


def test_what_is_collected_can_be_trained_on(network):
    logits = collect_path_outputs(network, examples(network, 4)).logits
    weight = torch.ones(3, requires_grad=True)
    (logits * weight).sum().backward()
    assert weight.grad is not None


def test_an_empty_data_set_is_refused(network):
    with pytest.raises(ValueError, match="The data set is empty"):
        collect_path_outputs(network, [])


def test_probabilities_and_errors_by_hand():
    logits = torch.tensor([[[0.0, 0.0], [0.0, 1.0]], [[5.0, 0.0], [0.0, 5.0]]])  # 2 images, 2 paths
    outputs = PathOutputs(logits, logits[..., 0], torch.tensor([1, 0]))
    assert outputs.probabilities[0, 0].tolist() == [0.5, 0.5]
    # Of equal logits the first class is the prediction.
    assert outputs.is_wrong.tolist() == [[True, False], [False, True]]
    second = outputs.select(torch.tensor([1]))
    assert second.is_wrong.tolist() == [[False, True]]
    assert len(second) == 1
