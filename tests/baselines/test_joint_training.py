"""Tests of JEI-DNN: shares of images, what gates are taught, and that training pays."""

import numpy as np
import pytest
import torch
from tests.baselines.conftest import LEVELS, NUM_EXITS, NUM_LABELS, router
from tests.tiny import randomize
from torch import nn

from quee_hf.baselines import GateData
from quee_hf.baselines.joint_training import (
    JointGates,
    exit_scores,
    leave_by_gates,
    leaving_shares,
    train_jointly,
)
from quee_hf.execution.path_outputs import PathOutputs

SIZE = 6


def features(router, count, seed):
    """Images whose class every exit sees better than the one before; some are harder than others."""
    random = torch.Generator().manual_seed(seed)
    labels = torch.randint(NUM_LABELS, (count,), generator=random)
    sight = torch.rand(count, 1, 1, generator=random) * torch.arange(1.0, NUM_EXITS)[:, None]
    pooled = torch.randn(count, NUM_EXITS - 1, SIZE, generator=random)
    pooled[..., :NUM_LABELS] += 3 * sight * nn.functional.one_hot(labels, NUM_LABELS)[:, None]
    logits = torch.randn(count, len(router.tree.paths), NUM_LABELS, generator=random)
    logits[:, router.tree.exact_nodes[-1]] += 5 * nn.functional.one_hot(labels, NUM_LABELS)
    return PathOutputs(logits, logits[..., 0], labels, pooled)


def train(cost_lambda, seed=0):
    place, heads = router(), nn.ModuleList(nn.Linear(SIZE, NUM_LABELS) for _ in range(NUM_EXITS - 1))
    for head in heads:
        randomize(head, seed=1)

    def compute(pooled):
        return torch.stack([head(pooled[:, i]) for i, head in enumerate(heads)], dim=1)

    data = GateData(place, LEVELS, features(place, 2000, seed=1), features(place, 500, seed=3), seed)
    gates = train_jointly(heads, compute, data, cost_lambda=cost_lambda, num_epochs=30)
    test = features(place, 500, seed=2)
    with torch.no_grad():
        logits = compute(test.pooled)
        return leave_by_gates([(logits, gates(logits))], place, test)


def test_scores_against_numpy():
    probabilities = np.array([0.7, 0.2, 0.1])
    squared = probabilities**2 / (probabilities**2).sum()
    expected = [0.7, -(probabilities * np.log(probabilities)).sum(), 0.5, -(squared * np.log(squared)).sum()]
    found = exit_scores(torch.tensor(np.log(probabilities)))
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-12)


@pytest.mark.parametrize(
    ("leaving", "expected"),
    [([0.2, 0.3], [0.2, 0.3, 0.5]), ([0.8, 0.9], [0.8, 0.2, 0.0]), ([0.0, 0.0], [0.0, 0.0, 1.0])],
)
def test_shares_are_those_that_are_left(leaving, expected):
    assert leaving_shares(torch.tensor([leaving])).tolist() == [pytest.approx(expected)]


def test_depth_has_a_price():
    """Where it is dear, nearly all leave at once. Without a price, too, images leave where they are surest."""
    free, dear = (train(price) for price in (0.0, 20.0))
    assert free.cost.mean() > dear.cost.mean() + 0.2
    assert free.is_correct.double().mean() > dear.is_correct.double().mean()
    first = router().costs[router().tree.exact_nodes[0]]
    assert float((dear.cost == first).double().mean()) > 0.95


def test_the_seed_decides():
    first = train(1.0)
    torch.rand(7)  # whatever was drawn before
    second = train(1.0)
    assert torch.equal(first.is_correct, second.is_correct)
    assert torch.equal(first.cost, second.cost)


def test_the_last_exit_is_the_backbones_own():
    place = router()
    test = features(place, 50, seed=2)
    gates = JointGates(NUM_EXITS - 1)
    nodes = place.tree.exact_nodes
    never = torch.full((50, NUM_EXITS - 1), -1.0)
    sweep = leave_by_gates([(torch.zeros(50, NUM_EXITS - 1, NUM_LABELS), never)], place, test)
    assert torch.equal(sweep.is_correct[0], ~test.is_wrong[:, nodes[-1]])
    assert len(gates.weight) == NUM_EXITS - 1
