"""Tests of `quee_hf.diagnostics.rescue_seeds`."""

import pytest
import torch
from tests.tiny import generator

from quee_hf.diagnostics.rescue import describe_rescue
from quee_hf.diagnostics.rescue_seeds import (
    compare_fits_with_control,
    describe_configuration,
    describe_difference,
    describe_fits,
)


def outcomes(seed: int, fits: int = 3, images: int = 200) -> tuple[torch.Tensor, torch.Tensor]:
    """Return whether each fit is right, leaving early, and whether the whole network is."""
    drawn = torch.rand(fits + 1, images, generator=generator(seed)) < 0.6
    return drawn[:-1], drawn[-1]


def test_one_fit_is_what_the_analysis_of_one_says():
    early, full = outcomes(0, fits=1)
    found, alone = describe_fits(early, full), describe_rescue(early[0], full)
    for name in ("both_right", "rescue", "loss", "both_wrong"):
        assert found[name]["count"] == alone[name]["count"]
    assert found["net"]["value"] == alone["net"]["value"]
    assert found["fits"] == [alone]
    # Two kinds of interval of the same: within a fifth of their width.
    for ours, theirs in zip(found["net"]["interval"], alone["net"]["interval"], strict=True):
        assert ours == pytest.approx(theirs, abs=0.2 * (alone["net"]["interval"][1] - alone["net"]["value"]))


def test_fits_are_averaged():
    early, full = outcomes(1)
    found = describe_fits(early, full)
    assert found["rescue"]["share"] == pytest.approx(float((early & ~full).double().mean()), abs=1e-6)
    assert found["net"]["value"] == pytest.approx(found["accuracy_early"] - found["accuracy_full"], abs=2e-6)
    assert found["p_value"] == sorted(fit["p_value"] for fit in found["fits"])[1]


def test_control_against_itself_differs_by_nothing():
    fits = outcomes(2)
    compared = compare_fits_with_control(fits, fits)
    assert compared["quantized"] == compared["control"]
    for found in compared["difference"].values():
        assert found == {"value": 0.0, "interval": [0.0, 0.0]}


def test_what_only_quantization_rescues_is_found():
    early, full = torch.ones(2, 100).bool(), torch.ones(100).bool()
    spoilt = full.clone()
    spoilt[:30] = False
    compared = compare_fits_with_control((early, spoilt), (early, full))
    assert compared["difference"]["rescue"]["value"] == pytest.approx(0.3)
    assert compared["difference"]["loss"]["value"] == 0


def test_a_row_by_hand():
    right = torch.tensor([[1, 1, 0, 0], [1, 1, 1, 0]]).bool()
    row = describe_configuration(right, torch.tensor([1, 0, 0, 0]).bool(), torch.tensor([0.5, 0.75]))
    assert row["flops_saved"] == {"value": 0.375, "range": [0.25, 0.5]}
    assert (row["accuracy"]["value"], row["accuracy"]["range"]) == (0.625, [0.5, 0.75])
    assert row["difference"]["value"] == 0.375


def test_what_is_hard_for_both_cancels():
    """The interval of a difference is that of paired images, not of two independent accuracies."""
    right = torch.rand(1, 1000, generator=generator(3)) < 0.5
    better = right.clone()
    better[0, :10] = True
    gained = float(better.double().mean() - right.double().mean())
    low, high = describe_difference(better, right[0])["interval"]
    assert 0 < low < gained < high < 0.012  # unpaired it would reach 0.04 beyond


@pytest.mark.parametrize(
    ("early", "full", "message"),
    [
        (torch.ones(2, 3).bool(), torch.ones(4).bool(), r"got \(2, 3\) and \(4,\)"),
        (torch.ones(2, 3), torch.ones(3).bool(), "Expected bool tensors"),
    ],
)
def test_what_does_not_fit_is_refused(early, full, message):
    with pytest.raises(ValueError, match=message):
        describe_fits(early, full)
