"""Tests of `quee_hf.routing.measured_costs`."""

import numpy as np
import pytest

from quee_hf.routing.measured_costs import are_equally_fast, latency_table, merge_levels


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
