"""Tests of `quee_hf.diagnostics.curves`, against values by hand and against slow loops."""

import itertools
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quee_hf.diagnostics import curves
from quee_hf.diagnostics.curves import (
    area_under_curve,
    bootstrap_area_difference,
    cost_at_accuracy,
    undominated_points,
)

# The same examples in every run, and no time limit: the machine may be busy.
steady = settings(derandomize=True, deadline=None, max_examples=60)

# A grid, so that ties of cost and of accuracy are common.
points = st.lists(st.tuples(st.integers(0, 12), st.integers(0, 10)), min_size=1, max_size=8)


def as_arrays(drawn):
    return [cost / 10 for cost, _ in drawn], [accuracy / 10 for _, accuracy in drawn]


def slow_frontier(costs, accuracies):
    """Keep a point if no other one is at least as good in both and better in one."""
    distinct = sorted(set(zip(costs, accuracies, strict=True)))
    return [
        (cost, accuracy)
        for cost, accuracy in distinct
        if not any((c, a) != (cost, accuracy) and c <= cost and a >= accuracy for c, a in distinct)
    ]


def slow_accuracy(costs, accuracies, budget):
    """Walk along the frontier to the budget."""
    frontier = slow_frontier(costs, accuracies)
    if budget < frontier[0][0]:
        return 0.0
    for (cost, accuracy), (next_cost, next_accuracy) in itertools.pairwise(frontier):
        if budget < next_cost:
            return accuracy + (next_accuracy - accuracy) * (budget - cost) / (next_cost - cost)
    return frontier[-1][1]


def slow_area(costs, accuracies, low, high, num_steps=1000):
    """Sum the middles of many thin slices."""
    width = (high - low) / num_steps
    middles = (low + (step + 0.5) * width for step in range(num_steps))
    return sum(slow_accuracy(costs, accuracies, budget) for budget in middles) / num_steps


class TestUndominatedPoints:
    @steady
    @given(points)
    def test_equals_the_definition(self, drawn):
        costs, accuracies = as_arrays(drawn)
        kept = np.transpose(undominated_points(costs, accuracies)).tolist()
        assert [tuple(point) for point in kept] == slow_frontier(costs, accuracies)

    @steady
    @given(points)
    def test_second_pass_changes_nothing(self, drawn):
        once = undominated_points(*as_arrays(drawn))
        np.testing.assert_array_equal(undominated_points(*once), once)


class TestArea:
    def test_by_hand(self):
        # From 0.2 to 0.6 the mean of 0.5 and 0.7, then 0.7: (0.4 * 0.6 + 0.4 * 0.7) / 0.8 = 0.65
        assert area_under_curve([0.2, 0.6], [0.5, 0.7]) == pytest.approx(0.65, abs=1e-12)

    def test_nothing_can_run_below_the_cheapest_point(self):
        # 0 up to 0.6, then 0.9: half of the range
        assert area_under_curve([0.6], [0.9]) == pytest.approx(0.45, abs=1e-12)

    def test_points_outside_the_range_still_bound_the_line(self):
        # The line from (0, 0) to (2, 1) is c / 2; its mean from 0.2 to 1 is 0.3
        assert area_under_curve([0.0, 2.0], [0.0, 1.0]) == pytest.approx(0.3, abs=1e-12)

    def test_all_points_dearer_than_the_range_give_nothing(self):
        assert area_under_curve([1.5, 2.0], [0.5, 0.9]) == 0.0

    @steady
    @given(points)
    def test_equals_thin_slices(self, drawn):
        costs, accuracies = as_arrays(drawn)
        # Around the jump from 0 the sum is wrong by at most one slice, 1 / 1000 of the range; where the line
        # bends, by second order: slopes of up to 10 within a slice of 0.0008.
        expected = slow_area(costs, accuracies, 0.2, 1.0)
        assert area_under_curve(costs, accuracies) == pytest.approx(expected, abs=1 / 1000 + 1e-5)

    @steady
    @given(points, st.randoms())
    def test_order_of_points_does_not_matter(self, drawn, random):
        shuffled = random.sample(drawn, len(drawn))
        assert area_under_curve(*as_arrays(shuffled)) == area_under_curve(*as_arrays(drawn))

    @steady
    @given(points, st.integers(0, 5), st.integers(0, 5))
    def test_dominated_points_do_not_matter(self, drawn, extra_cost, lost_accuracy):
        worse = [*drawn, (drawn[0][0] + extra_cost, drawn[0][1] - lost_accuracy)]
        assert area_under_curve(*as_arrays(worse)) == area_under_curve(*as_arrays(drawn))

    @steady
    @given(points)
    def test_lies_between_nothing_and_the_best_point(self, drawn):
        costs, accuracies = as_arrays(drawn)
        assert 0 <= area_under_curve(costs, accuracies) <= max(accuracies) + 1e-12

    @steady
    @given(points)
    def test_ranges_add_up(self, drawn):
        costs, accuracies = as_arrays(drawn)
        halves = [area_under_curve(costs, accuracies, *ends) for ends in ((0.2, 0.55), (0.55, 1.0))]
        whole = (0.35 * halves[0] + 0.45 * halves[1]) / 0.8
        assert area_under_curve(costs, accuracies) == pytest.approx(whole, abs=1e-12)


class TestCostAtAccuracy:
    def test_by_hand(self):
        costs, accuracies = [0.2, 0.6, 1.0], [0.5, 0.9, 0.95]
        assert cost_at_accuracy(costs, accuracies, 0.6) == pytest.approx(0.3)
        assert cost_at_accuracy(costs, accuracies, 0.9) == 0.6
        assert cost_at_accuracy(costs, accuracies, 0.1) == 0.2
        assert cost_at_accuracy(costs, accuracies, 0.96) is None

    @steady
    @given(points, st.floats(0, 1))
    def test_the_curve_reaches_the_accuracy_there_and_not_before(self, drawn, accuracy):
        costs, accuracies = as_arrays(drawn)
        cost = cost_at_accuracy(costs, accuracies, accuracy)
        if cost is None:
            assert max(accuracies) < accuracy
        else:
            # 1e-9: rounding of the interpolation, whose slope is at most 1 / 0.1
            assert slow_accuracy(costs, accuracies, cost + 1e-9) >= accuracy - 1e-9
            assert slow_accuracy(costs, accuracies, cost - 1e-6) <= accuracy


@pytest.mark.parametrize(
    ("costs", "accuracies", "message"),
    [
        ([], [], "as many costs as accuracies"),
        ([0.1, 0.2], [0.5], r"\(2,\) and \(1,\)"),
        ([[0.1]], [[0.5]], "as many costs"),
        ([0.1], [float("nan")], "must be finite"),
        ([float("inf")], [0.5], "must be finite"),
    ],
)
def test_impossible_points_are_refused(costs, accuracies, message):
    with pytest.raises(ValueError, match=message):
        area_under_curve(costs, accuracies)


def test_empty_range_is_refused():
    with pytest.raises(ValueError, match="`low` must be below `high`"):
        area_under_curve([0.5], [0.5], low=1.0, high=1.0)


def random_curve(rng, num_points, num_images, skill):
    correct = rng.random((num_points, num_images)) < np.linspace(0.4, skill, num_points)[:, None]
    cost = np.linspace(0.2, 0.9, num_points)[:, None] + 0.1 * rng.random((num_points, num_images))
    return correct, cost


class TestBootstrap:
    def test_equals_a_loop_over_resamples(self):
        rng = np.random.default_rng(0)
        a, b = random_curve(rng, 4, 50, 0.9), random_curve(rng, 3, 50, 0.8)
        draws = np.random.default_rng(7).integers(50, size=(40, 50))
        expected = [
            area_under_curve(a[1][:, drawn].mean(1), a[0][:, drawn].mean(1))
            - area_under_curve(b[1][:, drawn].mean(1), b[0][:, drawn].mean(1))
            for drawn in draws
        ]
        difference, low, high = bootstrap_area_difference(*a, *b, num_resamples=40, seed=7)
        whole = area_under_curve(a[1].mean(1), a[0].mean(1)) - area_under_curve(b[1].mean(1), b[0].mean(1))
        # Both sum the same numbers in another order.
        assert difference == pytest.approx(whole, abs=1e-12)
        assert (low, high) == pytest.approx(np.quantile(expected, [0.025, 0.975]), abs=1e-9)

    def test_memory_limit_does_not_change_the_result(self, monkeypatch):
        rng = np.random.default_rng(1)
        a, b = random_curve(rng, 4, 60, 0.9), random_curve(rng, 3, 60, 0.8)
        whole = bootstrap_area_difference(*a, *b, num_resamples=50, seed=3)
        monkeypatch.setattr(curves, "_COUNTS_PER_CHUNK", 60 * 8)
        assert bootstrap_area_difference(*a, *b, num_resamples=50, seed=3) == pytest.approx(whole, abs=1e-12)

    def test_equal_curves_do_not_differ(self):
        a = random_curve(np.random.default_rng(2), 5, 100, 0.9)
        result = bootstrap_area_difference(*a, *a, num_resamples=100, seed=0)
        assert result == pytest.approx((0.0, 0.0, 0.0), abs=1e-12)  # columns of a product round differently

    def test_swapping_mirrors_the_interval(self):
        rng = np.random.default_rng(3)
        a, b = random_curve(rng, 4, 60, 0.9), random_curve(rng, 3, 60, 0.8)
        difference, low, high = bootstrap_area_difference(*a, *b, num_resamples=100, seed=5)
        mirrored = bootstrap_area_difference(*b, *a, num_resamples=100, seed=5)
        assert mirrored == pytest.approx((-difference, -high, -low), abs=1e-12)

    def test_interval_covers_the_truth_as_often_as_promised(self):
        # One point each, at cost 0.2: the area is the accuracy, and the true difference is 0.8 - 0.7.
        rng = np.random.default_rng(4)
        cost = np.full((1, 200), 0.2)
        hits = 0
        for seed in range(200):
            a, b = rng.random((1, 200)) < 0.8, rng.random((1, 200)) < 0.7
            _, low, high = bootstrap_area_difference(a, cost, b, cost, num_resamples=300, seed=seed)
            hits += low <= 0.1 <= high
        # 3 sigma of 200 trials at 0.94 (a percentile interval of 200 images is slightly short) is 0.05.
        assert 0.89 <= hits / 200 <= 0.99

    def test_is_fast(self):
        rng = np.random.default_rng(5)
        a, b = random_curve(rng, 20, 5000, 0.9), random_curve(rng, 20, 5000, 0.8)
        start = time.perf_counter()
        bootstrap_area_difference(*a, *b, num_resamples=1000, seed=0)
        assert time.perf_counter() - start < 10  # takes 0.3 s; a loop over resamples and points takes minutes

    @pytest.mark.parametrize(
        "shapes",
        [
            ((2, 5), (2, 4), (1, 5), (1, 5)),
            ((2, 5), (2, 5), (1, 4), (1, 4)),
            ((5,), (5,), (5,), (5,)),
            ((0, 5),) * 4,
        ],
        ids=["cost-of-others", "other-images", "one-row", "no-points"],
    )
    def test_shapes_that_do_not_fit_are_refused(self, shapes):
        with pytest.raises(ValueError, match=r"Expected \(points, images\) twice"):
            bootstrap_area_difference(*(np.zeros(shape) for shape in shapes), num_resamples=10, seed=0)

    def test_other_bad_arguments_are_refused(self):
        a = random_curve(np.random.default_rng(6), 2, 5, 0.9)
        with pytest.raises(ValueError, match="`num_resamples` must be at least 1, got 0"):
            bootstrap_area_difference(*a, *a, num_resamples=0, seed=0)
        with pytest.raises(ValueError, match="must be finite"):
            bootstrap_area_difference(a[0], a[1] * np.nan, *a, num_resamples=10, seed=0)
