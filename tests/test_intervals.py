"""Tests of intervals, against what defines them."""

import math

import pytest

from quee_hf.intervals import paired_difference_interval, wilson_interval


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


class TestPairedDifference:
    @pytest.mark.parametrize(("first", "second"), [(0.1, 0.07), (0.3, 0.05), (0.02, 0.02)])
    def test_covers_as_often_as_promised(self, first, second):
        # Exact coverage for 60 images, summed over all outcomes.
        covered, neither = 0.0, 1 - first - second
        for a in range(61):
            for b in range(61 - a):
                low, high = paired_difference_interval(a, b, 60)
                if low <= first - second <= high:
                    ways = math.comb(60, a) * math.comb(60 - a, b)
                    covered += ways * first**a * second**b * neither ** (60 - a - b)
        # Near 0.95 only, as counts are whole; where only one or two images differ, more.
        assert 0.94 <= covered <= (0.97 if first > 0.05 else 1)

    def test_mirror_image(self):
        low, high = paired_difference_interval(30, 10, 100)
        assert paired_difference_interval(10, 30, 100) == pytest.approx((-high, -low), abs=1e-12)

    def test_of_many_images_is_the_normal_one(self):
        low, high = paired_difference_interval(95_000, 71_000, 1_000_000)
        reach = 1.959964 * math.sqrt((0.166 - 0.024**2) / 1e6)
        # What is added to the counts moves the ends by about 1e-6.
        assert (low, high) == pytest.approx((0.024 - reach, 0.024 + reach), abs=2e-6)

    def test_stays_within_what_is_possible(self):
        assert paired_difference_interval(5, 0, 5)[1] == 1.0
        assert paired_difference_interval(0, 5, 5)[0] == -1.0

    @pytest.mark.parametrize("counts", [(0, 0, 0), (-1, 2, 5), (2, -1, 5), (3, 3, 5)])
    def test_impossible_counts_are_refused(self, counts):
        with pytest.raises(ValueError, match="is impossible"):
            paired_difference_interval(*counts)

    def test_impossible_confidence_is_refused(self):
        with pytest.raises(ValueError, match="`confidence` must be between 0 and 1"):
            paired_difference_interval(1, 1, 2, confidence=95)


def _inverse_erf(value):
    """Bisect."""
    low, high = 0.0, 10.0
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if math.erf(middle) < value else (low, middle)
    return low
