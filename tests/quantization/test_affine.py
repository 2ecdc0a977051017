"""Tests of `quee_hf.quantization.affine`."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.reference import quantization as reference
from tests.reference.ptq import row_codes
from tests.reference.quantization import (
    activation_code,
    fitted_line,
    weight_code,
)
from tests.reference.quantization import (
    leading_bits as leading_bits_of_one,
)
from tests.tiny import generator

from quee_hf.quantization.affine import (
    activation_codes,
    dequantize_weight,
    fit_codes,
    leading_bits,
    quantize_weight,
    range_to_scale,
)

BITS = range(2, 9)
every_width = pytest.mark.parametrize("bits", BITS)


@pytest.fixture
def weight():
    return torch.randn(6, 33, generator=generator(0))


@every_width
class TestQuantizeWeight:
    def test_error_is_at_most_half_a_step_inside_the_range(self, weight, bits):
        scale = weight.abs().amax(dim=1) / (2 ** (bits - 1) - 1)  # so that nothing is clipped
        error = (dequantize_weight(quantize_weight(weight, scale, bits)) - weight).abs()
        # Half a step is reached; 1e-6 is the rounding of float32 quotients and products of order 1.
        assert (error <= scale[:, None] / 2 + 1e-6).all()

    def test_outside_the_range_the_nearest_code_is_taken(self, weight, bits):
        scale = torch.full((6,), 1e-3)
        codes = quantize_weight(weight, scale, bits).codes
        half = 2 ** (bits - 1)
        beyond = weight.abs() > 1e-3 * (half + 1)
        assert beyond.any()
        assert torch.equal(codes[beyond].long(), torch.where(weight > 0, half - 1, -half)[beyond])

    def test_equals_a_loop(self, weight, bits):
        scale = weight.abs().amax(dim=1) / (2 ** (bits - 1) - 0.5)
        codes = quantize_weight(weight, scale, bits).codes.tolist()
        for row in range(len(weight)):
            expected = [weight_code(w, scale[row].item(), bits) for w in weight[row].tolist()]
            assert codes[row] == expected

    def test_a_second_pass_changes_nothing(self, weight, bits):
        once = quantize_weight(weight, weight.abs().amax(dim=1) / 2 ** (bits - 1), bits)
        twice = quantize_weight(dequantize_weight(once), once.scale, bits)
        assert torch.equal(twice.codes, once.codes)

    def test_negating_mirrors_codes_but_the_most_negative(self, weight, bits):
        scale = weight.abs().amax(dim=1) / (2 ** (bits - 1) - 1)
        positive, negative = (quantize_weight(sign * weight, scale, bits).codes.long() for sign in (1, -1))
        assert torch.equal(positive, -negative)


def test_weight_codes_by_hand_ties_to_even_and_clipped():
    weight = torch.tensor([[-9.0, -4.0, -0.5, 0.5, 1.5, 2.6, 3.0, 9.0], [0.25, 0.75, 1.0, 0, 0, 0, 0, -2.0]])
    quantized = quantize_weight(weight, torch.tensor([1.0, 0.5]), bits=3)
    assert quantized.codes.dtype == torch.int8
    assert quantized.codes.tolist() == [[-4, -4, 0, 0, 2, 3, 3, 3], [0, 2, 2, 0, 0, 0, 0, -4]]
    assert dequantize_weight(quantized)[1].tolist() == [0.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0, -2.0]


def test_half_precision_weights_are_quantized_in_float32():
    weight = torch.randn(3, 8, generator=generator(0)).bfloat16()
    scale = torch.tensor([0.1, 0.2, 0.3])
    assert torch.equal(
        quantize_weight(weight, scale, 8).codes, quantize_weight(weight.float(), scale, 8).codes
    )


@every_width
class TestAsymmetricWeight:
    def quantize(self, weight, bits):
        low, high = weight.amin(dim=1), weight.amax(dim=1)
        scale = (high - low) / (2**bits - 1)
        return quantize_weight(weight, scale, bits, low + scale * 2 ** (bits - 1))

    def test_equals_a_loop_exactly(self, weight, bits):
        quantized = self.quantize(weight + 0.7, bits)
        for row in range(len(weight)):
            scale, offset = quantized.scale[row].item(), quantized.offset[row].item()
            expected = row_codes((weight + 0.7)[row].numpy(), scale, offset, bits)
            assert np.array_equal(quantized.codes[row], expected)
            restored = expected * np.float32(scale) + np.float32(offset)
            assert np.array_equal(dequantize_weight(quantized)[row], restored)

    def test_error_is_at_most_half_a_step(self, weight, bits):
        quantized = self.quantize(weight + 0.7, bits)
        error = (dequantize_weight(quantized) - weight - 0.7).abs()
        # Half a step is reached; 1e-6 is the rounding of float32 quotients and products of order 1.
        assert (error <= quantized.scale[:, None] / 2 + 1e-6).all()

    def test_all_codes_are_used_whatever_the_mean(self, weight, bits):
        codes = self.quantize(weight + 100, bits).codes
        assert (codes.amin(dim=1) == -(2 ** (bits - 1))).all()
        assert (codes.amax(dim=1) == 2 ** (bits - 1) - 1).all()

    def test_an_offset_of_zeros_is_none(self, weight, bits):
        scale = torch.full((6,), 0.1)
        with_zeros = quantize_weight(weight, scale, bits, torch.zeros(6))
        assert torch.equal(with_zeros.codes, quantize_weight(weight, scale, bits).codes)
        assert torch.equal(
            dequantize_weight(with_zeros), dequantize_weight(quantize_weight(weight, scale, bits))
        )


class TestNested:
    @pytest.mark.parametrize(
        ("bits", "kept_bits"), [(bits, kept) for bits in (8, 5) for kept in range(2, bits + 1)]
    )
    def test_leading_bits_of_every_code(self, bits, kept_bits):
        codes = torch.arange(-(2 ** (bits - 1)), 2 ** (bits - 1), dtype=torch.int8)
        found = leading_bits(codes, bits, kept_bits)
        assert found.dtype == torch.int8
        assert found.tolist() == [leading_bits_of_one(code, bits, kept_bits) for code in codes.tolist()]

    def test_taking_bits_twice_is_taking_them_once(self):
        codes = torch.arange(-128, 128).to(torch.int8)
        assert torch.equal(leading_bits(leading_bits(codes, 8, 6), 6, 3), leading_bits(codes, 8, 3))

    @every_width
    def test_the_fit_equals_numpys_least_squares(self, weight, bits):
        weight = weight + 0.3
        codes = leading_bits(quantize_weight(weight, weight.abs().amax(dim=1) / 127, 8).codes, 8, bits)
        fitted = fit_codes(weight, codes)
        assert torch.equal(fitted.codes, codes)
        for row in range(len(weight)):
            scale, offset = fitted_line(codes[row].numpy(), weight[row].numpy())
            # Both are solved in float64 and stored in float32.
            assert fitted.scale[row].item() == pytest.approx(scale, rel=2**-23)
            assert fitted.offset[row].item() == pytest.approx(offset, rel=2**-22, abs=1e-9)

    @every_width
    def test_no_other_line_is_nearer(self, weight, bits):
        codes = leading_bits(quantize_weight(weight, weight.abs().amax(dim=1) / 127, 8).codes, 8, bits)
        fitted = fit_codes(weight, codes)
        least = (dequantize_weight(fitted) - weight).square().sum(dim=1)
        for change in ({"scale": 1.01}, {"scale": 0.99}, {"offset": 1.02}, {"offset": 0.98}):
            values = {name: getattr(fitted, name) * factor for name, factor in change.items()}
            other = (dequantize_weight(fitted._replace(**values)) - weight).square().sum(dim=1)
            assert (least <= other * (1 + 1e-5)).all()  # 1e-5: sums of squares in float32

    def test_the_fit_mends_what_truncation_breaks(self, weight):
        """Truncated codes stand for numbers half a step too low, which a scale alone cannot mend."""
        scale = weight.abs().amax(dim=1) / 127
        codes = leading_bits(quantize_weight(weight, scale, 8).codes, 8, 4)
        fitted = dequantize_weight(fit_codes(weight, codes))
        bare = codes.float() * 16 * scale[:, None]
        assert (fitted - weight).square().mean() < 0.4 * (bare - weight).square().mean()

    @pytest.mark.parametrize(
        ("weights", "codes"),
        [
            ([[2.0, 2.0, 2.0]], [[1, 1, 1]]),  # no slope
            ([[0.0, 0.0, 0.0]], [[0, 0, 0]]),
            ([[1e-30, -1e-30, 0.0]], [[-1, -1, -1]]),
        ],
    )
    def test_rows_of_one_code_are_their_mean(self, weights, codes):
        fitted = fit_codes(torch.tensor(weights), torch.tensor(codes, dtype=torch.int8))
        assert (fitted.scale > 0).all()
        torch.testing.assert_close(dequantize_weight(fitted), torch.tensor(weights), rtol=1e-6, atol=1e-6)


finite = st.floats(-1e4, 1e4, width=32)


class TestRangeToScale:
    @given(low=finite, high=finite, bits=st.sampled_from(BITS))
    def test_zero_has_a_code_and_the_range_is_covered(self, low, high, bits):
        scale, zero_point = range_to_scale(torch.tensor(low), torch.tensor(high), bits)
        assert scale.dtype == torch.float32
        assert zero_point.dtype == torch.int32
        assert scale > 0
        assert 0 <= zero_point <= 2**bits - 1
        # The zero point is rounded, so each end may lie half a step outside; 1e-5: float32 quotients up to 255.
        lowest, highest = -zero_point * scale, (2**bits - 1 - zero_point) * scale
        assert lowest <= min(low, 0) + scale * (0.5 + 1e-5)
        assert highest >= max(high, 0) - scale * (0.5 + 1e-5)

    @pytest.mark.parametrize(
        ("low", "high", "scale", "zero_point"),
        [
            (-1.0, 2.0, 1.0, 1),  # 3 steps of 1
            (0.0, 3.0, 1.0, 0),
            (1.0, 3.0, 1.0, 0),  # widened to 0
            (-3.0, -1.0, 1.0, 3),  # widened to 0
            (0.0, 0.0, 1.0, 0),  # empty: any scale does
        ],
    )
    def test_two_bits_by_hand(self, low, high, scale, zero_point):
        result = range_to_scale(torch.tensor(low), torch.tensor(high), 2)
        assert (result[0].item(), result[1].item()) == (scale, zero_point)


class TestActivationCodes:
    @every_width
    @given(low=finite, high=finite, seed=st.integers(0, 99))
    def test_equals_the_reference_exactly(self, bits, low, high, seed):
        x = max(abs(low), abs(high)) * torch.randn(40, generator=generator(seed))
        scale, zero_point = range_to_scale(torch.tensor(low), torch.tensor(high), bits)
        assert (scale.item(), zero_point.item()) == reference.range_to_scale(low, high, bits)
        expected = reference.uniform_codes(x.numpy(), scale.item(), zero_point.item(), bits)
        assert np.array_equal(activation_codes(x, scale, zero_point, bits), expected)

    @given(
        values=st.lists(finite, min_size=1, max_size=30),
        exponent=st.integers(-6, 6),
        bits=st.sampled_from(BITS),
        share=st.floats(0, 1),
    )
    def test_equals_a_loop_at_scales_that_are_powers_of_two(self, values, exponent, bits, share):
        # Dividing by a power of two and multiplying by its inverse are both exact, so codes must be equal.
        scale, zero_point = 2.0**exponent, round(share * (2**bits - 1))
        codes = activation_codes(
            torch.tensor(values), torch.tensor(scale), torch.tensor(zero_point, dtype=torch.int32), bits
        )
        assert codes.tolist() == [activation_code(x, scale, zero_point, bits) for x in values]

    @every_width
    def test_error_is_at_most_half_a_step_inside_the_range(self, bits):
        x = torch.rand(1000, generator=generator(0)) * 5 - 2
        scale, zero_point = range_to_scale(x.amin(), x.amax(), bits)
        codes = activation_codes(x, scale, zero_point, bits)
        inside = (x >= -zero_point * scale) & (x <= (2**bits - 1 - zero_point) * scale)
        assert inside.float().mean() > 0.8
        # 3e-6: float32 rounding of the scale's inverse and two products; values and codes * scale are below 5.
        assert ((codes * scale - x).abs()[inside] <= scale / 2 + 3e-6).all()

    @every_width
    def test_codes_are_whole_float32_numbers_in_the_range(self, bits):
        x = 100 * torch.randn(1000, generator=generator(0))
        zero_point = torch.tensor(1, dtype=torch.int32)
        codes = activation_codes(x, torch.tensor(0.37), zero_point, bits)
        assert codes.dtype == torch.float32
        assert torch.equal(codes, codes.round())
        assert codes.min() == -1
        assert codes.max() == 2**bits - 2

    def test_the_input_is_not_changed(self):
        x = torch.randn(8, generator=generator(0))
        before = x.clone()
        activation_codes(x, torch.tensor(0.5), torch.tensor(2, dtype=torch.int32), 4)
        assert torch.equal(x, before)

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
    def test_other_floats_are_rounded_in_float32(self, dtype):
        x = torch.randn(64, generator=generator(0)).to(dtype)
        arguments = torch.tensor(0.03), torch.tensor(90, dtype=torch.int32), 8
        codes = activation_codes(x, *arguments)
        assert codes.dtype == torch.float32
        assert torch.equal(codes, activation_codes(x.float(), *arguments))


@pytest.mark.parametrize("values", ["weights", "activations"])
def test_more_bits_never_make_a_larger_error(values):
    # One bit more halves the step. A single value may lose by it, but not the mean over many.
    x = torch.randn(4, 2000, generator=generator(0))
    errors = []
    for bits in BITS:
        if values == "weights":
            scale = x.abs().amax(dim=1) / (2 ** (bits - 1) - 1)
            restored = dequantize_weight(quantize_weight(x, scale, bits))
        else:
            scale, zero_point = range_to_scale(x.amin(), x.amax(), bits)
            restored = activation_codes(x, scale, zero_point, bits) * scale
        errors.append((restored - x).square().mean().item())
    assert errors == sorted(errors, reverse=True)
    # A uniform error over a step has variance step**2 / 12; at 8 bits steps are fine enough for it to hold within 2 %.
    if values == "activations":
        assert np.isclose(errors[-1], scale.item() ** 2 / 12, rtol=0.02)
