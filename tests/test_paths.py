"""Tests of `quee_hf.paths`: against brute force, and by property."""

import itertools
import json
import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.reference.paths import allowed_paths

from quee_hf.paths import PathRules, PathTree, prefixes

RULES = [
    PathRules(exits, levels, is_monotone=monotone, is_first_highest=first)
    for exits, levels, monotone, first in itertools.product(
        (1, 2, 4), (1, 2, 3), (True, False), (True, False)
    )
]
every_rule = pytest.mark.parametrize(
    "rules",
    RULES,
    ids=lambda r: f"{r.num_exits}x{r.num_levels}-{'monotone' * r.is_monotone}-{'first' * r.is_first_highest}",
)
random_rules = st.builds(
    PathRules,
    num_exits=st.integers(1, 14),
    num_levels=st.integers(1, 6),
    is_monotone=st.booleans(),
    is_first_highest=st.booleans(),
)


@every_rule
class TestEnumerate:
    def test_equals_brute_force(self, rules):
        expected = allowed_paths(
            rules.num_exits,
            rules.num_levels,
            is_monotone=rules.is_monotone,
            is_first_highest=rules.is_first_highest,
        )
        paths = rules.enumerate()
        assert set(paths) == expected
        assert len(paths) == len(expected)
        assert paths == sorted(paths, key=lambda path: (len(path), path))

    def test_count_is_the_number_of_paths_of_each_length(self, rules):
        lengths = [len(path) for path in rules.enumerate()]
        for length in range(1, rules.num_exits + 1):
            assert rules.count(length) == lengths.count(length)

    def test_select_keeps_all_that_fit(self, rules):
        paths = rules.enumerate()
        assert rules.select(len(paths), seed=1) == paths
        if len(paths) > rules.num_exits:
            assert len(rules.select(len(paths) - 1, seed=1)) <= len(paths) - 1


def test_paths_of_the_paper_by_hand():
    # Levels never rise, the first segment runs at the highest: after it, 1, 2 and 3 choices of where to drop.
    assert PathRules(3, 2).enumerate() == [(0,), (0, 0), (0, 1), (0, 0, 0), (0, 0, 1), (0, 1, 1)]


class TestSampling:
    @given(rules=random_rules, extra=st.integers(0, 60), seed=st.integers(0, 5))
    def test_is_bounded_allowed_ordered_and_closed_under_prefixes(self, rules, extra, seed):
        max_paths = rules.num_exits + extra
        paths = rules.select(max_paths, seed)
        assert len(paths) == len(set(paths)) <= max_paths
        assert paths == sorted(paths, key=lambda path: (len(path), path))
        assert (0,) * rules.num_exits in paths  # the full path at the most exact level
        for path in paths:
            assert set(prefixes(path)) <= set(paths)
            assert 1 <= len(path) <= rules.num_exits
            assert set(path) <= set(range(rules.num_levels))
            assert not rules.is_monotone or list(path) == sorted(path)
            assert not rules.is_first_highest or path[0] == 0

    def test_same_seed_same_paths_other_seed_other_paths(self):
        rules = PathRules(8, 3, is_monotone=False)
        assert rules.select(50, seed=3) == rules.select(50, seed=3)
        assert len({tuple(rules.select(50, seed=seed)) for seed in range(5)}) == 5

    def test_does_not_touch_the_global_random_state(self):
        state = random.getstate()
        PathRules(8, 3, is_monotone=False).select(50, seed=3)
        assert random.getstate() == state

    def test_does_not_list_what_it_samples_from(self, monkeypatch):
        # 4**11 + ... + 4**0 = 5,592,405 paths: listing them takes seconds and gigabytes.
        def refuse(self):
            raise AssertionError("All paths were listed.")

        monkeypatch.setattr(PathRules, "enumerate", refuse)
        paths = PathRules(12, 4, is_monotone=False).select(50, seed=0)
        assert len(paths) == 50

    def test_fills_the_set_nearly(self):
        # A draw brings at most as many paths as there are exits, so less than that many places stay free.
        for rules in (PathRules(5, 3, is_monotone=False, is_first_highest=False), PathRules(12, 4)):
            assert 50 - rules.num_exits < len(rules.select(50, seed=0)) <= 50

    @pytest.mark.parametrize("is_monotone", [True, False])
    def test_draws_are_uniform(self, is_monotone):
        rules = PathRules(3, 3, is_monotone=is_monotone, is_first_highest=False)
        paths, num_draws, rng = rules.enumerate(), 20_000, random.Random(0)
        drawn = [rules._draw(rng) for _ in range(num_draws)]
        expected = num_draws / len(paths)
        # Counts are binomial; 5 standard deviations pass for all paths together but once in 40,000 seeds.
        for path in paths:
            assert abs(drawn.count(path) - expected) < 5 * expected**0.5


class TestPathTree:
    @given(rules=random_rules, seed=st.integers(0, 3))
    def test_relations_agree_with_prefixes(self, rules, seed):
        tree = PathTree(tuple(rules.select(rules.num_exits + 20, seed)))
        nodes = range(len(tree.paths))
        for node in nodes:
            path, parent = tree.paths[node], tree.parents[node]
            assert tree.index[path] == node
            assert (tree.paths[parent] if parent >= 0 else ()) == path[:-1]
            assert tree.descendants(node) == [n for n in nodes if path in prefixes(tree.paths[n])]
            assert tree.children(node) == [n for n in nodes if tree.paths[n][:-1] == path]
        assert tree.descendants(-1) == list(nodes)
        assert tree.children(-1) == [n for n in nodes if len(tree.paths[n]) == 1]
        for depth in range(rules.num_exits + 2):
            assert tree.at_depth(depth) == [n for n in nodes if len(tree.paths[n]) == depth]
            assert list(nodes)[tree.first_at_depth(depth) :] == [
                n for n in nodes if len(tree.paths[n]) >= depth
            ]

    def test_a_missing_prefix_is_named(self):
        with pytest.raises(ValueError, match=r"Path \(0, 1, 1\) is present, but its prefix \(0, 1\) is not"):
            PathTree(((0,), (0, 0), (0, 1, 1)))

    def test_longer_before_shorter_is_refused(self):
        with pytest.raises(ValueError, match="shortest first"):
            PathTree(((0, 0), (0,)))


@pytest.mark.parametrize("sample", json.loads((Path(__file__).parent / "golden" / "paths.json").read_text()))
def test_samples_stay_what_they_were(sample):
    """Files hold the seed, not the paths: a change here gives the gates of every saved model another meaning."""
    paths = PathRules(*sample["rules"]).select(sample["max_paths"], sample["seed"])
    assert paths == [tuple(path) for path in sample["paths"]]
