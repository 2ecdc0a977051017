"""Tests of `quee_hf.routing.certify`: its bounds hold, and equal slow references."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quee_hf.routing.certify import (
    P_VALUES,
    betting_p_value,
    disagreements,
    hoeffding_bentkus_p_value,
    images_needed,
    in_random_order,
    last_certified,
    signed_gaps,
)

LEVEL = 0.05


def draw(random, count, lost, rescued):
    """Return `(count,)` losses: 1 where an image is lost, -1 where it is rescued."""
    where = random.random(count)
    return np.where(where < lost, 1.0, np.where(where < lost + rescued, -1.0, 0.0))


def slow_betting(losses, limit, level):
    """Bet on one loss after the other."""
    wealth = best = 1.0
    total, squares, variance = 0.5 * limit, 1.0, 1.0
    for i, loss in enumerate(losses, start=1):
        stake = min(math.sqrt(2 * math.log(1 / level) / (len(losses) * variance)), 0.75 / (1 - limit))
        wealth *= 1 + stake * (limit - loss)
        best = max(best, wealth)
        total += loss
        squares += (loss - total / (i + 0.5)) ** 2
        variance = squares / (i + 1)
    return 1 / best


class TestBetting:
    @settings(max_examples=50, deadline=None)
    @given(
        losses=st.lists(st.sampled_from([-1.0, 0.0, 0.0, 0.0, 1.0]), max_size=60),
        limit=st.sampled_from([-0.01, 0.0, 0.01, 0.2]),
        level=st.sampled_from([0.01, 0.05, 0.2]),
    )
    def test_equals_betting_one_by_one(self, losses, limit, level):
        found = betting_p_value(np.array(losses), limit, level)
        assert found == pytest.approx(slow_betting(losses, limit, level), rel=1e-9)

    def test_rescues_count(self):
        losses = draw(np.random.default_rng(0), 5000, lost=0.02, rescued=0.03)
        assert betting_p_value(losses, 0.005, LEVEL) < 1e-3
        assert betting_p_value(np.maximum(losses, 0), 0.005, LEVEL) == pytest.approx(1.0, abs=0.5)


class TestHoeffdingBentkus:
    @pytest.mark.parametrize(("count", "lost", "limit"), [(100, 0, 0.05), (1000, 30, 0.05), (50, 5, 0.1)])
    def test_is_never_below_the_exact_test_and_not_far_above(self, count, lost, limit):
        losses = np.repeat([1.0, 0.0], [lost, count - lost])
        exact = sum(math.comb(count, k) * limit**k * (1 - limit) ** (count - k) for k in range(lost + 1))
        assert exact <= hoeffding_bentkus_p_value(losses, limit) <= min(1.0, math.e * exact) * (1 + 1e-9)

    def test_losses_below_zero_count_as_none(self):
        losses = np.array([-1.0] * 300 + [0.0] * 300)
        assert hoeffding_bentkus_p_value(losses, 0.01) == hoeffding_bentkus_p_value(0 * losses, 0.01)

    def test_no_drop_at_all_cannot_be_shown(self):
        assert hoeffding_bentkus_p_value(np.zeros(10_000), 0.0) == 1.0


@pytest.mark.parametrize("method", P_VALUES)
class TestEveryMethod:
    def test_no_images_show_nothing(self, method):
        assert P_VALUES[method](np.empty(0), 0.01, LEVEL) == 1.0

    @pytest.mark.parametrize("rescued", [0.0, 0.02])
    def test_a_broken_promise_is_rarely_believed(self, method, rescued):
        limit, trials = 0.02, 2000
        random = np.random.default_rng(1)
        tested = (draw(random, 400, lost=limit + rescued, rescued=rescued) for _ in range(trials))
        believed = sum(P_VALUES[method](losses, limit, LEVEL) <= LEVEL for losses in tested)
        assert believed <= trials * LEVEL + 3 * math.sqrt(trials * LEVEL * (1 - LEVEL))

    def test_a_kept_promise_is_believed_when_there_are_enough_images(self, method):
        random = np.random.default_rng(2)
        assert P_VALUES[method](draw(random, 10_000, lost=0.01, rescued=0.0), 0.02, LEVEL) <= LEVEL
        assert P_VALUES[method](draw(random, 50, lost=0.01, rescued=0.0), 0.02, LEVEL) > LEVEL

    def test_images_needed_would_do(self, method):
        losses = draw(np.random.default_rng(3), 300, lost=0.01, rescued=0.0)
        needed = images_needed(losses, 0.02, LEVEL, P_VALUES[method])
        assert 300 < needed < 10_000
        assert images_needed(losses, float(losses.mean()), LEVEL, P_VALUES[method]) is None


class TestLastCertified:
    def test_the_first_failure_ends_the_sequence(self):
        p_values = iter([0.01, 0.02, 0.3, 0.01])
        assert last_certified(np.zeros((4, 1)), 0.1, LEVEL, lambda *_: next(p_values)) == 1

    def test_nothing_is_certified_if_the_safest_fails(self):
        assert last_certified(np.zeros((2, 1)), 0.1, LEVEL, lambda *_: 0.5) is None


class TestLosses:
    def test_signed_gaps(self):
        right, full = np.array([[True, False, True, False]]), np.array([True, True, False, False])
        assert signed_gaps(right, full).tolist() == [[0.0, 1.0, -1.0, 0.0]]

    def test_disagreements(self):
        assert disagreements(np.array([[1, 2], [1, 3]]), np.array([1, 2])).tolist() == [[0, 0], [0, 1]]

    def test_order_is_random_but_the_same_each_time(self):
        order = in_random_order(100)
        assert sorted(order) == list(range(100))
        assert (order != np.arange(100)).any()
        assert (order == in_random_order(100)).all()


STEPS = np.linspace(0, 1, 60)  # how far lambda has gone from the safest to the cheapest
COSTS = 1 - 0.7 * STEPS
# How often images are lost and rescued at each step: only lost; both, the losses rising late and steeply as
# they do with QuEE's gates; and as much as LRA-EE reports of an INT8 CLIP.
POPULATIONS = {
    "lost": (0.05 * STEPS**2, 0 * STEPS),
    "both": (0.12 * STEPS**3, 0.02 * STEPS),
    "churn": (0.18 * STEPS**2, 0.095 * STEPS**0.5),
}


def draw_population(random, count, lost, rescued):
    """Return `(steps, count)` losses; an image that is lost at a step is lost at all later ones."""
    where = random.random(count)[None]
    gone, saved = where < lost[:, None], where > 1 - rescued[:, None]
    return gone.astype(np.float64) - saved


@pytest.mark.parametrize("method", P_VALUES)
@pytest.mark.parametrize("population", POPULATIONS)
def test_the_promise_holds(population, method):
    seeds, count, limit = 200, 5000, 0.01
    lost, rescued = POPULATIONS[population]
    drop = lost - rescued
    broken, costs = 0, []
    for seed in range(seeds):
        losses = draw_population(np.random.default_rng(seed), count, lost, rescued)
        row = last_certified(losses, limit, LEVEL, P_VALUES[method])
        broken += row is not None and drop[row] > limit
        costs.append(1.0 if row is None else COSTS[row])
    assert broken <= seeds * LEVEL + 3 * math.sqrt(seeds * LEVEL * (1 - LEVEL))
    best = COSTS[np.flatnonzero(drop > limit)[0] - 1]
    if method == "betting" or population == "lost":
        assert np.mean(costs) <= 1.1 * best
    else:
        assert np.mean(costs) > 1.1 * best  # rescues do not count, and losses alone are too many
