"""Tests of what gates see: Eq. (13) by hand and against a loop, and the confidence features."""

import math

import pytest
import torch
from tests.reference.gates import features
from tests.tiny import generator

from quee_hf.gates.features import GATE_FEATURES, seen_at_depth
from quee_hf.paths import PathRules, PathTree


def join(name, *exits):
    """Return the features of images that passed these exits, `(..., labels)` each, the newest first."""
    kind = GATE_FEATURES[name]
    summaries = [kind.summarize(rows, torch.zeros(rows.shape[:-1])) for rows in reversed(exits)]
    return kind.features(torch.stack(summaries, dim=-2), exits[0].shape[-1])


def probability_features(current, previous):
    return join("probabilities", current, previous)


def confidence_features(current, previous):
    return join("confidence", current, previous)


def test_by_hand():
    current, previous = torch.tensor([[1.0, 0.0, 0.0, 0.0]]), torch.tensor([[0.5, 0.25, 0.25, 0.0]])
    # Entropies in units of ln 4: 0, and (1/2 ln 2 + 2 * 1/4 ln 4) / ln 4 = 0.75. Maxima: previous, then current.
    expected = [1.0, 0.0, 0.0, 0.0, 0.5, 0.25, 0.25, 0.0, 0.0, 0.75, 0.5, 1.0]
    torch.testing.assert_close(probability_features(current, previous), torch.tensor([expected]))


def test_equals_a_loop():
    current, previous = torch.randn(2, 7, 3, 5, generator=generator(0)).double().softmax(dim=-1)
    result = probability_features(current, previous)
    assert result.shape == (7, 3, GATE_FEATURES["probabilities"].size(5, 2))
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
    unknown = torch.full((3, 8), 0.125)
    result = join("probabilities", unknown)  # the first exit: what is before it counts as uniform
    torch.testing.assert_close(result, torch.tensor([[0.125] * 16 + [1.0, 1.0, 0.125, 0.125]] * 3))
    current = torch.randn(4, 5, generator=generator(3)).softmax(dim=-1)
    uniform = torch.full((4, 5), 0.2)
    torch.testing.assert_close(join("confidence", current), join("confidence", current, uniform))


@pytest.mark.parametrize("name", GATE_FEATURES)
@pytest.mark.parametrize("num_labels", [2, 3, 10, 1000])
def test_size_is_as_announced_and_all_is_finite(name, num_labels):
    # The most extreme softmax there is: one class takes all, to the last bit.
    current = torch.eye(num_labels)[:2]
    for exits in ([current], [current, current.flip(0)], [current, current.flip(0), current]):
        result = join(name, *exits)
        assert result.shape == (2, GATE_FEATURES[name].size(num_labels, len(exits)))
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
    unknown = torch.full((1, 3), 1 / 3)
    gap = (confidence_features(surer, unknown) - confidence_features(sure, unknown)).abs().max()
    assert gap > 0.5  # the second probabilities differ by ln 10 = 2.3, in units of 4


def test_history_knows_how_sure_every_exit_was_and_which_agree():
    newest, middle, oldest = torch.randn(3, 6, 4, generator=generator(5)).softmax(dim=-1)
    result = join("history", newest, middle, oldest)
    sure = [GATE_FEATURES["confidence"].summarize(rows, torch.zeros(6)) for rows in (oldest, middle, newest)]
    torch.testing.assert_close(result[:, :12], torch.cat(sure, dim=-1))
    agrees = [rows.argmax(-1) == newest.argmax(-1) for rows in (oldest, middle)]
    assert torch.equal(result[:, 12:], torch.stack(agrees, dim=-1).float())
    assert 0 < result[:, 12:].mean() < 1


def test_space_by_hand():
    kind = GATE_FEATURES["spatial"]
    summary = kind.summarize(torch.tensor([[0.1, 0.6, 0.3]]), torch.tensor([2.5]))
    torch.testing.assert_close(summary, torch.tensor([[0.6, 0.3, 2.5]]))
    assert torch.equal(kind.features(torch.stack([summary + 1, summary], dim=1), 3), summary)


def test_seen_are_the_exits_on_the_way_to_each_node():
    tree = PathTree(tuple(PathRules(4, 3, is_first_highest=False).select(40, seed=1)))
    summaries = torch.arange(2 * len(tree.paths)).reshape(2, -1, 1)
    for depth in range(1, 5):
        seen = seen_at_depth(tree, depth, summaries)
        for position, node in enumerate(tree.at_depth(depth)):
            passed = [tree.index[tree.paths[node][: length + 1]] for length in range(depth)]
            assert torch.equal(seen[:, position], summaries[:, passed])
