"""Tests of thresholds on confidence, against a loop over images."""

import pytest
import torch

from quee_hf.baselines.confidence import DEFAULT_THRESHOLDS, threshold_exits
from quee_hf.execution.path_outputs import PathOutputs
from quee_hf.paths import PathRules, PathTree
from quee_hf.routing.costs import path_costs
from quee_hf.routing.router import Router

NUM_EXITS, NUM_LABELS = 3, 4


@pytest.fixture
def router() -> Router:
    paths = PathRules(NUM_EXITS, num_levels=2).enumerate()
    return Router(PathTree(tuple(paths)), path_costs(paths, [[8.0, 4.0]] * NUM_EXITS))


def random_outputs(router: Router, num_images: int = 50) -> PathOutputs:
    random = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(num_images, len(router.tree.paths), NUM_LABELS, generator=random)
    return PathOutputs(logits, logits[..., 0], torch.randint(NUM_LABELS, (num_images,), generator=random))


def test_exact_nodes_are_the_most_exact_path(router):
    assert [router.tree.paths[node] for node in router.tree.exact_nodes] == [(0,), (0, 0), (0, 0, 0)]


def test_equals_a_loop_over_images(router):
    outputs, thresholds = random_outputs(router), [0.3, 0.6, 0.9]
    is_correct, cost, taken = threshold_exits(router, outputs, thresholds)
    assert is_correct.shape == cost.shape == (3, 50)
    for row, threshold in enumerate(thresholds):
        for image in range(len(outputs)):
            for depth in range(1, NUM_EXITS + 1):
                node = router.tree.index[(0,) * depth]
                probabilities = outputs.logits[image, node].softmax(-1)
                if probabilities.max() >= threshold or depth == NUM_EXITS:
                    break
            assert bool(is_correct[row, image]) == bool(probabilities.argmax() == outputs.labels[image])
            assert cost[row, image] == pytest.approx(depth / NUM_EXITS)
            assert router.tree.paths[taken[row, image]] == (0,) * depth


def test_cost_rises_with_the_threshold(router):
    cost = threshold_exits(router, random_outputs(router)).cost
    assert (cost.diff(dim=0) >= 0).all()
    assert (cost[0] == cost.min()).all(), "at 0 all leave at once"
    assert (cost[-1] == 1).all(), "above 1 nothing leaves early"
    assert list(DEFAULT_THRESHOLDS) == sorted(DEFAULT_THRESHOLDS)


def test_a_probability_equal_to_the_threshold_leaves(router):
    logits = torch.full((1, len(router.tree.paths), 2), 0.0)  # probabilities of exactly one half
    outputs = PathOutputs(logits, logits[..., 0], torch.tensor([0]))
    assert threshold_exits(router, outputs, [0.5]).cost.item() == pytest.approx(1 / NUM_EXITS)


def test_nothing_to_do_is_refused(router):
    outputs = random_outputs(router)
    with pytest.raises(ValueError, match="thresholds and images, got 0 and 50"):
        threshold_exits(router, outputs, [])
    with pytest.raises(ValueError, match="got 1 and 0"):
        threshold_exits(router, outputs.select(torch.arange(0)), [0.5])
