"""Tests of `ActivationQuantizer`."""

import pytest
import torch
from tests.tiny import generator

from quee_hf.quantization.activation import ActivationQuantizer
from quee_hf.quantization.affine import activation_codes, range_to_scale

LEVELS = ["fp32", "bf16", 8, 3]


def test_each_integer_level_has_its_own_range():
    quantizer = ActivationQuantizer(LEVELS, is_quantized=False)
    x = torch.randn(50, generator=generator(0))
    ranges = {8: (-2.0, 3.0), 3: (-0.5, 1.0)}
    for bits, (low, high) in ranges.items():
        quantizer.set_range(bits, torch.tensor(low), torch.tensor(high))
    for bits, (low, high) in ranges.items():
        scale, zero_point = range_to_scale(torch.tensor(low), torch.tensor(high), bits)
        assert torch.equal(quantizer.scale(bits), scale)
        assert torch.equal(quantizer(x, bits), activation_codes(x, scale, zero_point, bits))


def test_state_before_and_after_quantization():
    names = {"scale_8", "zero_point_8", "scale_3", "zero_point_3"}
    assert not ActivationQuantizer(LEVELS, is_quantized=False).state_dict()
    made = ActivationQuantizer(LEVELS, is_quantized=True)
    assert set(made.state_dict()) == names
    grown = ActivationQuantizer(LEVELS, is_quantized=False)
    for bits in (8, 3):
        grown.set_range(bits, torch.tensor(-1.0), torch.tensor(1.0))
    assert set(grown.state_dict()) == names
    for name, tensor in made.state_dict().items():
        assert grown.state_dict()[name].dtype == tensor.dtype
        assert grown.state_dict()[name].shape == tensor.shape


@pytest.mark.parametrize("cast", ["half", "bfloat16", "double"])
def test_ranges_stay_exact_when_cast(cast):
    quantizer = ActivationQuantizer([8], is_quantized=False)
    quantizer.set_range(8, torch.tensor(-1.1), torch.tensor(2.3))
    before = quantizer.scale(8).clone()
    getattr(quantizer, cast)()
    assert quantizer.scale(8).dtype == torch.float32
    assert torch.equal(quantizer.scale(8), before)


def test_no_range_for_a_float_level():
    with pytest.raises(AttributeError):
        ActivationQuantizer(LEVELS, is_quantized=True)(torch.zeros(1), "bf16")
