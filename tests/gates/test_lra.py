"""Tests of LRA-EE's gates: one linear layer, and a threshold for each exit and lambda."""

import numpy as np
import pytest
import torch
from tests.tiny import generator, randomize

from quee_hf.gates import LRAGates
from quee_hf.gates.lra import MAX_SETTINGS
from quee_hf.gates.spec import GateSpec
from quee_hf.paths import PathRules, PathTree


@pytest.fixture
def gates():
    tree = PathTree(tuple(PathRules(3, 2).enumerate()))
    made = LRAGates(GateSpec(tree, [8, 6], 4, "spatial", hidden_size=9, path_embedding_size=5))
    randomize(made)
    return made


def test_one_linear_layer_on_three_numbers(gates):
    seen = torch.rand(5, 2, 3, generator=generator(0))
    layer = gates.layers["2"]
    expected = (seen[:, -1] * layer.weight[0]).sum(dim=-1) + layer.bias
    torch.testing.assert_close(gates.logits(2, seen), expected)
    assert gates.numbers == [1, 2]


def test_until_thresholds_are_set_nothing_leaves(gates):
    fresh = LRAGates(GateSpec(PathTree(((0,), (0, 0))), [8], 4, "spatial", 9, 5))
    assert (fresh.threshold(1, np.array([0.0, 1.0, 100.0, np.inf], np.float32)) > 1).all()


def test_the_largest_lambda_not_above_counts(gates):
    gates.set_thresholds(torch.tensor([0.1, 1.0]), torch.tensor([[0.9, 0.8], [0.5, 0.4]]))
    found = gates.threshold(2, np.array([0.0, 0.05, 0.1, 0.99, 1.0, 50.0, np.inf], np.float32))
    # Below the smallest nothing leaves; at infinity everything does.
    assert found.tolist() == pytest.approx([2.0, 2.0, 0.8, 0.8, 0.4, 0.4, 0.0])
    assert found.dtype == np.float32


@pytest.mark.parametrize("lambdas", [[], [0.1, 0.1], [0.2, 0.1], list(range(MAX_SETTINGS))])
def test_lambdas_that_do_not_ascend_or_fit_are_refused(gates, lambdas):
    with pytest.raises(ValueError, match=f"1 to {MAX_SETTINGS - 1} lambdas, ascending"):
        gates.set_thresholds(torch.tensor(lambdas, dtype=torch.float32), torch.zeros(len(lambdas), 2))


def test_all_that_is_stored_is_finite(gates):
    gates.set_thresholds(torch.tensor([0.0]), torch.tensor([[0.9, 0.8]]))
    assert all(tensor.isfinite().all() for tensor in gates.state_dict().values())


@pytest.mark.parametrize(
    ("features", "num_labels", "may"),
    [
        ("spatial", 2, True),
        ("spatial", 1000, True),
        ("confidence", 3, True),
        ("confidence", 2, False),
        ("history", 1000, True),
        ("history", 2, False),
        ("probabilities", 4, False),
        ("probabilities", 5, False),
    ],
)
def test_they_suit_other_classes_if_they_do_not_know_which(features, num_labels, may):
    tree = PathTree(tuple(PathRules(3, 2).enumerate()))
    gates = LRAGates(GateSpec(tree, [8, 6], 4, features, hidden_size=9, path_embedding_size=5))
    assert gates.suit_other_classes(num_labels) is may
