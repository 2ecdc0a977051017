"""Tests of `quee_hf.diagnostics.shift`: values by hand, and how often chance is taken for a shift."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom

from quee_hf.diagnostics.shift import (
    excess_p_value,
    kolmogorov_smirnov,
    measure_shift,
    population_stability_index,
)

counts = st.lists(st.integers(0, 500), min_size=4, max_size=4).filter(lambda each: sum(each) > 0)


def test_index_by_hand():
    # Half an image in each bin more: shares (0.25, 0.75) and (0.75, 0.25) of 2 images each.
    expected, found = np.array([0.0, 1.0]), np.array([1.0, 0.0])
    assert population_stability_index(expected, found) == pytest.approx(2 * 0.5 * np.log(3))


def test_distance_by_hand():
    expected, found = np.array([50.0, 30.0, 20.0]), np.array([1.0, 3.0, 6.0])
    assert kolmogorov_smirnov(expected, found) == pytest.approx(0.4)


@given(first=counts, second=counts)
def test_statistics_are_symmetric_and_at_least_0(first, second):
    first, second = np.array(first, float), np.array(second, float)
    for statistic in (population_stability_index, kolmogorov_smirnov):
        assert statistic(first, second) == pytest.approx(statistic(second, first))
        assert statistic(first, second) >= 0
        assert statistic(first, first) == 0


@pytest.mark.parametrize(
    ("num_reference", "num_images", "shares"),
    [
        (1500, 500, np.full(20, 0.05)),
        (1500, 500, np.array([0.2, 0.4, 0.25, 0.15, 0.0])),
        (300, 3000, np.full(20, 0.05)),
        (200, 100, np.array([0.97, 0.01, 0.01, 0.01])),
    ],
    ids=["usual", "exits", "few-in-reference", "rare"],
)
def test_chance_is_taken_for_a_shift_as_rarely_as_it_says(num_reference, num_images, shares):
    random, num_runs = np.random.default_rng(0), 400
    p_values = np.array(
        [
            measure_shift(
                random.multinomial(num_reference, shares).astype(float),
                random.multinomial(num_images, shares).astype(float),
                random,
            ).p_value
            for _ in range(num_runs)
        ]
    )
    for level in (0.01, 0.05, 0.2):
        # Rarer than one in a thousand if the level holds.
        assert (p_values <= level).sum() <= binom.ppf(0.999, num_runs, level)


def test_a_shift_is_seen():
    random = np.random.default_rng(0)
    expected = random.multinomial(1500, np.full(20, 0.05)).astype(float)
    shares = np.linspace(0.03, 0.07, 20)
    found = random.multinomial(500, shares).astype(float)
    shift = measure_shift(expected, found, random)
    assert shift.p_value < 0.002
    assert shift.ks == kolmogorov_smirnov(expected, found)
    assert shift.psi == population_stability_index(expected, found)


def test_excess_by_hand():
    # Of 2 + 2 images 2 differ, and both are among the 2 found: one choice of six.
    assert excess_p_value(0, 2, 2, 2) == pytest.approx(1 / 6)
    assert excess_p_value(1, 100, 0, 50) == 1.0
