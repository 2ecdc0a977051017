"""Tests of `quee_hf.routing.dominance`."""

import numpy as np
import pytest

from quee_hf.paths import PathRules, PathTree
from quee_hf.routing.costs import path_cost
from quee_hf.routing.dominance import undominated, worth_choosing

RULES = [
    PathRules(4, 3),
    PathRules(4, 3, is_first_highest=False),
    PathRules(3, 4, is_monotone=False, is_first_highest=False),
]


def costs(paths, table):
    return [path_cost(path, table) for path in paths]


def random_table(rules, seed):
    """Return costs of a few values, so that many are equal."""
    random = np.random.default_rng(seed)
    return random.integers(1, 5, (rules.num_exits, rules.num_levels)).astype(float).tolist()


class TestUndominated:
    def test_by_hand(self):
        paths = [(0,), (1,), (0, 0), (0, 1), (1, 1)]
        # (1,) is cheaper than (0,); (0, 1) costs what (0, 0) does; (1, 1) is cheaper than both.
        assert undominated(paths, [2.0, 1.0, 4.0, 4.0, 3.0]).tolist() == [True, True, True, False, True]

    def test_a_dearer_and_less_exact_path_is_beaten(self):
        assert undominated([(0,), (1,)], [1.0, 1.5]).tolist() == [True, False]

    def test_paths_that_are_more_exact_in_one_segment_only_beat_nothing(self):
        assert undominated([(0, 1), (1, 0)], [1.0, 9.0]).all()

    def test_paths_of_other_exits_do_not_matter(self):
        assert undominated([(1,), (0, 0)], [5.0, 1.0]).all()

    def test_falling_costs_leave_all(self):
        paths = RULES[1].enumerate()
        assert undominated(paths, costs(paths, [[4.0, 2.0, 1.0]] * 4)).all()

    def test_equal_costs_leave_the_most_exact(self):
        paths = RULES[1].enumerate()
        kept = undominated(paths, costs(paths, [[0.1, 0.1, 0.1]] * 4))
        assert [path for path, is_kept in zip(paths, kept, strict=True) if is_kept] == [
            (0,) * n for n in (1, 2, 3, 4)
        ]

    @pytest.mark.parametrize("seed", range(5))
    @pytest.mark.parametrize("rules", RULES, ids=str)
    def test_agrees_with_the_definition(self, rules, seed):
        paths = rules.enumerate()
        price = costs(paths, random_table(rules, seed))
        for node, is_kept in enumerate(undominated(paths, price)):
            better = [
                other
                for other, path in enumerate(paths)
                if other != node
                and len(path) == len(paths[node])
                and all(a <= b for a, b in zip(path, paths[node], strict=True))
                and price[other] <= price[node]
            ]
            assert is_kept == (not better)


class TestWorthChoosing:
    @pytest.mark.parametrize("seed", range(5))
    @pytest.mark.parametrize("rules", RULES, ids=str)
    def test_of_all_allowed_paths_prefixes_are_undominated_anyway(self, rules, seed):
        tree = PathTree(tuple(rules.enumerate()))
        price = costs(tree.paths, random_table(rules, seed))
        assert (worth_choosing(tree, price) == undominated(tree.paths, price)).all()

    @pytest.mark.parametrize("seed", range(10))
    def test_of_a_sample_the_most_exact_paths_and_all_prefixes_stay(self, seed):
        rules = PathRules(5, 4, is_first_highest=False)
        tree = PathTree(tuple(rules.select(30, seed)))
        kept = worth_choosing(tree, costs(tree.paths, random_table(rules, seed)))
        assert kept[tree.exact_nodes].all()
        for node in kept.nonzero()[0]:
            assert kept[tree.ancestors[node]].all()

    def test_a_prefix_that_is_beaten_stays_if_what_follows_is_not(self):
        # (1, 1) has no more exact rival at its exit, but its prefix has: (0,).
        tree = PathTree(((0,), (1,), (0, 0), (1, 1)))
        price = [1.0, 1.0, 5.0, 2.0]
        assert undominated(tree.paths, price).tolist() == [True, False, True, True]
        assert worth_choosing(tree, price).tolist() == [True] * 4
