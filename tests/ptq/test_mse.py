"""Tests of the `mse` method's searches."""

import itertools

import numpy as np
import pytest
import torch
from tests.reference.quantization import squared_error
from tests.tiny import generator

from quee_hf.ptq.calibration import WeightedPoints, summarize
from quee_hf.ptq.mse import search_activation_range, search_weight_scale
from quee_hf.quantization.affine import activation_codes, dequantize_weight, quantize_weight, range_to_scale

BITS = range(2, 9)
every_width = pytest.mark.parametrize("bits", BITS)

_random = generator(0)
WEIGHTS = {
    "normal": torch.randn(16, 48, generator=_random),
    "outliers": torch.randn(16, 48, generator=_random)
    * (1 + 9 * (torch.rand(16, 48, generator=_random) < 0.03)),
    "small": 1e-4 * torch.randn(16, 48, generator=_random),
    "uniform": torch.rand(16, 48, generator=_random) - 0.5,
}
ACTIVATIONS = {
    "normal": torch.randn(20_000, generator=_random),
    "skewed": torch.nn.functional.gelu(2 * torch.randn(20_000, generator=_random)),
    "softmax": torch.randn(1000, 20, generator=_random).mul(3).softmax(dim=-1).flatten(),
    "outliers": torch.cat([torch.randn(20_000, generator=_random), torch.tensor([-60.0, 150.0])]),
    "negative": -torch.rand(5000, generator=_random) - 1,
    "few": torch.tensor([-0.3, 0.1, 0.7]),
}


def weight_error(weight, scale, bits):
    """Squared error per row, in float64 and by the reference."""
    half = 2 ** (bits - 1)
    return np.array(
        [
            squared_error(row.numpy(), s, -half, half - 1)
            for row, s in zip(weight, scale.tolist(), strict=True)
        ]
    )


@every_width
@pytest.mark.parametrize("kind", WEIGHTS)
class TestWeightScale:
    def test_is_not_worse_than_the_full_range(self, kind, bits):
        weight = WEIGHTS[kind]
        found = weight_error(weight, search_weight_scale(weight, bits), bits)
        largest = weight.abs().amax(dim=1)
        # 1e-6: errors are compared in float32 by the search and in float64 here.
        assert (found <= weight_error(weight, largest / (2 ** (bits - 1) - 0.5), bits) * (1 + 1e-6)).all()
        # Nor, over the rows together, than the usual choice that clips nothing.
        assert found.sum() <= weight_error(weight, largest / (2 ** (bits - 1) - 1), bits).sum()

    def test_no_neighbouring_scale_is_much_better(self, kind, bits):
        weight = WEIGHTS[kind]
        scale = search_weight_scale(weight, bits)
        found = weight_error(weight, scale, bits).sum()
        for factor in np.linspace(0.3, 1.2, 181):
            # Between points of the grid, 2.5 % apart, an error can be lower, but not by much.
            assert found <= 1.1 * weight_error(weight, scale * float(factor), bits).sum()

    def test_scales_with_the_weight(self, kind, bits):
        weight = WEIGHTS[kind]
        assert torch.equal(search_weight_scale(4 * weight, bits), 4 * search_weight_scale(weight, bits))


@every_width
def test_a_row_of_zeros_stays_zero(bits):
    weight = torch.tensor([[0.0, 0.0], [1.0, -0.5], [1e-42, 0.0]])
    scale = search_weight_scale(weight, bits)
    assert ((scale > 0) & scale.isfinite()).all()
    restored = dequantize_weight(quantize_weight(weight, scale, bits))
    assert restored[0].tolist() == [0.0, 0.0]
    assert restored[2].tolist() == [0.0, 0.0]


def activation_error(x, low, high, bits):
    scale, zero_point = range_to_scale(low, high, bits)
    return squared_error(x.numpy(), scale.item(), -zero_point.item(), 2**bits - 1 - zero_point.item())


@every_width
@pytest.mark.parametrize("kind", ACTIVATIONS)
class TestActivationRange:
    def test_is_not_worse_than_min_and_max(self, kind, bits):
        x = ACTIVATIONS[kind]
        low, high = search_activation_range(summarize(x), bits)
        assert low <= 0 <= high
        found, full = (activation_error(x, *ends, bits) for ends in ((low, high), (x.min(), x.max())))
        # The body of a large sample is searched as means of groups: their spread, well under a step, is not seen.
        assert found <= 1.01 * full + 1e-9


@pytest.mark.parametrize("kind", ["normal", "skewed", "softmax", "outliers"])
def test_more_bits_never_make_a_larger_error(kind):
    x, errors = ACTIVATIONS[kind], []
    for bits in BITS:
        errors.append(activation_error(x, *search_activation_range(summarize(x), bits), bits))
    # 1e-3: at two or three bits two ranges can be as good as each other, and the search has a grid.
    assert all(more <= 1.001 * fewer for fewer, more in itertools.pairwise(errors))
    assert errors[-1] < 0.1 * errors[0]
    weight, errors = WEIGHTS["normal"], []
    for bits in BITS:
        errors.append(weight_error(weight, search_weight_scale(weight, bits), bits).sum())
    assert errors == sorted(errors, reverse=True)


def test_few_bits_give_up_the_outliers_many_keep_them():
    # 20,000 standard normals and one 30. Over [-4, 30], 4 bits have steps of 2.3 and lose 20,000 * 2.3**2 / 12 = 8,600;
    # clipping at 4 loses (30 - 4)**2 = 680. With 8 bits the whole range loses 30.
    points = summarize(torch.cat([torch.randn(20_000, generator=generator(0)), torch.tensor([30.0])]))
    assert search_activation_range(points, 4)[1] < 8
    assert search_activation_range(points, 8)[1] > 25


def test_weights_of_points_count():
    values = torch.tensor([-1.0, 0.0, 0.2, 0.4, 10.0])
    many, one = torch.tensor([1e5, 1e5, 1e5, 1e5, 1.0]), torch.ones(5)
    assert search_activation_range(WeightedPoints(values, many), 3)[1] < 5
    assert search_activation_range(WeightedPoints(values, one), 3)[1] > 5


def test_constant_zero_has_a_range():
    low, high = search_activation_range(summarize(torch.zeros(50)), 4)
    scale, zero_point = range_to_scale(low, high, 4)
    assert activation_codes(torch.zeros(3), scale, zero_point, 4).tolist() == [0.0, 0.0, 0.0]


def test_two_bits_by_hand():
    # Codes 0 to 3 of step 1 meet all points but 30, which is too rare to matter.
    values, weights = torch.tensor([0.0, 1.0, 2.0, 3.0, 30.0]), torch.tensor([1e6, 1e6, 1e6, 1e6, 1.0])
    low, high = search_activation_range(WeightedPoints(values, weights), 2)
    # The grid is geometric and refined to steps of 9 %, so 3 is met within half of one.
    assert low == 0
    assert high.item() == pytest.approx(3.0, rel=0.05)
