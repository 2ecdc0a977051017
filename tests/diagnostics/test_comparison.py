"""Tests of `compare_sweeps`: values by hand, intervals by what they must hold."""

import numpy as np
import pytest
import torch

from quee_hf.baselines import Sweep
from quee_hf.diagnostics.comparison import COSTS, DROPS, compare_sweeps, comparison_table

NUM_IMAGES = 400


def sweep(accuracies, costs, num_images=NUM_IMAGES, seed=0):
    """Return settings of given accuracies, whose errors are random images, at given costs."""
    rng = np.random.default_rng(seed)
    is_correct = torch.zeros(len(accuracies), num_images, dtype=torch.bool)
    for row, accuracy in enumerate(accuracies):
        is_correct[row, rng.permutation(num_images)[: round(accuracy * num_images)]] = True
    spread = torch.tensor(costs)[:, None].expand(-1, num_images).clone()
    return Sweep(is_correct, spread, torch.arange(len(costs))[:, None].expand(-1, num_images).int())


def test_values_are_those_of_the_curve():
    good, poor = sweep([0.5, 0.8, 0.9], [0.25, 0.5, 1.0]), sweep([0.9], [1.0])
    full = good.is_correct[-1].numpy()
    found = compare_sweeps({"good": [good], "poor": [poor]}, "good", full, num_resamples=50)
    at_cost = found["good"]["accuracy_at_cost"]
    assert at_cost["0.5"]["value"] == pytest.approx(0.8, abs=1e-6)
    assert at_cost["0.6"]["value"] == pytest.approx(0.82, abs=1e-6)
    assert found["good"]["cost_at_drop"]["0"]["value"] == pytest.approx(1)
    assert found["good"]["cost_at_drop"]["0.02"]["value"] == pytest.approx(0.9, abs=1e-6)
    assert found["poor"]["accuracy_at_cost"]["0.8"] == {"value": None, "interval": [None, None]}
    assert found["poor"]["area"]["value"] == pytest.approx(0, abs=1e-9)
    assert found["poor"]["area_difference"]["value"] == pytest.approx(-found["good"]["area"]["value"])
    assert [round(point["cost"], 6) for point in found["good"]["curve"]] == [0.25, 0.5, 1.0]
    assert set(at_cost) == {f"{cost:g}" for cost in COSTS}
    assert set(found["good"]["cost_at_drop"]) == {f"{drop:g}" for drop in DROPS}


def test_seeds_are_meaned_and_widen_the_interval():
    same = [sweep([0.6], [0.2], seed=1)] * 3
    various = [sweep([accuracy], [0.2], seed=1) for accuracy in (0.4, 0.6, 0.8)]
    full = np.ones(NUM_IMAGES, dtype=bool)
    found = compare_sweeps({"same": same, "various": various}, "same", full, num_resamples=400)
    assert found["various"]["area"]["value"] == pytest.approx(0.6, abs=1e-6)
    assert found["various"]["curve"][0]["accuracy_range"] == pytest.approx(0.4, abs=1e-6)
    width = {name: np.ptp(row["area"]["interval"]) for name, row in found.items()}
    # Of 400 images, 60 % right: a standard error of 0.0245, an interval of 3.92 of them.
    assert width["same"] == pytest.approx(0.096, rel=0.15)
    assert width["various"] > 2 * width["same"]


def test_images_are_paired():
    """What is equal differs by nothing, in every resample."""
    one = sweep([0.5, 0.9], [0.3, 1.0])
    found = compare_sweeps({"a": [one], "b": [one]}, "a", one.is_correct[-1].numpy(), num_resamples=50)
    assert found["b"]["area_difference"] == {"value": 0.0, "interval": [0.0, 0.0]}
    assert found["a"]["cost_at_drop"]["0"]["interval"] == [1.0, 1.0]


def test_table_is_ordered_by_area():
    good, poor = sweep([0.5, 0.9], [0.2, 0.5]), sweep([0.5, 0.6], [0.2, 0.5])
    found = compare_sweeps(
        {"poor": [poor], "good": [good]}, "good", np.ones(NUM_IMAGES, bool), num_resamples=20
    )
    lines = comparison_table(found, "good", {"flops": found}).splitlines()
    assert [line.split("|")[1].strip() for line in lines] == ["method", "---", "good", "poor"]
    assert "not reached" in lines[3]


def test_what_does_not_fit_is_refused():
    one = sweep([0.5], [0.3])
    with pytest.raises(ValueError, match="as many sweeps of 'quee'"):
        compare_sweeps({"a": [one]}, "quee", [True] * NUM_IMAGES)
    with pytest.raises(ValueError, match="got {1, 2}"):
        compare_sweeps({"a": [one], "b": [one, one]}, "a", [True] * NUM_IMAGES)
