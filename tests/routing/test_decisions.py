"""Tests of `Router`: one decision at one gate."""

import numpy as np
import pytest
import torch

from quee_hf.paths import PathRules, PathTree
from quee_hf.routing.router import ROOT, Router

#         0     1      2       3       4        5
PATHS = ((0,), (1,), (0, 0), (0, 1), (1, 1), (0, 0, 0))
COSTS = [0.25, 0.125, 0.5, 0.375, 0.25, 1.0]


@pytest.fixture
def router():
    return Router(PathTree(PATHS), torch.tensor(COSTS))


def decide(router, depth, node, errors, cost_lambda=0.0):
    return router.decide(
        depth, np.array([node]), np.array([errors], np.float32), np.array([cost_lambda], np.float32)
    )


class TestReachable:
    def test_by_hand(self, router):
        assert router.reachable(0, np.array([ROOT])).tolist() == [[True] * 6]
        assert router.reachable(1, np.array([0, 1])).astype(int).tolist() == [
            [1, 0, 1, 1, 0, 1],
            [0, 1, 0, 0, 1, 0],
        ]
        assert router.reachable(2, np.array([2, 3, 4])).astype(int).tolist() == [
            [1, 0, 0, 1],
            [0, 1, 0, 0],
            [0, 0, 1, 0],
        ]

    def test_agrees_with_the_tree(self):
        tree = PathTree(tuple(PathRules(4, 3, is_first_highest=False).select(40, seed=1)))
        router = Router(tree, torch.ones(len(tree.paths)))
        for node, path in enumerate(tree.paths):
            first = tree.first_at_depth(len(path))
            row = router.reachable(len(path), np.array([node]))[0]
            assert (row.nonzero()[0] + first).tolist() == tree.descendants(node)

    def test_owners_are_where_paths_pass(self):
        tree = PathTree(tuple(PathRules(4, 3).select(15, seed=2)))
        router = Router(tree, torch.ones(len(tree.paths)))
        for depth in range(1, 5):
            nodes = [tree.at_depth(depth)[position] for position in router.owners(depth)]
            targets = tree.paths[tree.first_at_depth(depth) :]
            assert [tree.paths[node] for node in nodes] == [path[:depth] for path in targets]

    def test_the_exact_child_runs_the_next_segment_most_exactly(self, router):
        assert router.exact_child(np.array([ROOT, 0, 1, 2])).tolist() == [0, 2, 4, 5]


class TestChoices:
    @pytest.fixture
    def router(self):
        choices = np.array([True, True, True, False, False, True])
        return Router(PathTree(PATHS), torch.tensor(COSTS), choices)

    def test_what_is_left_out_is_not_reachable(self, router):
        assert router.reachable(0, np.array([ROOT])).astype(int).tolist() == [[1, 1, 1, 0, 0, 1]]
        assert router.reachable(1, np.array([0, 1])).astype(int).tolist() == [
            [1, 0, 1, 0, 0, 1],
            [0, 1, 0, 0, 0, 0],
        ]
        assert router.reachable(2, np.array([2])).astype(int).tolist() == [[1, 0, 0, 1]]

    def test_it_is_never_chosen_however_good(self, router):
        decision = decide(router, 1, 0, [0.5, 0.0, 0.4, 0.0, 0.0, 0.6])
        assert decision.next_node.tolist() == [2]
        assert decide(router, 0, ROOT, [0.9, 0.8, 0.9, 0.0, 0.0, 0.9]).next_node.tolist() == [1]

    def test_where_all_further_paths_are_left_out_images_leave(self, router):
        assert decide(router, 1, 1, [0.0, 0.9, 0.0, 0.0, 0.1, 0.0]).next_node.tolist() == [1]
        assert router.exact_child(np.array([1])).tolist() == [1]

    def test_the_exact_child_is_the_most_exact_choice(self):
        choices = np.array([True, False, False, True, False, False])
        router = Router(PathTree(PATHS), torch.tensor(COSTS), choices)
        assert router.exact_child(np.array([ROOT, 0])).tolist() == [0, 3]

    def test_nothing_to_decide_before_a_single_chosen_root(self):
        choices = np.array([True, False, True, True, False, True])
        assert Router(PathTree(PATHS), torch.tensor(COSTS), choices).only_child(ROOT) == 0


class TestDecide:
    def test_leaves_when_its_own_path_is_best(self, router):
        decision = decide(router, 1, 0, [0.1, 0.0, 0.2, 0.2, 0.0, 0.2])
        assert decision.next_node.tolist() == [0]
        assert decision.error.tolist() == pytest.approx([0.1])

    def test_takes_only_one_step_towards_a_far_path(self, router):
        decision = decide(router, 1, 0, [0.5, 0.0, 0.5, 0.4, 0.0, 0.1])
        assert decision.next_node.tolist() == [2]  # towards (0, 0, 0)
        assert decision.error.tolist() == pytest.approx([0.1])

    def test_the_first_step_may_be_to_any_root(self, router):
        assert decide(router, 0, ROOT, [0.9, 0.9, 0.9, 0.9, 0.1, 0.9]).next_node.tolist() == [1]
        assert decide(router, 0, ROOT, [0.9, 0.9, 0.9, 0.1, 0.9, 0.9]).next_node.tolist() == [0]

    def test_never_turns_to_another_branch(self, router):
        assert decide(router, 1, 1, [0.0, 0.9, 0.0, 0.0, 0.5, 0.0]).next_node.tolist() == [4]

    def test_costs_are_those_of_the_paths_from_this_depth_on(self, router):
        # At depth 2: (0, 0) costs 0.5 and (0, 0, 0) 1; the difference in error is worth it below lambda 0.4.
        assert decide(router, 2, 2, [0.3, 0.0, 0.0, 0.1], 0.39).next_node.tolist() == [5]
        assert decide(router, 2, 2, [0.3, 0.0, 0.0, 0.1], 0.41).next_node.tolist() == [2]

    def test_images_at_different_nodes_in_one_batch(self, router):
        errors = np.array([[0.9, 0.9, 0.9, 0.2, 0.1, 0.9]] * 2, np.float32)
        decision = router.decide(1, np.array([0, 1]), errors, np.zeros(2, np.float32))
        assert decision.next_node.tolist() == [3, 4]
        assert decision.error.tolist() == pytest.approx([0.2, 0.1])


def test_nothing_to_decide_before_a_single_root():
    assert Router(PathTree(((0,), (0, 0))), torch.ones(2)).only_child(ROOT) == 0
    assert Router(PathTree(PATHS), torch.ones(6)).only_child(ROOT) is None
    assert Router(PathTree(((0,), (0, 0))), torch.ones(2)).only_child(0) is None
