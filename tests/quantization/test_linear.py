"""Tests of `MultiLevelLinear`: exact against Python integers, and what it stores."""

import copy
import pickle

import numpy as np
import pytest
import torch
from tests.reference.quantization import activation_code, integer_linear, weight_code
from tests.tiny import generator
from torch.nn import functional

from quee_hf.quantization.activation import UniformQuantizer
from quee_hf.quantization.affine import dequantize_weight, fit_codes, leading_bits, quantize_weight
from quee_hf.quantization.layout import ProductLayout
from quee_hf.quantization.linear import MultiLevelLinear
from quee_hf.quantization.packing import packed_size
from quee_hf.schemes import QuantizationScheme

IN, OUT, ROWS = 13, 7, 5
BITS = range(2, 9)


def layout(levels, **fields):
    return ProductLayout(levels, QuantizationScheme(method="mse", num_images=1, **fields), 1, "fc1")


def make(levels, *, has_bias=True, power_of_two=False, seed=0, **fields):
    """Make a layer with codes at every integer level; `source` keeps its exact weight."""
    random = generator(seed)
    layer = MultiLevelLinear(IN, OUT, has_bias=has_bias, layout=layout(levels, **fields))
    layer.source = torch.randn(OUT, IN, generator=random)
    if layer.weight is not None:
        layer.weight.copy_(layer.source)
    if has_bias:
        layer.bias.copy_(torch.randn(OUT, generator=random))
    if layer.layout.is_nested:
        layer.store_nested(quantize_weight(layer.source, layer.source.abs().amax(dim=1) / 127, 8).codes)
    for bits in layer.layout.bit_widths:
        scale = layer.source.abs().amax(dim=1) / (2 ** (bits - 1) - 1)
        span = torch.tensor(6.0 if not power_of_two else 8.0 * (2**bits - 1) / 2**bits)
        if power_of_two:
            scale = 2 ** scale.log2().ceil()
        if layer.layout.is_nested:
            layer.store(bits, fit_codes(layer.source, leading_bits(layer.load_nested(), 8, bits)))
        else:
            offset = 0.1 * torch.arange(OUT) if layer.layout.has_offsets else None
            layer.store(bits, quantize_weight(layer.source, scale, bits, offset))
        if isinstance(layer.input, UniformQuantizer):
            layer.input.set_range(bits, -span / 3, 2 * span / 3)
    return layer


def inputs(seed=1):
    return 1.5 * torch.randn(ROWS, IN, generator=generator(seed))


def reference(layer, x, bits):
    """Products of codes, from the exact weight and the stored scales, in Python integers."""
    scale, zero_point = (value.item() for value in layer.input.parameters_at(bits).values())
    weight_scale = layer.load_codes(bits).scale.tolist()
    x_codes = [[activation_code(value, scale, zero_point, bits) for value in row] for row in x.tolist()]
    w_codes = [
        [weight_code(value, weight_scale[i], bits) for value in row]
        for i, row in enumerate(layer.source.tolist())
    ]
    return integer_linear(np.array(x_codes), np.array(w_codes))


@pytest.mark.parametrize("bits", BITS)
class TestIntegerLevel:
    def test_equals_integer_arithmetic_exactly(self, bits):
        # With scales that are powers of two nothing is rounded but the sum with the bias.
        layer, x = make([bits], power_of_two=True), inputs()
        scale = layer.load_codes(bits).scale.numpy() * np.float32(layer.input.scale_at(bits).item())
        expected = reference(layer, x, bits) * scale + layer.bias.numpy()
        assert np.array_equal(layer(x, bits).numpy(), expected)

    def test_equals_integer_arithmetic_exactly_at_any_scale_without_bias(self, bits):
        # Products of codes are exact; the product of the scales and theirs with the sum are rounded once each.
        layer, x = make([bits], has_bias=False), inputs()
        # Away from ties: whether 0.5 - 1e-8 rounds up may depend on how the quotient is computed.
        quotients = (x / layer.input.scale_at(bits)).remainder(1)
        assert ((quotients - 0.5).abs() > 1e-4).all()
        scale = layer.load_codes(bits).scale.numpy() * np.float32(layer.input.scale_at(bits).item())
        assert np.array_equal(layer(x, bits).numpy(), reference(layer, x, bits) * scale)

    def test_does_not_depend_on_the_batch(self, bits):
        layer, x = make([bits]), inputs()
        together = layer(x, bits)
        for i in range(ROWS):
            assert torch.equal(layer(x[i : i + 1], bits)[0], together[i])

    def test_codes_take_their_bits_and_no_more(self, bits):
        layer = make([bits])
        packed = layer.get_buffer(f"codes_{bits}")
        assert packed.dtype == torch.uint8
        assert packed.shape == (packed_size(IN * OUT, bits),)
        assert torch.equal(
            layer.load_codes(bits).codes,
            quantize_weight(layer.source, layer.load_codes(bits).scale, bits).codes,
        )


KINDS = {
    "symmetric": {},
    "asymmetric": {"weights": "asymmetric"},
    "nested": {"weight_sharing": "nested"},
    "dynamic": {"activations": "dynamic"},
    "dynamic-nested": {"activations": "dynamic", "weight_sharing": "nested"},
}


@pytest.mark.parametrize("fields", KINDS.values(), ids=KINDS)
@pytest.mark.parametrize("bits", BITS)
class TestEveryKindOfCodes:
    @pytest.mark.parametrize("shape", [(ROWS, IN), (2, ROWS, IN)], ids=["2-D", "3-D"])
    @pytest.mark.parametrize("has_bias", [True, False])
    def test_equals_the_product_of_what_the_codes_stand_for(self, fields, bits, shape, has_bias):
        layer = make([8, bits] if bits < 8 else [8], has_bias=has_bias, **fields)
        x = 1.5 * torch.randn(shape, generator=generator(1))
        weight = dequantize_weight(layer.load_codes(bits)).double()
        bias = layer.bias.double() if has_bias else None
        expected = functional.linear(layer.input.restore(x, bits).double(), weight, bias)
        # Some roundings of float32 in each of 13 products, of sums of magnitude below 100.
        torch.testing.assert_close(layer(x, bits).double(), expected, rtol=4 * 2**-24, atol=400 * 2**-24)

    def test_does_not_depend_on_the_batch(self, fields, bits):
        layer = make([8, bits] if bits < 8 else [8], **fields)
        x = 1.5 * torch.randn(4, ROWS, IN, generator=generator(1))
        together = layer(x, bits)
        for i in range(4):
            assert torch.equal(layer(x[i : i + 1], bits)[0], together[i])

    def test_a_batch_without_images_is_fine(self, fields, bits):
        layer = make([8, bits] if bits < 8 else [8], **fields)
        assert layer(torch.empty(0, ROWS, IN), bits).shape == (0, ROWS, OUT)


@pytest.mark.parametrize("kind", ["twin_gelu", "log"])
@pytest.mark.parametrize("bits", BITS)
def test_inputs_of_several_terms_are_added_up(kind, bits):
    layer = MultiLevelLinear(IN, OUT, has_bias=True, layout=layout([bits]), input_kind=kind)
    weight = torch.randn(OUT, IN, generator=generator(0))
    layer.store(bits, quantize_weight(weight, weight.abs().amax(dim=1) / (2 ** (bits - 1) - 1), bits))
    layer.bias.copy_(torch.randn(OUT, generator=generator(1)))
    parameters = {
        "twin_gelu": {"scale": 0.05, "negative_scale": 0.17 / 2 ** (bits - 1)},
        "log": {"largest": 4.0, "shift": 0.17, "exponent": 20},
    }[kind]
    layer.input.store(bits, **{name: torch.tensor(value) for name, value in parameters.items()})
    x = functional.gelu(inputs())
    expected = functional.linear(
        layer.input.restore(x, bits).double(),
        dequantize_weight(layer.load_codes(bits)).double(),
        layer.bias.double(),
    )
    # Some roundings of float32 in each of 13 products, of sums of magnitude below 100.
    torch.testing.assert_close(layer(x, bits).double(), expected, rtol=4 * 2**-24, atol=400 * 2**-24)


class TestNestedStore:
    LEVELS = (8, 6, 3)

    def test_there_is_one(self):
        state = make(self.LEVELS, weight_sharing="nested").state_dict()
        assert [name for name in state if name.startswith("codes")] == ["codes_8"]
        assert state["codes_8"].shape == (OUT * IN,)
        assert state["weight_scale"].shape == state["weight_offset"].shape == (3, OUT)

    def test_without_an_8_bit_level_there_is_one_too(self):
        layer = make([4, 3], weight_sharing="nested")
        assert layer.state_dict()["codes_8"].shape == (OUT * IN,)
        assert layer(inputs(), 3).isfinite().all()

    def test_lower_levels_are_leading_bits(self):
        layer = make(self.LEVELS, weight_sharing="nested")
        store = layer.load_nested()
        for bits in self.LEVELS:
            assert torch.equal(layer.load_codes(bits).codes, leading_bits(store, 8, bits))

    def test_a_new_store_is_used_at_every_level(self):
        layer = make(self.LEVELS, weight_sharing="nested")
        old = [layer(inputs(), bits) for bits in self.LEVELS]
        layer.store_nested(-layer.load_nested().clamp_min(-127))
        for bits, before in zip(self.LEVELS, old, strict=True):
            assert not torch.equal(layer(inputs(), bits), before)


def test_an_exception_is_computed_at_its_own_level():
    layer, plain = make([8, 4], kept={"1.fc1": 8}), make([8])
    assert torch.equal(layer(inputs(), 4), plain(inputs(), 8))
    assert {name for name in layer.state_dict() if name.startswith("codes")} == {"codes_8"}
    exact = make([8, 4], kept={"*.fc1": "fp32"})
    assert torch.equal(exact(inputs(), 4), functional.linear(inputs(), exact.weight, exact.bias))


class TestFloatLevels:
    def test_fp32_is_the_plain_layer(self):
        layer, x = make(["fp32", 8]), inputs()
        assert torch.equal(layer(x, "fp32"), functional.linear(x, layer.weight, layer.bias))

    def test_bf16_multiplies_in_bfloat16(self):
        layer, x = make(["bf16", 8]), inputs()
        result = layer(x, "bf16")
        assert result.dtype == torch.bfloat16
        expected = functional.linear(x.bfloat16(), layer.weight.bfloat16(), layer.bias.bfloat16())
        assert torch.equal(result, expected)

    def test_bf16_alone_stores_bfloat16_and_gives_the_same_numbers(self):
        layer, x = make(["bf16", 8]), inputs()
        assert layer.weight.dtype == torch.bfloat16
        assert layer.bias.dtype == torch.float32
        assert torch.equal(layer(x, "bf16"), make(["fp32", "bf16", 8])(x, "bf16"))

    def test_before_quantization_all_weights_are_float32(self):
        plain = ProductLayout(["bf16", 8])
        assert MultiLevelLinear(IN, OUT, has_bias=True, layout=plain).weight.dtype == torch.float32

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.float64])
    def test_no_cast_changes_what_bf16_alone_needs(self, dtype):
        layer = make(["bf16", 8])
        before = layer.weight.clone()
        layer.to(dtype)
        assert layer.weight.dtype == torch.bfloat16
        assert torch.equal(layer.weight, before)
        assert layer.bias.dtype == dtype

    def test_a_dropped_float_weight_is_missed_with_a_reason(self):
        layer = make([8])
        layer(inputs(), 8)
        with pytest.raises(ValueError, match="dropped when the model was quantized to integer levels only"):
            layer(inputs(), "fp32")
        assert "weight" not in layer.state_dict()


class TestUnpackedCodes:
    """They are kept between calls, and must never outlive the weights that they stand for."""

    def assert_fresh(self, layer):
        x = inputs()
        before = layer(x, 4)
        layer.release()
        assert torch.equal(layer(x, 4), before)

    def test_follow_new_codes(self):
        layer = make([4])
        old = layer(inputs(), 4)
        layer.store(4, quantize_weight(-layer.source, layer.load_codes(4).scale, 4))
        assert not torch.equal(layer(inputs(), 4), old)
        self.assert_fresh(layer)

    def test_follow_a_loaded_state(self):
        layer, other = make([4]), make([4], seed=9)
        layer(inputs(), 4)
        layer.load_state_dict(other.state_dict())
        assert torch.equal(layer(inputs(), 4), other(inputs(), 4))

    def test_follow_a_cast(self):
        layer = make([4])
        layer(inputs(), 4)
        layer.double()
        self.assert_fresh(layer)

    def test_are_not_in_the_state(self):
        layer = make([4])
        before = {key: value.clone() for key, value in layer.state_dict().items()}
        layer(inputs(), 4)
        assert layer.state_dict().keys() == before.keys()
        assert all(torch.equal(layer.state_dict()[key], value) for key, value in before.items())

    @pytest.mark.parametrize(
        "clone", [copy.deepcopy, lambda layer: pickle.loads(pickle.dumps(layer))], ids=["deepcopy", "pickle"]
    )
    def test_a_clone_is_independent(self, clone):
        layer = make([4])
        expected = layer(inputs(), 4)
        twin = clone(layer)
        assert torch.equal(twin(inputs(), 4), expected)
        twin.store(4, quantize_weight(-layer.source, layer.load_codes(4).scale, 4))
        assert not torch.equal(twin(inputs(), 4), expected)
        assert torch.equal(layer(inputs(), 4), expected)

    def test_survive_inference_mode(self):
        layer, x = make([4]), inputs()
        with torch.inference_mode():
            expected = layer(x, 4)
        assert torch.equal(layer(x.requires_grad_(), 4).detach(), expected)

    def test_a_new_range_is_used(self):
        layer, x = make([4]), inputs()
        layer(x, 4)
        layer.input.set_range(4, torch.tensor(-0.5), torch.tensor(1.0))
        self.assert_fresh(layer)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_scales_stay_float32_when_the_layer_is_cast(dtype):
    layer = make(["fp32", 8, 4])
    scales = {name: buffer.clone() for name, buffer in layer.named_buffers() if "scale" in name}
    assert set(scales) == {"weight_scale", "input.scale"}
    layer.to(dtype)
    assert layer.weight.dtype == dtype
    for name, before in scales.items():
        after = layer.get_buffer(name)
        assert after.dtype == torch.float32
        assert torch.equal(after, before)


def test_moving_to_another_device_and_back_keeps_the_kinds_of_all_tensors():
    layer = make(["fp32", 8])
    kinds = {name: tensor.dtype for name, tensor in layer.state_dict().items()}
    layer.to("meta")
    assert {name: tensor.dtype for name, tensor in layer.state_dict().items()} == kinds
    assert all(tensor.device.type == "meta" for tensor in layer.state_dict().values())


def test_weights_are_frozen():
    assert not any(parameter.requires_grad for parameter in make(["fp32", 8]).parameters())
