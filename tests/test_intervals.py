"""Tests of intervals, against what defines them."""

import math

import pytest

from quee_hf.intervals import wilson_interval


class TestWilson:
    @pytest.mark.parametrize(("num_correct", "num_total"), [(0, 7), (7, 7), (3, 10), (4999, 5000), (1, 1)])
    @pytest.mark.parametrize("confidence", [0.5, 0.95, 0.999])
    def test_ends_solve_the_score_equation(self, num_correct, num_total, confidence):
        # By definition an end p is where |share - p| = z * sqrt(p (1 - p) / n).
        z = math.sqrt(2) * _inverse_erf(confidence)
        share = num_correct / num_total
        for end in wilson_interval(num_correct, num_total, confidence):
            distance, reach = abs(share - end), z * math.sqrt(end * (1 - end) / num_total)
            assert distance == pytest.approx(reach, abs=1e-9)

    def test_covers_as_often_as_promised(self):
        # Exact coverage at p = 0.9, n = 100, summed over all outcomes; near 0.95 only, as counts are whole.
        covered = sum(
            math.comb(100, correct) * 0.9**correct * 0.1 ** (100 - correct)
            for correct in range(101)
            if wilson_interval(correct, 100)[0] <= 0.9 <= wilson_interval(correct, 100)[1]
        )
        assert 0.93 <= covered <= 0.97

    def test_mirror_image(self):
        low, high = wilson_interval(30, 100)
        mirrored = wilson_interval(70, 100)
        assert mirrored == pytest.approx((1 - high, 1 - low), abs=1e-12)

    @pytest.mark.parametrize(("num_correct", "num_total"), [(0, 0), (-1, 5), (6, 5)])
    def test_impossible_counts_are_refused(self, num_correct, num_total):
        with pytest.raises(ValueError, match="is impossible"):
            wilson_interval(num_correct, num_total)

    @pytest.mark.parametrize("confidence", [0.0, 1.0, 95])
    def test_impossible_confidence_is_refused(self, confidence):
        with pytest.raises(ValueError, match="`confidence` must be between 0 and 1"):
            wilson_interval(1, 2, confidence)


def _inverse_erf(value):
    """Bisect."""
    low, high = 0.0, 10.0
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if math.erf(middle) < value else (low, middle)
    return low
