"""Tests of `quee_hf.routing.ledger`, by hand."""

import numpy as np
import pytest

from quee_hf.routing.ledger import HORIZON, Ledger


def test_what_is_owed_is_repaid_over_the_horizon():
    ledger = Ledger(budget=0.5, window=100_000, owed=1.6)
    assert ledger.price_wanted(1) == pytest.approx(0.5 - 1.6 / HORIZON)
    # As many images in a batch repay together what they would repay one by one.
    left = 1.6
    for _ in range(8):
        left -= left / HORIZON
    assert 8 * (0.5 - ledger.price_wanted(8)) == pytest.approx(1.6 - left)


def test_images_that_are_dearer_are_wanted_at_a_lower_price():
    assert Ledger(budget=0.5, window=100_000, dearer=0.2).price_wanted(1) == pytest.approx(0.3)


def test_what_images_on_their_way_will_repay_is_not_asked_for_again():
    ledger = Ledger(budget=0.5, window=100_000, owed=10.0, dearer=0.1)
    ledger.start(np.full(100, 0.3))  # each will cost 0.4, and so repay 0.1
    assert ledger.price_wanted(1) == pytest.approx(0.4)
    ledger.drop(np.full(100, 0.3))
    assert ledger.price_wanted(1) == pytest.approx(0.4 - 10 / HORIZON)


def test_settling_enters_cost_above_budget_and_above_price():
    ledger = Ledger(budget=0.5, window=100_000)
    prices = np.array([0.4, 0.6])
    ledger.start(prices)
    ledger.settle(prices, np.array([0.7, 0.7]))
    assert (ledger.num_images, ledger.mean, ledger.num_pending) == (2, 0.7, 0)
    assert ledger.owed == pytest.approx(0.4)
    assert ledger.dearer == pytest.approx(0.2 * (1 - (1 - 1 / HORIZON) ** 2))


def test_what_a_window_does_not_allow_is_written_off():
    ledger = Ledger(budget=0.5, window=100)  # a hundredth of what 100 images may cost: 0.5
    ledger.settle(np.full(10, 0.5), np.full(10, 1.0))
    assert (ledger.owed, ledger.written_off) == (0.5, 4.5)
