"""Tests of the searches of scales and ranges for one tensor at a time."""

import itertools

import numpy as np
import pytest
import torch
from tests.reference import ptq as reference
from tests.reference.quantization import squared_error
from tests.tiny import generator

from quee_hf.ptq import ranges
from quee_hf.ptq.ranges import (
    WeightedPoints,
    sample_points,
    search_activation_range,
    search_parameters,
    search_weight_range,
    search_weight_scale,
    summarize,
)
from quee_hf.quantization.activation import DynamicQuantizer, LogQuantizer
from quee_hf.quantization.affine import activation_codes, dequantize_weight, quantize_weight, range_to_scale
from quee_hf.quantization.integer import centred

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


class TestSummarize:
    def test_a_small_sample_is_kept_whole(self):
        sample = torch.randn(7, 11, generator=generator(0))
        points = summarize(sample)
        assert torch.equal(points.values, sample.flatten().sort().values)
        assert (points.weights == 1).all()

    def test_a_large_sample_keeps_its_tails_its_mass_and_its_mean(self):
        sample = torch.randn(100_000, generator=generator(0)) ** 3  # long tails
        points, ordered = summarize(sample), sample.sort().values
        assert len(points.values) < 5000
        assert torch.equal(points.values, points.values.sort().values)
        assert torch.equal(points.values[:100], ordered[:100])
        assert torch.equal(points.values[-100:], ordered[-100:])
        assert points.weights.sum() == 100_000
        mean = (points.values.double() * points.weights.double()).sum() / 100_000
        # Groups are replaced by their means in float32: only roundings of 2**-24 of values near 1 are left.
        assert mean.item() == pytest.approx(sample.double().mean().item(), abs=1e-6)

    @pytest.mark.parametrize("size", [1, 1536, 1537, 5000])
    def test_equals_the_reference(self, size):
        sample, weights = torch.randn(size, generator=generator(0)), torch.rand(size, generator=generator(1))
        points = summarize(sample, weights)
        values, mass = reference.summarize(sample.numpy(), weights.numpy())
        # Means and sums of at most a few numbers of order 1, in float32.
        torch.testing.assert_close(points.values.double(), torch.from_numpy(values), rtol=1e-6, atol=1e-7)
        torch.testing.assert_close(points.weights.double(), torch.from_numpy(mass), rtol=1e-6, atol=1e-7)


class TestSamplePoints:
    def test_weights_are_those_of_the_columns(self):
        x, column_weights = torch.randn(2, 5, 7, generator=generator(0)), torch.arange(7.0)
        points = sample_points(x, column_weights)
        found = dict(zip(points.values.tolist(), points.weights.tolist(), strict=True))
        for index in np.ndindex(2, 5, 7):
            assert found[x[index].item()] == index[-1]

    def test_a_sample_is_bounded_repeatable_and_keeps_the_extremes(self, monkeypatch):
        monkeypatch.setattr(ranges, "SAMPLE_SIZE", 100)
        x, column_weights = torch.randn(6, 50, 7, generator=generator(0)), torch.arange(7.0)
        first, again, other = (sample_points(x, column_weights, seed=seed) for seed in (1, 1, 2))
        assert len(first.values) <= 102
        assert (first.values[0], first.values[-1]) == (x.min(), x.max())
        assert torch.equal(first.values, again.values)
        assert torch.equal(first.weights, again.weights)
        assert not torch.equal(first.values, other.values)
        where = {value: index % 7 for index, value in enumerate(x.flatten().tolist())}
        assert [where[value] for value in first.values.tolist()] == first.weights.tolist()


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


@every_width
class TestAsymmetricWeight:
    @pytest.fixture
    def gram(self):
        rows = torch.randn(200, 48, generator=generator(3)) * torch.linspace(0.1, 3, 48)
        return rows.T @ rows / 200

    @pytest.mark.parametrize("kind", WEIGHTS)
    @pytest.mark.parametrize("is_symmetric", [False, True])
    def test_equals_the_reference(self, kind, bits, gram, is_symmetric):
        weight = WEIGHTS[kind] + 0.5 * WEIGHTS[kind].std()
        found = search_weight_range(weight, gram, bits, is_symmetric=is_symmetric)
        for row in range(len(weight)):
            candidates, errors = reference.weight_ranges(
                weight[row].numpy(), gram.double().numpy(), bits, is_symmetric=is_symmetric
            )
            scale, offset = found.scale[row].item(), found.offset[row].item()
            nearest = int(np.argmin([abs(scale - candidate[0]) for candidate in candidates]))
            # Candidates are products of a few float32 numbers; offsets are differences of two of the row's size.
            assert scale == pytest.approx(candidates[nearest][0], rel=1e-6)
            assert offset == pytest.approx(candidates[nearest][1], abs=1e-6 * weight[row].abs().max().item())
            # Errors are compared in float32, where near ties may fall to either side.
            assert errors[nearest] <= min(errors) * (1 + 1e-3)
            expected = reference.row_codes(weight[row].numpy(), scale, offset, bits)
            assert np.array_equal(found.codes[row], expected)

    def test_is_not_worse_than_the_full_range(self, bits, gram):
        weight = WEIGHTS["outliers"]
        low, high = weight.amin(dim=1), weight.amax(dim=1)
        scale = (high - low) / (2**bits - 1)
        full = quantize_weight(weight, scale, bits, scale * torch.round(low / scale + 2 ** (bits - 1)))
        errors = []
        for codes in (search_weight_range(weight, gram, bits), full):
            difference = dequantize_weight(codes) - weight
            errors.append(((difference @ gram) * difference).sum(dim=1))
        assert (errors[0] <= errors[1] * (1 + 1e-5) + 1e-9).all()  # 1e-5: sums in float32

    def test_rows_of_one_value_are_exact(self, bits, gram):
        weight = torch.tensor([0.0, 0.3, -2.0])[:, None].expand(3, 48)
        found = search_weight_range(weight, gram, bits)
        assert (found.scale > 0).all()
        torch.testing.assert_close(dequantize_weight(found), weight, rtol=1e-6, atol=0)

    def test_offsets_are_whole_steps_within_eight_bits(self, bits, gram):
        codes = search_weight_range(WEIGHTS["outliers"] + 1, gram, bits)
        steps = codes.offset / codes.scale
        torch.testing.assert_close(steps, steps.round(), rtol=1e-5, atol=1e-5)
        if bits < 8:
            assert centred(codes).offset is None


@every_width
@pytest.mark.parametrize("kind", ["skewed", "softmax", "normal", "few"])
def test_logarithmic_steps_equal_the_reference(kind, bits):
    points = summarize(ACTIVATIONS[kind])
    found = search_parameters(LogQuantizer([bits]), points, bits)
    values, weights = points.values.double().numpy(), points.weights.double().numpy()
    candidates, errors = reference.searched_log(values, weights, bits)
    assert found["shift"].item() == max(0.0, -values[0])
    wanted = (found["largest"].item(), found["exponent"].item())
    distances = [abs(largest - wanted[0]) + 1e9 * (exponent != wanted[1]) for largest, exponent in candidates]
    nearest = int(np.argmin(distances))
    assert candidates[nearest][0] == pytest.approx(wanted[0], rel=1e-6)
    # Float32 logarithms move a few codes that are near a tie, which changes sums of errors by less than this.
    assert errors[nearest] <= min(errors) * 1.01 + 1e-12


@every_width
@pytest.mark.parametrize("kind", ACTIVATIONS)
def test_a_weighted_range_equals_the_reference(kind, bits):
    sample = ACTIVATIONS[kind]
    points = summarize(sample, torch.rand(len(sample), generator=generator(5)) + 0.1)
    values, weights = points.values.double().numpy(), points.weights.double().numpy()
    scale, zero_point = range_to_scale(*search_activation_range(points, bits), bits)
    expected = reference.searched_range(values, weights, bits)
    if (scale.item(), zero_point.item()) != pytest.approx(expected, rel=1e-6):
        # Two ranges may be as good as each other to float32, of which either may win.
        errors = []
        for one, zero in ((scale.item(), zero_point.item()), expected):
            codes = np.clip(np.rint(values / float(one)), -zero, 2**bits - 1 - zero)
            errors.append(((codes * float(one) - values) ** 2) @ weights)
        assert errors[0] <= errors[1] * (1 + 1e-4)


def test_dynamic_ranges_are_not_searched():
    assert search_parameters(DynamicQuantizer([8]), summarize(torch.randn(9)), 8) == {}
