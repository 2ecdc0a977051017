"""Tests of heads on class tokens."""

import torch
from tests.baselines.conftest import LEVELS, NUM_EXITS, NUM_LABELS, router
from tests.baselines.test_joint_training import SIZE, features
from torch import nn

from quee_hf.baselines import GateData
from quee_hf.baselines.class_token import train_class_heads


def with_tokens(count, seed):
    """Images whose class tokens are what other heads read of them."""
    found = features(router(), count, seed)
    return type(found)(found.logits, found.variance, found.labels, class_tokens=found.pooled)


def train(seed=0):
    heads = nn.ModuleList(nn.Linear(SIZE, NUM_LABELS) for _ in range(NUM_EXITS - 1))
    for head in heads:
        nn.init.zeros_(head.weight)
        nn.init.zeros_(head.bias)

    def compute(tokens):
        return torch.stack([head(tokens[:, i]) for i, head in enumerate(heads)], dim=1)

    data = GateData(router(), LEVELS, with_tokens(1000, 1), with_tokens(300, 2), seed)
    train_class_heads(heads, compute, data)
    test = with_tokens(500, 3)
    with torch.no_grad():
        return (compute(test.class_tokens).argmax(dim=-1) == test.labels[:, None]).float().mean(dim=0)


def test_heads_learn_and_deeper_ones_see_more():
    accuracy = train()
    assert float(accuracy[0]) > 1 / NUM_LABELS + 0.15
    assert float(accuracy[-1]) > float(accuracy[0])


def test_the_seed_decides():
    first = train()
    torch.rand(7)
    assert torch.equal(first, train())
