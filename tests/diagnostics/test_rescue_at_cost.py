"""Tests of `quee_hf.diagnostics.rescue_at_cost`."""

import pytest
import torch
from tests.tiny import generator

from quee_hf.diagnostics.rescue_at_cost import RoutedFit, compare_at_cost, effects_at_cost, state_rescue

FULL = torch.tensor([True, False, True, False])


def fit(*rows: tuple[float, list[int]]) -> RoutedFit:
    """Return settings, each with the cost of all images and which of them are right."""
    right = torch.tensor([row for _, row in rows]).bool()
    cost = torch.tensor([cost for cost, _ in rows])[:, None].expand(-1, right.shape[1])
    return RoutedFit(right, cost)


class TestEffectsAtCost:
    def test_a_budget_between_two_settings_is_met_by_sharing(self):
        made = fit((1.0, [1, 0, 1, 0]), (0.6, [1, 1, 0, 0]), (0.5, [0, 1, 0, 1]))
        # Three quarters of the images by the first setting, one by the second: 0.75 + 0.25 * 0.6 = 0.9.
        found = effects_at_cost(made, FULL, 0.9)
        expected = torch.tensor([[0, 0, 0], [0.25, 0, 0.25], [0, 0.25, -0.25], [0, 0, 0]]).double()
        torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)  # costs are float32

    def test_a_budget_that_a_setting_meets_takes_that_setting(self):
        made = fit((1.0, [1, 0, 1, 0]), (0.5, [1, 1, 0, 0]))
        assert effects_at_cost(made, FULL, 0.5)[:, 0].tolist() == [0, 1, 0, 0]
        assert effects_at_cost(made, FULL, 1.0).abs().sum() == 0

    def test_a_fit_that_never_costs_as_much_keeps_its_dearest_setting(self):
        made = fit((0.7, [1, 1, 1, 0]), (0.5, [0, 0, 0, 0]))
        assert effects_at_cost(made, FULL, 0.9)[:, 0].tolist() == [0, 1, 0, 0]

    def test_a_budget_below_everything_is_refused(self):
        with pytest.raises(ValueError, match="All settings cost more than 0.3: at least 0.500"):
            effects_at_cost(fit((0.5, [1, 0, 1, 0])), FULL, 0.3)


def random_side(seed: int, share_right: float = 0.6) -> tuple[list[RoutedFit], torch.Tensor]:
    random = generator(seed)
    rights = [torch.rand(3, 400, generator=random) < share_right for _ in range(2)]
    cost = torch.tensor([1.0, 0.8, 0.5])[:, None].expand(-1, 400)
    return [RoutedFit(right, cost) for right in rights], torch.rand(400, generator=random) < 0.6


class TestCompareAtCost:
    def test_control_against_itself_differs_by_nothing(self):
        side = random_side(0)
        compared = compare_at_cost(side, side, 0.7)
        assert {tuple(found["interval"]) for found in compared["difference"].values()} == {(0.0, 0.0)}
        assert "rescue does not measurably exceed rescue in full precision" in state_rescue(
            compared, "itself"
        )

    def test_fits_are_compared_one_by_one(self):
        (first, second), full = random_side(3)
        compared = compare_at_cost(([first, second], full), ([second, first], full), 0.7)
        low, high = compared["difference"]["net"]["range"]
        assert low == -high < 0
        assert compared["difference"]["net"]["value"] == 0
        with pytest.raises(ValueError, match="Expected as many fits of both, got 1 and 2"):
            compare_at_cost(([first], full), ([second, first], full), 0.7)

    def test_what_only_quantization_rescues_is_found(self):
        fits, full = random_side(1, share_right=1.0)
        spoilt = full & (torch.arange(400) >= 120)
        compared = compare_at_cost((fits, spoilt), (fits, full), 0.7)
        gained = float((full & ~spoilt).double().mean())
        assert compared["difference"]["rescue"]["value"] == pytest.approx(gained, abs=1e-6)
        assert compared["difference"]["rescue"]["range"] == pytest.approx([gained, gained], abs=1e-6)
        assert compared["difference"]["loss"]["value"] == 0
        statement = state_rescue(compared, "repq, 8 bits")
        assert statement.startswith(
            "repq, 8 bits: at 70% of the FLOPs, rescue exceeds rescue in full precision"
        )
        other_way = compare_at_cost((fits, full), (fits, spoilt), 0.7)
        assert "rescue is below rescue in full precision" in state_rescue(other_way, "repq")
