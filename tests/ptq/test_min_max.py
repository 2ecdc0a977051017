"""Tests of `min_max`: what four images leave, number by number."""

import numpy as np
import pytest
from tests.ptq.four_images import LEVELS, LINEARS, quantized, uniform_parameters
from tests.reference.ptq import full_range, full_weight_scale, row_codes


@pytest.fixture(scope="module")
def made():
    return quantized("min_max")


@pytest.mark.parametrize("bits", LEVELS)
class TestEqualsTheReferenceExactly:
    def test_weights(self, made, bits):
        for name in LINEARS:
            stored = made.product(name).load_codes(bits)
            assert stored.offset is None
            for row, weight in enumerate(made.weight(name)):
                scale = full_weight_scale(weight, bits)
                assert stored.scale[row].item() == scale
                assert np.array_equal(stored.codes[row], row_codes(weight, scale, 0, bits))

    def test_inputs(self, made, bits):
        for _, quantizer, x in made.inputs():
            assert uniform_parameters(quantizer, bits) == full_range(x.numpy(), bits)

    def test_operands(self, made, bits):
        for quantizer, x in made.sides():
            assert uniform_parameters(quantizer, bits) == full_range(x.numpy(), bits)


def test_nothing_is_clipped(made):
    for _, quantizer, x in made.inputs():
        for bits in LEVELS:
            # Half a step is reached; the end of the range may lie as far outside, where the zero point is rounded.
            scale = quantizer.scale_at(bits)
            assert ((quantizer.restore(x, bits) - x).abs() <= scale * 1.0001).all()
