"""Tests of thresholds: the search against trying everything, and the decision by hand."""

import itertools

import numpy as np
import pytest
import torch
from tests.tiny import generator

from quee_hf.paths import PathTree
from quee_hf.routing.decisions import ROOT, decide_by_threshold, enter
from quee_hf.routing.router import Router
from quee_hf.routing.thresholds import (
    search_thresholds,
    search_thresholds_within,
)

COSTS = torch.tensor([0.3, 0.6, 1.0])


def problem(num_images=200, seed=0):
    """Return scores and outcomes of three exits; scores say something of outcomes."""
    random = generator(seed)
    difficulty = torch.rand(num_images, generator=random)
    is_right = torch.stack([difficulty < bound for bound in (0.5, 0.7, 0.9)], dim=1)
    scores = (1 - difficulty[:, None] + 0.2 * torch.randn(num_images, 2, generator=random)).clamp(0, 1)
    return scores, is_right


def gain(scores, is_right, thresholds, cost_lambda):
    """Return accuracy less the price of cost, one image after the other."""
    total = 0.0
    for image in range(len(scores)):
        left = [exit_index for exit_index in range(2) if scores[image, exit_index] >= thresholds[exit_index]]
        exit_index = left[0] if left else 2
        total += float(is_right[image, exit_index]) - cost_lambda * float(COSTS[exit_index])
    return total / len(scores)


def outcome(scores, is_right, thresholds):
    """Return accuracy and mean cost."""
    accuracy = gain(scores, is_right, thresholds, 0.0)
    return accuracy, accuracy - gain(scores, is_right, thresholds, 1.0)


class TestSearchWithin:
    BUDGETS = (1.0, 0.8, 0.6, 0.45, 0.3)

    @pytest.mark.parametrize("seed", [0, 1])
    def test_is_nearly_as_good_as_trying_all_pairs(self, seed):
        scores, is_right = problem(seed=seed)
        found = search_thresholds_within(scores, is_right, COSTS, self.BUDGETS)
        grid = [*(scores.quantile(torch.linspace(0, 1, 24), dim=0)).T.tolist()]
        every = [outcome(scores, is_right, pair) for pair in itertools.product(*([*g, 2.0] for g in grid))]
        for budget, thresholds in zip(self.BUDGETS, found, strict=True):
            accuracy, cost = outcome(scores, is_right, thresholds)
            best = max(each for each, spent in every if spent <= budget + 1e-6)
            assert cost <= budget + 1e-6
            assert best - 0.015 <= accuracy <= best + 1e-9  # moves of one threshold may stop before the best

    def test_where_lambdas_leave_a_hole_budgets_do_not(self):
        """Early exits that are hardly ever right: a lambda takes all images out, or none."""
        random = generator(2)
        scores = torch.rand(400, 2, generator=random)
        is_right = torch.cat([scores > 0.95, torch.rand(400, 1, generator=random) < 0.9], dim=1)
        by_lambda = [
            outcome(scores, is_right, search_thresholds(scores, is_right, COSTS, value))[1]
            for value in torch.linspace(0, 3, 31).tolist()
        ]
        budgets = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4)
        found = search_thresholds_within(scores, is_right, COSTS, budgets)
        spent = [outcome(scores, is_right, thresholds)[1] for thresholds in found]
        assert not [cost for cost in by_lambda if 0.4 < cost < 0.8]
        assert all(
            budget - 0.05 < cost <= budget + 1e-6 for budget, cost in zip(budgets[1:], spent[1:], strict=True)
        )

    @pytest.mark.parametrize("budgets", [(0.5, 0.8), (0.8, 0.2)])
    def test_budgets_that_cannot_be_are_refused(self, budgets):
        with pytest.raises(ValueError, match=r"Budgets must descend to the first exit's cost, 0.3"):
            search_thresholds_within(*problem(50), COSTS, budgets)


class TestSearch:
    @pytest.mark.parametrize("cost_lambda", [0.0, 0.1, 0.5, 2.0])
    def test_is_nearly_as_good_as_trying_all_pairs(self, cost_lambda):
        scores, is_right = problem()
        found = gain(scores, is_right, search_thresholds(scores, is_right, COSTS, cost_lambda), cost_lambda)
        grid = [*(scores.quantile(torch.linspace(0, 1, 24), dim=0)).T.tolist()]
        best = max(
            gain(scores, is_right, pair, cost_lambda)
            for pair in itertools.product(*([*g, 2.0] for g in grid))
        )
        assert found <= best + 1e-9
        assert found >= best - 0.005  # coordinate descent may stop at a local optimum

    def test_dear_depth_lets_more_images_leave(self):
        scores, is_right = problem()
        shares = [
            (scores >= search_thresholds(scores, is_right, COSTS, value)).any(dim=1).float().mean()
            for value in (0.0, 0.2, 1.0, 10.0)
        ]
        assert shares == sorted(shares)
        assert shares[-1] == 1

    def test_nothing_leaves_where_leaving_only_loses(self):
        scores = torch.rand(50, 2, generator=generator(1))
        is_right = torch.tensor([False, False, True]).expand(50, 3)
        assert (search_thresholds(scores, is_right, COSTS, 0.1) > 1).all()

    def test_a_noisy_exit_is_held_back_and_a_good_one_is_not(self):
        random = generator(2)
        is_right = torch.stack([torch.rand(400, generator=random) < bound for bound in (0.3, 0.95, 0.96)], 1)
        found = search_thresholds(torch.rand(400, 2, generator=random), is_right, COSTS, 0.3)
        assert found[0] > 1
        assert found[1] < 0.2


class TestDecision:
    @pytest.fixture
    def router(self):
        return Router(PathTree(((0,), (0, 0), (0, 1), (0, 0, 0))), torch.tensor([0.3, 0.6, 0.5, 1.0]))

    def test_leaves_if_reached_else_goes_on_most_exactly(self, router):
        decision = decide_by_threshold(
            router, np.array([0, 0, 1]), np.array([0.8, 0.7, 0.1]), np.array([0.8, 0.8, 0.5])
        )
        assert decision.next_node.tolist() == [0, 1, 3]
        assert decision.error.tolist() == pytest.approx([0.2, 0.3, 0.9])

    def test_enters_at_the_most_exact_level(self, router):
        assert enter(router, np.array([ROOT, ROOT])).next_node.tolist() == [0, 0]
