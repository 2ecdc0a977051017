"""Tests of `quee_hf.routing.measured_costs`."""

import numpy as np
import pytest

from quee_hf.routing.measured_costs import (
    are_equally_fast,
    latency_table,
    merge_levels,
    settle_for_the_more_exact,
    time_of_half,
)


def times(milliseconds, noise=0.0, rounds=41, seed=0):
    """Return `(rounds,)` around a value."""
    spread = np.random.default_rng(seed).uniform(-noise, noise, rounds)
    return milliseconds * (1 + spread)


class TestAreEquallyFast:
    @pytest.mark.parametrize(
        ("ratio", "expected"), [(1.0, True), (0.951, True), (1.049, True), (0.949, False)]
    )
    def test_without_noise_five_percent_decide(self, ratio, expected):
        assert are_equally_fast(times(8.0), times(8.0 * ratio)) is expected

    def test_in_noise_the_middle_half_of_the_ratios_decides(self):
        # Ratios of two uniform values within 30 %: half of them are further than 8 % from the middle.
        assert are_equally_fast(times(8.0, 0.3), times(8.0 * 0.93, 0.3, seed=1))
        assert not are_equally_fast(times(8.0, 0.3), times(8.0 * 0.6, 0.3, seed=1))

    def test_few_rounds_decide_only_if_they_agree(self):
        ratios = np.array([0.7, 0.7, 0.7, 0.7, 0.7, 0.7, 0.7, 1.1])
        assert are_equally_fast(np.ones(8), ratios)
        assert not are_equally_fast(np.ones(9), np.append(ratios, 0.7))
        assert not are_equally_fast(np.ones(3), np.array([0.7, 0.8, 0.9]))

    def test_noise_that_both_share_does_not_matter(self):
        noise = times(1.0, 0.5)
        assert not are_equally_fast(8.0 * noise, 7.0 * noise)
        assert are_equally_fast(8.0 * noise, 7.9 * noise)


class TestMergeLevels:
    def merge(self, *rows):
        return merge_levels(np.stack(rows), np.stack(rows))

    def test_equally_fast_levels_cost_exactly_the_same(self):
        costs = self.merge(times(20.0), times(10.0), times(4.0, 0.02), times(4.1, 0.02, seed=1), times(3.9))
        assert costs[:2] == [20.0, 10.0]
        assert costs[2] == costs[3] == costs[4] == pytest.approx(4.0, rel=0.02)

    def test_small_steps_do_not_add_up(self):
        # Each is within 5 % of the one before; the third is not of the first.
        first, second, third = self.merge(times(10.0), times(9.6), times(9.2))
        assert first == second == pytest.approx(9.8)
        assert third == pytest.approx(9.2)

    def test_a_level_joins_the_nearest_group(self):
        # 9.55 is within 5 % of both others, which are not of each other.
        costs = self.merge(times(10.0), times(9.2), times(9.55))
        assert costs[2] == costs[1] == pytest.approx((9.2 + 9.55) / 2)

    def test_slower_levels_keep_what_they_take(self):
        assert self.merge(times(4.0), times(6.0)) == [4.0, 6.0]

    def test_the_whole_network_decides_where_a_segment_is_noisy(self):
        segment = np.stack([times(4.0), times(3.7)])
        assert merge_levels(segment, 3 * segment) == [4.0, 3.7]
        even = np.stack([times(20.0), times(19.9)])
        assert merge_levels(segment, even) == [3.85, 3.85]


def test_a_table_is_of_segments_with_what_comes_after_them():
    segments = np.stack([np.stack([times(8.0), times(4.0)]), np.stack([times(6.0), times(3.0)])])
    after = np.stack([times(0.5), times(0.25)])
    assert latency_table(segments, after) == [[8.5, 4.5], [6.25, 3.25]]


class TestTimeOfHalf:
    def test_a_batch_takes_what_lies_between_those_measured(self):
        # Batches of 8 take 16, of 32 take 32: those of 16 a third of the way, 21.3.
        found = time_of_half({1: np.array([9.0]), 8: np.array([2.0]), 32: np.array([1.0])}, 32)
        assert found == pytest.approx([(16 + 16 / 3) / 16])

    def test_a_size_that_was_measured_is_taken_as_it_is(self):
        assert time_of_half({4: np.array([3.0, 2.0]), 8: np.array([2.0, 1.5])}, 8).tolist() == [3.0, 2.0]

    @pytest.mark.parametrize("sizes", [[1], [8], [6, 8]])
    def test_what_was_not_measured_is_not_guessed(self, sizes):
        assert time_of_half({size: np.array([1.0]) for size in sizes}, max(sizes)) is None


class TestSettleForTheMoreExact:
    def settle(self, whole, half, costs=None):
        return settle_for_the_more_exact(costs or list(whole), np.array(whole), np.array(half))

    def test_where_batches_cost_nothing_every_faster_level_pays(self):
        assert self.settle([4.0, 3.5, 3.0], [4.0, 3.5, 3.0]) == [4.0, 3.5, 3.0]

    def test_a_gain_that_dividing_eats_up_is_none(self):
        assert self.settle([4.0, 3.5], [4.4, 3.6]) == [4.0, 4.0]
        assert self.settle([4.0, 3.5], [4.2, 3.7]) == [4.0, 3.5]

    def test_a_level_that_is_given_up_is_not_compared_with(self):
        # The second settles for the first; beside it the third would not pay, beside the first it does.
        assert self.settle([4.0, 3.6, 3.0], [4.5, 4.0, 3.4]) == [4.0, 4.0, 3.0]

    def test_slower_and_equal_levels_keep_what_they_take(self):
        assert self.settle([4.0, 6.0, 4.0], [5.0, 7.0, 5.0]) == [4.0, 6.0, 4.0]

    def test_costs_are_those_of_the_segment(self):
        assert self.settle([4.0, 3.5], [4.4, 3.6], [1.0, 0.9]) == [1.0, 1.0]


def test_a_table_knows_of_halves():
    segments = np.stack([np.stack([times(8.0), times(7.0)]), np.stack([times(6.0), times(5.0)])])
    after = np.zeros((2, 41))
    assert latency_table(segments, after, np.array([[8.1, 7.1], [6.1, 5.1]])) == [[8.0, 7.0], [6.0, 5.0]]
    assert latency_table(segments, after, np.array([[9.0, 8.0], [7.0, 6.0]])) == [[8.0, 8.0], [6.0, 6.0]]
