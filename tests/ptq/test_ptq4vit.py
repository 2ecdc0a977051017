"""Tests of `ptq4vit`: the pruned search finds what all candidates, all rounds and all rows find."""

import numpy as np
import pytest
import torch
from tests.ptq.four_images import LEVELS, LINEARS, importance, quantized, uniform_parameters
from tests.reference.ptq import GELU_MINIMUM, ptq4vit_linear, ptq4vit_matmul

from quee_hf.ptq import PTQ4ViT
from quee_hf.quantization.affine import dequantize_weight


@pytest.fixture(scope="module")
def made():
    return quantized("ptq4vit")


@pytest.fixture(scope="module")
def nested():
    return quantized("ptq4vit", weight_sharing="nested")


@pytest.fixture(scope="module")
def gated():
    return quantized("ptq4vit", "dinov2-swiglu", levels=[4])


def linear_reference(made, name, bits, *, is_twin, given=None):
    gradients = importance(made, name)
    return ptq4vit_linear(
        made.rows(name),
        made.weight(name),
        gradients.reshape(-1, gradients.shape[-1]),
        bits,
        num_matrices=3 if name == "qkv" else 1,
        is_twin=is_twin,
        given=given,
    )


@pytest.mark.parametrize("bits", LEVELS)
class TestEqualsTheReferenceExactly:
    @pytest.mark.parametrize("name", LINEARS)
    def test_linears(self, made, name, bits):
        stored, parameters = made.product(name).load_codes(bits), made.product(name).input.parameters_at(bits)
        weight_scales, input_scale = linear_reference(made, name, bits, is_twin=name == "fc2")
        assert np.array_equal(stored.scale, np.repeat(weight_scales, len(stored.scale) // len(weight_scales)))
        assert parameters["scale"].item() == input_scale
        half = 2 ** (bits - 1)
        codes = np.rint(made.weight(name) / stored.scale.numpy()[:, None]).clip(-half, half - 1)
        assert np.array_equal(stored.codes, codes)
        if name == "fc2":
            assert parameters["negative_scale"].item() == np.float32(GELU_MINIMUM / half)
        else:
            assert parameters["zero_point"].item() == half

    def test_scores(self, made, bits):
        left, right = ptq4vit_matmul(
            *made.operands("scores"), importance(made, "scores"), bits, has_split=False
        )
        product = made.product("scores")
        for quantizer, expected in ((product.left, left), (product.right, right)):
            scale, zero_point = uniform_parameters(quantizer, bits)
            assert np.array_equal(scale.ravel(), expected)
            assert (zero_point == 2 ** (bits - 1)).all()

    def test_mix(self, made, bits):
        exponent, right = ptq4vit_matmul(*made.operands("mix"), importance(made, "mix"), bits, has_split=True)
        product = made.product("mix")
        assert product.left.parameters_at(bits)["exponent"].item() == exponent
        assert np.array_equal(uniform_parameters(product.right, bits)[0].ravel(), right)

    @pytest.mark.parametrize("name", LINEARS)
    def test_inputs_of_nested_codes(self, nested, name, bits):
        layer = nested.product(name)
        given = dequantize_weight(layer.load_codes(bits)).numpy()
        _, input_scale = linear_reference(nested, name, bits, is_twin=name == "fc2", given=given)
        assert layer.input.parameters_at(bits)["scale"].item() == input_scale


@pytest.mark.parametrize("name", ["fc1", "fc2"])
def test_a_gated_mlp_has_no_negative_range(gated, name):
    weight_scales, input_scale = linear_reference(gated, name, 4, is_twin=False)
    layer = gated.product(name)
    assert np.array_equal(layer.load_codes(4).scale, np.repeat(weight_scales, layer.out_features))
    assert layer.input.parameters_at(4)["scale"].item() == input_scale


def test_three_matrices_are_stacked_in_one_layer(made):
    scales = made.product("qkv").load_codes(8).scale.view(3, -1)
    assert (scales == scales[:, :1]).all()
    assert len(scales[:, 0].unique()) == 3


@pytest.mark.parametrize("source", ["as_coded", "perturbed"])
def test_other_gradients_give_other_scales(made, source):
    other = quantized("ptq4vit", levels=[3], gradient_source=source)
    assert other.model.config.quantization["options"] == {"gradient_source": source}
    assert any(
        not torch.equal(other.product(name).load_codes(3).scale, made.product(name).load_codes(3).scale)
        for name in LINEARS
    )


def test_perturbed_gradients_count_by_their_mean_over_images():
    made = quantized("ptq4vit", levels=[4], gradient_source="perturbed")
    gradient = made.seen["fc1"].gradient.double().abs().mean(dim=0).numpy()
    rows = made.rows("fc1")
    weights, scale = ptq4vit_linear(rows, made.weight("fc1"), np.tile(gradient, (4, 1)), 4)
    assert (made.product("fc1").load_codes(4).scale == weights[0]).all()
    assert made.product("fc1").input.parameters_at(4)["scale"].item() == scale


def test_an_unknown_source_of_gradients():
    with pytest.raises(ValueError, match=r"`gradient_source` must be one of \['as_coded', .*got 'magic'"):
        PTQ4ViT(gradient_source="magic")
