"""Tests of activations as bytes."""

import pytest
import torch
from tests.tiny import generator

from quee_hf.execution.integer.bytes import ByteRange, signed_bytes
from quee_hf.quantization.affine import activation_codes


@pytest.mark.parametrize("bits", [2, 5, 8])
@pytest.mark.parametrize("share", [0.0, 0.4, 1.0])
def test_codes_are_the_quantizers(bits, share):
    x = 3 * torch.randn(50, 40, generator=generator(bits))
    scale, zero_point = 6 / 2**bits, round(share * (2**bits - 1))
    expected = activation_codes(x, torch.tensor(scale), torch.tensor(zero_point), bits) + zero_point
    found = ByteRange(scale, zero_point, bits).codes(x.clone())
    assert found.dtype == torch.uint8
    assert torch.equal(found.float(), expected)


def test_codes_of_steps_are_those_of_numbers():
    found, x = ByteRange(0.25, 3, 4), torch.linspace(-2, 6, 33) + 0.01
    assert torch.equal(found.codes_of_steps(x / 0.25 + found.shift), found.codes(x.clone()))


def test_a_range_in_half_precision_is_rounded_in_full():
    found, x = ByteRange(0.01, 128, 8), torch.linspace(-1, 1, 21).bfloat16()
    assert torch.equal(found.codes(x.clone()), found.codes(x.float()))


def test_signs_change_both_ways():
    every = torch.arange(256, dtype=torch.uint8)
    signed = signed_bytes(every.clone())
    assert signed.tolist() == list(range(-128, 128))
    assert torch.equal(signed_bytes(signed), every)
