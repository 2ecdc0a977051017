"""Tests of `quee_hf.diagnostics.calibration`, against values by hand and against slow loops."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quee_hf.diagnostics.calibration import (
    area_under_risk_coverage,
    error_auroc,
    expected_calibration_error,
    root_mean_square_error,
)

# The same examples in every run, and no time limit: the machine may be busy.
steady = settings(derandomize=True, deadline=None, max_examples=60)

# A grid of predictions, so that ties are common, as with error targets from clusters.
predictions = st.lists(st.tuples(st.integers(0, 8), st.booleans()), min_size=1, max_size=60)


def as_arrays(drawn):
    return [value / 8 for value, _ in drawn], [wrong for _, wrong in drawn]


def slow_ece(predicted_error, is_wrong, num_bins):
    """Follow the steps of the paper's §7.2 in its own terms, probabilities of being right."""
    right = [(1 - error, not wrong) for error, wrong in zip(predicted_error, is_wrong, strict=True)]
    right.sort(key=lambda pair: pair[0])
    small, extra = divmod(len(right), num_bins)
    total, start = 0.0, 0
    for number in range(num_bins):
        # Ascending errors are descending probabilities: the larger bins come last here.
        stop = start + small + (number >= num_bins - extra)
        members = right[start:stop]
        mean_probability = sum(probability for probability, _ in members) / len(members)
        accuracy = sum(correct for _, correct in members) / len(members)
        total += len(members) / len(right) * abs(accuracy - mean_probability)
        start = stop
    return total


class TestExpectedCalibrationError:
    def test_by_hand(self):
        # Bins {0.1, 0.2}, one of two wrong, and {0.6, 0.8}, both wrong: gaps 0.35 and 0.3, each of half.
        ece = expected_calibration_error([0.8, 0.1, 0.6, 0.2], [1, 0, 1, 1], num_bins=2)
        assert ece == pytest.approx((0.35 + 0.3) / 2, abs=1e-12)

    @pytest.mark.parametrize("num_images", [15, 31, 100, 600])
    def test_equals_the_papers_steps_without_ties(self, num_images):
        rng = np.random.default_rng(num_images)
        predicted, wrong = rng.random(num_images), rng.random(num_images) < 0.3
        expected = slow_ece(predicted.tolist(), wrong.tolist(), 15)
        assert expected_calibration_error(predicted, wrong) == pytest.approx(expected, abs=1e-12)

    def test_ties_give_the_mean_outcome_to_every_order(self):
        # One prediction for all: every bin has the overall gap.
        wrong = [1] * 30 + [0] * 70
        assert expected_calibration_error([0.2] * 100, wrong) == pytest.approx(0.1, abs=1e-12)

    @steady
    @given(predictions, st.randoms(), st.integers(1, 20))
    def test_order_of_images_does_not_matter(self, drawn, random, num_bins):
        shuffled = random.sample(drawn, len(drawn))
        first, second = (
            expected_calibration_error(*as_arrays(images), num_bins=num_bins) for images in (drawn, shuffled)
        )
        assert first == pytest.approx(second, abs=1e-12)

    @steady
    @given(predictions, st.integers(1, 20))
    def test_is_at_least_the_overall_gap_and_at_most_one(self, drawn, num_bins):
        predicted, wrong = as_arrays(drawn)
        ece = expected_calibration_error(predicted, wrong, num_bins)
        assert abs(np.mean(predicted) - np.mean(wrong)) - 1e-12 <= ece <= 1

    def test_perfect_predictions_have_only_the_documented_error_of_chance(self):
        rng = np.random.default_rng(0)
        predicted = rng.uniform(0.29, 0.31, 30_000)
        wrong = rng.random(30_000) < predicted
        by_chance = math.sqrt(2 / math.pi * 0.3 * 0.7 * 15 / 30_000)
        # Mean of 15 half-normal gaps, each with a standard deviation of 0.76 of its mean: 3 sigma is 0.59.
        assert expected_calibration_error(predicted, wrong) == pytest.approx(by_chance, rel=0.59)

    def test_fewer_images_than_bins(self):
        assert expected_calibration_error([0.25], [1], num_bins=15) == 0.75


class TestAuroc:
    @steady
    @given(predictions)
    def test_equals_the_share_of_ordered_pairs(self, drawn):
        predicted, wrong = as_arrays(drawn)
        pairs = [
            (predicted[i] > predicted[j]) + 0.5 * (predicted[i] == predicted[j])
            for i in range(len(wrong))
            for j in range(len(wrong))
            if wrong[i] and not wrong[j]
        ]
        result = error_auroc(predicted, wrong)
        if pairs:
            assert result == pytest.approx(sum(pairs) / len(pairs), abs=1e-12)
        else:
            assert result is None

    def test_one_class_is_none_without_a_warning(self):
        assert error_auroc([0.1, 0.2], [True, True]) is None
        assert error_auroc([0.1, 0.2], [False, False]) is None


class TestRootMeanSquareError:
    def test_by_hand(self):
        # Differences 0.3 and 0.4: sqrt((0.09 + 0.16) / 2)
        assert root_mean_square_error([0.3, 0.4], [0.0, 0.0]) == pytest.approx(math.sqrt(0.125), abs=1e-12)

    def test_takes_tables(self):
        assert root_mean_square_error(np.full((3, 4), 0.5), np.zeros((3, 4))) == 0.5


class TestRiskCoverage:
    def test_equals_the_plain_definition(self):
        random = np.random.default_rng(0)
        predicted, wrong = random.permutation(40) / 40, random.random(40) < 0.3
        order = np.argsort(predicted)
        risks = [wrong[order[:count]].mean() for count in range(1, 41)]
        assert area_under_risk_coverage(predicted, wrong) == pytest.approx(np.mean(risks))

    def test_ties_share_their_outcome(self):
        assert area_under_risk_coverage([0.5] * 4, [1, 0, 0, 0]) == pytest.approx(0.25)
        assert area_under_risk_coverage([0.5] * 4, [0, 0, 0, 1]) == pytest.approx(0.25)


@pytest.mark.parametrize("measure", [expected_calibration_error, error_auroc, root_mean_square_error])
@pytest.mark.parametrize(
    ("predicted", "wrong", "message"),
    [
        ([], [], "not empty"),
        ([0.1, 0.2], [1], r"\(2,\) and \(1,\)"),
        ([1.2], [1], "between 0 and 1"),
        ([-0.1], [1], "between 0 and 1"),
        ([float("nan")], [1], "between 0 and 1"),
        ([0.5], [2], "between 0 and 1"),
    ],
)
def test_impossible_arguments_are_refused(measure, predicted, wrong, message):
    with pytest.raises(ValueError, match=message):
        measure(predicted, wrong)


@pytest.mark.parametrize("measure", [expected_calibration_error, error_auroc])
def test_outcomes_are_true_or_false(measure):
    with pytest.raises(ValueError, match="`is_wrong` must be true or false"):
        measure([0.5], [0.5])
    with pytest.raises(ValueError, match=r"one prediction per image, got shape \(1, 1\)"):
        measure([[0.5]], [[1]])


def test_number_of_bins_is_checked():
    with pytest.raises(ValueError, match="`num_bins` must be at least 1, got 0"):
        expected_calibration_error([0.5], [1], num_bins=0)
