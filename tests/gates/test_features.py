"""Tests of what gates see: Eq. (13) by hand and against a loop, and the confidence features."""

import math

import pytest
import torch
from tests.reference.gates import features
from tests.tiny import generator

from quee_hf.gates.features import (
    GATE_FEATURES,
    confidence_features,
    probability_features,
    probability_size,
    unknown_probabilities,
)


def test_by_hand():
    current, previous = torch.tensor([[1.0, 0.0, 0.0, 0.0]]), torch.tensor([[0.5, 0.25, 0.25, 0.0]])
    # Entropies in units of ln 4: 0, and (1/2 ln 2 + 2 * 1/4 ln 4) / ln 4 = 0.75. Maxima: previous, then current.
    expected = [1.0, 0.0, 0.0, 0.0, 0.5, 0.25, 0.25, 0.0, 0.0, 0.75, 0.5, 1.0]
    torch.testing.assert_close(probability_features(current, previous), torch.tensor([expected]))


def test_equals_a_loop():
    current, previous = torch.randn(2, 7, 3, 5, generator=generator(0)).double().softmax(dim=-1)
    result = probability_features(current, previous)
    assert result.shape == (7, 3, probability_size(5))
    for index in ((i, j) for i in range(7) for j in range(3)):
        expected = features(current[index].tolist(), previous[index].tolist())
        torch.testing.assert_close(result[index].tolist(), expected, rtol=1e-12, atol=1e-12)


def test_entries_lie_between_0_and_1():
    logits = torch.randn(100, 10, generator=generator(0)) * torch.logspace(-3, 3, 100)[:, None]
    result = probability_features(logits.softmax(dim=-1), logits.flip(0).softmax(dim=-1))
    # 1e-6: the sum of 10 float32 terms may exceed the uniform distribution's by some roundings.
    assert result.min() >= 0
    assert result.max() <= 1 + 1e-6


def test_nothing_known_is_uniform_and_of_full_entropy():
    unknown = unknown_probabilities(3, 8)
    assert unknown.dtype == torch.float32
    assert unknown.tolist() == [[0.125] * 8] * 3
    result = probability_features(unknown, unknown)
    torch.testing.assert_close(result[:, 16:], torch.tensor([[1.0, 1.0, 0.125, 0.125]] * 3))


@pytest.mark.parametrize("name", GATE_FEATURES)
@pytest.mark.parametrize("num_labels", [2, 3, 10, 1000])
def test_size_is_as_announced_and_all_is_finite(name, num_labels):
    # The most extreme softmax there is: one class takes all, to the last bit.
    current = torch.eye(num_labels)[:2]
    kind = GATE_FEATURES[name]
    result = kind.compute(current, current.flip(0))
    assert result.shape == (2, kind.size(num_labels))
    assert result.isfinite().all()


def test_confidence_by_hand():
    current, previous = torch.tensor([[0.5, 0.25, 0.25]]), torch.tensor([[0.25, 0.5, 0.25]])
    half, quarter = math.log(0.5), math.log(0.25)
    entropy = math.log(-0.5 * half - 0.5 * quarter)
    # Logarithms by rank, then of the entropy, in units of 4; of either exit.
    expected = [log / 4 for log in [half, quarter, quarter, entropy] * 2]
    torch.testing.assert_close(confidence_features(current, previous), torch.tensor([expected]))


def test_confidence_does_not_depend_on_which_class_it_is():
    current, previous = torch.randn(2, 20, 6, generator=generator(1)).softmax(dim=-1)
    order = torch.randperm(6, generator=generator(2))
    permuted = confidence_features(current[:, order], previous[:, order])
    torch.testing.assert_close(permuted, confidence_features(current, previous))


def test_confidence_tells_sure_from_surer():
    sure, surer = torch.tensor([[0.99, 0.01, 0.0]]), torch.tensor([[0.999, 0.001, 0.0]])
    unknown = unknown_probabilities(1, 3)
    gap = (confidence_features(surer, unknown) - confidence_features(sure, unknown)).abs().max()
    assert gap > 0.5  # the second probabilities differ by ln 10 = 2.3, in units of 4
