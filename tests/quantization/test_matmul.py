"""Tests of `MultiLevelMatmul`."""

import numpy as np
import pytest
import torch
from tests.reference.quantization import activation_code, integer_linear
from tests.tiny import generator

from quee_hf.quantization.matmul import MultiLevelMatmul


def operands():
    random = generator(0)
    return torch.randn(2, 3, 4, 6, generator=random), torch.rand(2, 3, 6, 5, generator=random)


@pytest.mark.parametrize("level", ["fp32", "bf16"])
def test_float_levels_multiply_as_they_are(level):
    left, right = operands()
    assert torch.equal(MultiLevelMatmul([level], is_quantized=True)(left, right, level), left @ right)


@pytest.mark.parametrize("bits", range(2, 9))
def test_equals_integer_arithmetic_exactly(bits):
    left, right = operands()
    product = MultiLevelMatmul([bits], is_quantized=False)
    steps = 2**bits - 1
    # Scales of 4 / 2**bits and 1 / 2**bits: powers of two, so that nothing but whole numbers is rounded.
    product.left.set_range(bits, torch.tensor(-2.0 * steps / 2**bits), torch.tensor(2.0 * steps / 2**bits))
    product.right.set_range(bits, torch.tensor(0.0), torch.tensor(steps / 2**bits))
    result = product(left, right, bits)

    zero = product.left.get_buffer(f"zero_point_{bits}").item()
    for index in np.ndindex(2, 3):
        codes_left = [
            [activation_code(v, 4 / 2**bits, zero, bits) for v in row] for row in left[index].tolist()
        ]
        codes_right = [
            [activation_code(v, 1 / 2**bits, 0, bits) for v in row] for row in right[index].T.tolist()
        ]
        expected = integer_linear(np.array(codes_left), np.array(codes_right)) * np.float32(4 / 4**bits)
        assert np.array_equal(result[index].numpy(), expected)
