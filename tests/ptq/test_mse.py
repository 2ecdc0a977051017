"""Tests of `mse`: what four images leave equals a search by loops."""

import numpy as np
import pytest
from tests.ptq.four_images import LEVELS, LINEARS, quantized, uniform_parameters
from tests.reference.ptq import mse_weight_scales, row_codes, searched_range, summarize


@pytest.fixture(scope="module")
def made():
    return quantized("mse")


@pytest.mark.parametrize("bits", LEVELS)
class TestEqualsTheReference:
    def test_weights(self, made, bits):
        for name in LINEARS:
            stored = made.product(name).load_codes(bits)
            for row, weight in enumerate(made.weight(name)):
                scales, errors = mse_weight_scales(weight, bits)
                scale = stored.scale[row].item()
                # The grid's factors are rounded to float32 once more, so a scale may be off by two units in the last place.
                assert scale == pytest.approx(scales[int(np.argmin(errors))], rel=2**-22)
                assert np.array_equal(stored.codes[row], row_codes(weight, scale, 0, bits))

    @pytest.mark.parametrize("operands", ["inputs", "sides"])
    def test_ranges(self, made, bits, operands):
        for *_, quantizer, x in getattr(made, operands)():
            values, weights = summarize(x.numpy().ravel(), np.ones(x.numel()))
            scale, zero_point = searched_range(values, weights, bits)
            found = uniform_parameters(quantizer, bits)
            # Ends are float32 multiples of float32 extremes here, and of float64 ones in the reference.
            assert found[0] == pytest.approx(scale, rel=1e-6)
            assert found[1] == zero_point
