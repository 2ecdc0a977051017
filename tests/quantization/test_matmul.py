"""Tests of `MultiLevelMatmul`: exact against Python integers."""

import numpy as np
import pytest
import torch
from tests.reference.quantization import activation_code, integer_linear
from tests.tiny import generator

from quee_hf.quantization.layout import ProductLayout
from quee_hf.quantization.matmul import MultiLevelMatmul
from quee_hf.schemes import QuantizationScheme

HEADS = 3


def make(levels, left_kind="uniform", **fields):
    scheme = QuantizationScheme(method="mse", num_images=1, **fields)
    return MultiLevelMatmul(ProductLayout(levels, scheme, 1, "mix"), HEADS, left_kind)


def operands():
    random = generator(0)
    left = torch.randn(2, HEADS, 4, 6, generator=random).softmax(dim=-1)
    return left, torch.randn(2, HEADS, 6, 5, generator=random)


@pytest.mark.parametrize("level", ["fp32", "bf16"])
def test_float_levels_multiply_as_they_are(level):
    left, right = operands()
    if level == "bf16":
        left, right = left.bfloat16(), right.bfloat16()
    assert torch.equal(make([level])(*operands(), level), left @ right)


@pytest.mark.parametrize("per_head", [False, True])
@pytest.mark.parametrize("bits", range(2, 9))
def test_equals_integer_arithmetic_exactly(bits, per_head):
    left, right = operands()
    product, steps = make([bits], per_head=per_head), 2**bits - 1
    # Powers of two for each head, so that nothing but whole numbers is rounded.
    left_scales = [1 / 2**bits, 2 / 2**bits, 1 / 2**bits] if per_head else [1 / 2**bits] * HEADS
    right_scales = [4 / 2**bits, 2 / 2**bits, 8 / 2**bits] if per_head else [4 / 2**bits] * HEADS
    ends = torch.tensor(left_scales) * steps, torch.tensor(right_scales) * steps / 2
    if not per_head:
        ends = tuple(end[0] for end in ends)
    product.left.set_range(bits, torch.zeros_like(ends[0]), ends[0])
    product.right.set_range(bits, -ends[1], ends[1])
    result = product(left, right, bits)
    zero = product.right.parameters_at(bits)["zero_point"].flatten()[0].item()
    for image, head in np.ndindex(2, HEADS):
        index, scales = (image, head), (left_scales[head], right_scales[head])
        codes_left = [[activation_code(v, scales[0], 0, bits) for v in row] for row in left[index].tolist()]
        codes_right = [
            [activation_code(v, scales[1], zero, bits) for v in row] for row in right[index].T.tolist()
        ]
        expected = integer_linear(np.array(codes_left), np.array(codes_right)) * np.float32(
            scales[0] * scales[1]
        )
        assert np.array_equal(result[index].numpy(), expected)


@pytest.mark.parametrize("left_kind", ["uniform", "twin_softmax", "log"])
@pytest.mark.parametrize("bits", [3, 8])
def test_equals_the_product_of_what_the_codes_stand_for(left_kind, bits):
    left, right = operands()
    product = make([bits], left_kind, per_head=True)
    if left_kind == "uniform":
        product.left.set_range(bits, torch.tensor(0.0), torch.tensor(1.0))
    elif left_kind == "log":
        product.left.store(bits, largest=left.max(), shift=torch.tensor(0.0), exponent=torch.tensor(20))
    else:
        product.left.store(bits, exponent=torch.tensor(2))
    product.right.set_range(bits, torch.tensor(-3.0), torch.tensor(3.0))
    exact = product.left.restore(left, bits).double() @ product.right.restore(right, bits).double()
    # Terms are rounded to float32, multiplied by their scale and added: a few roundings of numbers below 8.
    torch.testing.assert_close(product(left, right, bits).double(), exact, rtol=0, atol=8 * 4 * 2**-24)
    # Splits and bases are one for all heads; ranges are per head.
    assert product.right.scale_at(bits).shape == (HEADS, 1, 1)
    assert all(
        value.shape == (HEADS, 1, 1) or left_kind != "uniform"
        for value in product.left.parameters_at(bits).values()
    )


@pytest.mark.parametrize("left_kind", ["uniform", "twin_softmax", "log"])
def test_does_not_depend_on_the_batch(left_kind):
    left, right = operands()
    product = make([8], left_kind)
    together = product(left, right, 8)
    for i in range(2):
        assert torch.equal(product(left[i : i + 1], right[i : i + 1], 8)[0], together[i])


def test_an_exception_is_computed_at_its_own_level():
    left, right = operands()
    product = make([4], kept={"1.mix": "fp32"})
    assert torch.equal(product(left, right, 4), left @ right)
    assert not product.state_dict()
