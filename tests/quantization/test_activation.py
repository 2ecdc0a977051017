"""Tests of the quantizers of activations: each against a loop over single numbers."""

import numpy as np
import pytest
import torch
from tests.reference.quantization import (
    dynamic_codes,
    log_number,
    range_to_scale,
    twin_gelu_number,
    twin_softmax_number,
    uniform_codes,
)
from tests.tiny import generator
from torch.nn import functional

from quee_hf.quantization.activation import (
    QUANTIZERS,
    DynamicQuantizer,
    LogQuantizer,
    TwinGeluQuantizer,
    TwinSoftmaxQuantizer,
    UniformQuantizer,
)

BITS = range(2, 9)
HEADS = 3
every_width = pytest.mark.parametrize("bits", BITS)
every_kind = pytest.mark.parametrize("kind", QUANTIZERS)
_random = generator(0)
FOUR_IMAGES = 1.5 * torch.randn(4, HEADS, 9, 5, generator=_random)
PROBABILITIES = torch.randn(4, HEADS, 9, 9, generator=_random).mul(3).softmax(dim=-1)
AFTER_GELU = functional.gelu(2 * torch.randn(4, 9, 16, generator=_random))


def make(kind, bits, num_heads=None):
    """A quantizer of any kind with parameters that suit `data(kind)`."""
    quantizer = QUANTIZERS[kind]([bits], num_heads)
    if isinstance(quantizer, UniformQuantizer):
        quantizer.set_range(bits, torch.tensor(-3.0), torch.tensor(4.0))
    parameters = {
        "twin_softmax": {"exponent": torch.tensor(3)},
        "twin_gelu": {"scale": torch.tensor(4 / 2 ** (bits - 1)), "negative_scale": torch.tensor(0.01)},
        "log": {"largest": torch.tensor(4.5), "shift": torch.tensor(0.17), "exponent": torch.tensor(13)},
    }
    if kind in parameters:
        quantizer.store(bits, **parameters[kind])
    return quantizer


def data(kind):
    return {"twin_softmax": PROBABILITIES, "twin_gelu": AFTER_GELU, "log": AFTER_GELU}.get(kind, FOUR_IMAGES)


@every_width
class TestUniform:
    def test_equals_the_reference_exactly(self, bits):
        quantizer = UniformQuantizer([bits])
        quantizer.set_range(bits, torch.tensor(-1.1), torch.tensor(2.3))
        (term,) = quantizer(FOUR_IMAGES, bits)
        scale, zero_point = range_to_scale(-1.1, 2.3, bits)
        assert term.scale.item() == scale
        assert term.lowest.item() == -zero_point
        assert np.array_equal(term.codes, uniform_codes(FOUR_IMAGES.numpy(), scale, zero_point, bits))

    def test_heads_have_ranges_of_their_own(self, bits):
        quantizer = UniformQuantizer([bits], num_heads=HEADS)
        lows, highs = torch.tensor([-1.0, -2.0, 0.0]), torch.tensor([1.0, 3.0, 4.0])
        quantizer.set_range(bits, lows, highs)
        (term,) = quantizer(FOUR_IMAGES, bits)
        for head in range(HEADS):
            alone = UniformQuantizer([bits])
            alone.set_range(bits, lows[head], highs[head])
            (expected,) = alone(FOUR_IMAGES[:, head], bits)
            assert torch.equal(term.codes[:, head], expected.codes)
            assert torch.equal(term.scale[head].squeeze(), expected.scale)

    def test_one_range_may_be_given_for_all_heads(self, bits):
        quantizer = make("uniform", bits, num_heads=HEADS)
        assert quantizer.scale_at(bits).shape == (HEADS, 1, 1)
        assert torch.equal(
            quantizer(FOUR_IMAGES, bits)[0].codes, make("uniform", bits)(FOUR_IMAGES, bits)[0].codes
        )


@every_width
class TestDynamic:
    def test_equals_the_reference_exactly(self, bits):
        (term,) = DynamicQuantizer()(FOUR_IMAGES, bits)
        codes, scales = dynamic_codes(FOUR_IMAGES.numpy(), bits)
        assert np.array_equal(term.codes, codes)
        assert term.scale.flatten().tolist() == scales

    def test_an_image_does_not_meet_its_neighbours(self, bits):
        (term,) = DynamicQuantizer()(FOUR_IMAGES, bits)
        for i in range(4):
            (alone,) = DynamicQuantizer()(FOUR_IMAGES[i : i + 1], bits)
            assert torch.equal(alone.codes[0], term.codes[i])
            assert torch.equal(alone.scale[0], term.scale[i])

    def test_it_uses_one_bit_less(self, bits):
        (term,) = DynamicQuantizer()(FOUR_IMAGES, bits)
        assert (
            term.codes.flatten(1).amax(dim=1) - term.codes.flatten(1).amin(dim=1) <= 2 ** (bits - 1) - 1
        ).all()

    def test_an_image_of_one_value_has_codes(self, bits):
        x = torch.tensor([0.0, 2.0, -3.0])[:, None].expand(3, 4)
        # Zero takes any scale; the others are an end of their range.
        torch.testing.assert_close(DynamicQuantizer().restore(x, bits), x)


@every_width
class TestTwinSoftmax:
    @pytest.mark.parametrize("exponent", [0, 1, 4, 19])
    def test_equals_a_loop_over_numbers_exactly(self, bits, exponent):
        quantizer = TwinSoftmaxQuantizer([bits])
        quantizer.store(bits, exponent=torch.tensor(exponent))
        x = torch.cat([PROBABILITIES.flatten(), torch.tensor([2.0**-exponent, 0.0, 1.0])])
        small, large = quantizer(x, bits)
        expected = [twin_softmax_number(value, exponent, bits) for value in x.tolist()]
        assert list(zip(small.codes.tolist(), large.codes.tolist(), strict=True)) == expected
        most = 2 ** (bits - 1) - 1
        assert small.scale.item() == np.float32(2.0**-exponent) / np.float32(most)
        assert large.scale.item() == np.float32(1 / most)

    def test_each_number_has_one_term(self, bits):
        small, large = make("twin_softmax", bits)(PROBABILITIES, bits)
        assert not ((small.codes != 0) & (large.codes != 0)).any()
        assert (large.codes[PROBABILITIES < 1 / 8] == 0).all()
        assert (small.codes[PROBABILITIES >= 1 / 8] == 0).all()

    def test_errors_are_at_most_half_a_step_of_their_range(self, bits):
        error = (make("twin_softmax", bits).restore(PROBABILITIES, bits) - PROBABILITIES).abs()
        step = torch.where(PROBABILITIES < 1 / 8, 1 / 8, 1.0) / (2 ** (bits - 1) - 1)
        assert (error <= step / 2 + 1e-7).all()  # 1e-7: float32 roundings of numbers up to 1

    def test_0_and_1_are_exact(self, bits):
        assert make("twin_softmax", bits).restore(torch.tensor([0.0, 1.0]), bits).tolist() == [0.0, 1.0]


@every_width
class TestTwinGelu:
    def test_equals_a_loop_over_numbers_exactly(self, bits):
        quantizer = TwinGeluQuantizer([bits])
        scale, negative = np.float32(0.037), np.float32(0.17 / 2 ** (bits - 1))
        quantizer.store(bits, scale=torch.tensor(scale), negative_scale=torch.tensor(negative))
        positives, negatives = quantizer(AFTER_GELU, bits)
        found = list(zip(positives.codes.flatten().tolist(), negatives.codes.flatten().tolist(), strict=True))
        assert found == [twin_gelu_number(x, scale, negative, bits) for x in AFTER_GELU.flatten().tolist()]
        assert (positives.scale.item(), negatives.scale.item()) == (scale, negative)

    def test_each_sign_has_a_term(self, bits):
        positives, negatives = make("twin_gelu", bits)(AFTER_GELU, bits)
        assert (positives.codes[AFTER_GELU <= 0] == 0).all()
        assert (negatives.codes[AFTER_GELU >= 0] == 0).all()


@every_width
class TestLog:
    @pytest.mark.parametrize(("shift", "exponent"), [(0.17, 13), (0.0, 36), (0.3, 2), (0.17, 73)])
    def test_equals_a_loop_over_numbers(self, bits, shift, exponent):
        quantizer = LogQuantizer([bits])
        largest = 4.5
        quantizer.store(
            bits,
            largest=torch.tensor(largest),
            shift=torch.tensor(shift),
            exponent=torch.tensor(exponent, dtype=torch.int32),
        )
        x = AFTER_GELU.clamp_min(-shift)
        (term,) = quantizer(x, bits)
        stored_shift = quantizer.parameters_at(bits)["shift"].item()
        expected = [
            log_number(value, largest, stored_shift, exponent, bits) for value in x.flatten().tolist()
        ]
        # A float32 logarithm, or power, is off by some 1e-6 of a number up to 1023: nearer to a tie than 1e-3 either
        # neighbour is right.
        differs = [
            found != code and near > 1e-3
            for found, (code, near) in zip(term.codes.flatten().tolist(), expected, strict=True)
        ]
        assert not any(differs)
        assert sum(near <= 1e-3 for _, near in expected) < 0.02 * len(expected)
        assert term.scale.item() == np.float32(largest) / np.float32(1023)

    def test_codes_are_whole_numbers_of_few_kinds(self, bits):
        (term,) = make("log", bits)(AFTER_GELU, bits)
        assert torch.equal(term.codes, term.codes.round())
        assert len(term.codes.unique()) <= 2**bits

    def test_the_largest_is_exact_and_small_numbers_are_finer(self, bits):
        quantizer = LogQuantizer([bits])
        quantizer.store(
            bits, largest=torch.tensor(1.0), shift=torch.tensor(0.0), exponent=torch.tensor(37)
        )  # base 2
        x = torch.tensor([1.0, 0.5, 0.25, 0.0])
        restored = quantizer.restore(x, bits)
        assert restored[0] == 1
        # Powers of two are met up to the table's resolution; the smallest code is the nearest to zero there is.
        for value, found in zip(x[1 : min(3, 2**bits - 1)], restored[1:], strict=False):
            assert abs(found - value) <= 0.5 / 1023 + 1e-7
        assert restored[3] == pytest.approx(round(1023 * 2.0 ** -(2**bits - 1)) / 1023)


@every_kind
@every_width
class TestEveryKind:
    def test_codes_are_whole_float32_numbers(self, kind, bits):
        for term in make(kind, bits)(data(kind), bits):
            assert term.codes.dtype == torch.float32
            assert term.codes.shape == data(kind).shape
            assert torch.equal(term.codes, term.codes.round())

    def test_lowest_leaves_room_for_a_byte(self, kind, bits):
        for term in make(kind, bits)(data(kind), bits):
            if term.lowest is not None:
                assert (term.codes >= term.lowest).all()
                assert (term.codes - term.lowest <= 255).all()

    def test_the_input_is_not_changed(self, kind, bits):
        x = data(kind).clone()
        make(kind, bits)(x, bits)
        assert torch.equal(x, data(kind))

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
    def test_other_floats_are_rounded_in_float32(self, kind, bits, dtype):
        # A product that is kept at "bf16" returns bfloat16, which the next one may quantize.
        quantizer, x = make(kind, bits), data(kind).to(dtype)
        for term, expected in zip(quantizer(x, bits), quantizer(x.float(), bits), strict=True):
            assert term.codes.dtype == torch.float32
            assert torch.equal(term.codes, expected.codes)

    def test_restore_adds_the_terms(self, kind, bits):
        quantizer, x = make(kind, bits), data(kind)
        expected = sum(term.codes.double() * term.scale.double() for term in quantizer(x, bits))
        # One of two terms is zero, so there is one float32 rounding, of numbers below 8.
        torch.testing.assert_close(quantizer.restore(x, bits).double(), expected, rtol=2**-23, atol=0)

    def test_a_sample_does_not_depend_on_the_batch(self, kind, bits):
        quantizer, x = make(kind, bits), data(kind)
        together = quantizer.restore(x, bits)
        for i in range(len(x)):
            assert torch.equal(quantizer.restore(x[i : i + 1], bits)[0], together[i])


@every_kind
@pytest.mark.parametrize("num_heads", [None, HEADS])
def test_each_level_has_a_row_of_each_buffer(kind, num_heads):
    assert not QUANTIZERS[kind]((), num_heads).state_dict()
    shape = () if num_heads is None else (num_heads, 1, 1)
    quantizer = QUANTIZERS[kind]([8, 3], num_heads)
    for name, buffer in quantizer.state_dict().items():
        assert buffer.shape == (2, *shape)
        assert buffer.dtype == (torch.int32 if name in ("zero_point", "exponent") else torch.float32)
    assert set(quantizer.state_dict()) == set(quantizer.parameters_at(8))


def test_each_integer_level_has_its_own_range():
    quantizer, ranges = UniformQuantizer([8, 3]), {8: (-2.0, 3.0), 3: (-0.5, 1.0)}
    for bits, (low, high) in ranges.items():
        quantizer.set_range(bits, torch.tensor(low), torch.tensor(high))
    for bits, (low, high) in ranges.items():
        assert quantizer.scale_at(bits).item() == range_to_scale(low, high, bits)[0]


@pytest.mark.parametrize("kind", [kind for kind in QUANTIZERS if kind != "dynamic"])
@pytest.mark.parametrize("cast", ["half", "bfloat16", "double"])
def test_parameters_stay_exact_when_cast(kind, cast):
    quantizer = make(kind, 8)
    before = {name: buffer.clone() for name, buffer in quantizer.named_buffers()}
    getattr(quantizer, cast)()
    for name, buffer in quantizer.named_buffers():
        assert buffer.dtype == before[name].dtype
        assert torch.equal(buffer, before[name])


@pytest.mark.parametrize("kind", [kind for kind in QUANTIZERS if kind != "dynamic"])
def test_no_parameters_for_a_float_level(kind):
    with pytest.raises((ValueError, TypeError)):
        QUANTIZERS[kind]([8]).restore(torch.zeros(1), "bf16")
