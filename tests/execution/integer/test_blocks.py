"""Tests of prepared blocks against the blocks that they are made from."""

import pytest
import torch
from tests.tiny import VARIANTS, every_variant, images, quantize_fast, wrap

from quee_hf import quantize
from quee_hf.backbones.block import Block
from quee_hf.execution.integer import blocks as blocks_module
from quee_hf.execution.integer.blocks import PreparedBlocks
from quee_hf.execution.integer.linear import CodeLinear, FloatLinear, prepare_linear
from quee_hf.quantization.linear import MultiLevelLinear

# A code here and there: one of 255, of 63 or of 15 steps, in one of many tokens.
NEAR = {8: 0.005, 6: 0.01, 4: 0.02}


def one_block(variant="vit", **options):
    """Return a model of one block, and tokens to run through it."""
    levels = options.pop("levels", [8, 6, 4])
    model = wrap(VARIANTS[variant].build(num_blocks=1), exit_blocks=[1], levels=levels)
    quantize(model, images(8, model.config.image_size), **{"method": "min_max", **options})
    with torch.no_grad():
        return model.trunk.blocks[0], model.embed(images(6, model.config.image_size, seed=1))


def difference(block, hidden, level):
    """Return the difference to the block itself, relative to what the block adds."""
    with torch.inference_mode():
        expected, found = block(hidden, level), PreparedBlocks([block], level)(hidden)
    assert found.dtype == torch.float32
    return float((found - expected).norm() / (expected - hidden).norm())


class TestBlocks:
    @pytest.mark.parametrize("level", NEAR)
    @every_variant
    def test_equal_the_models(self, variant, level):
        model = wrap(variant.build(num_blocks=1), exit_blocks=[1], levels=[level])
        quantize_fast(model)
        hidden = model.embed(images(6, variant.image_size, seed=1)).detach()
        assert difference(model.trunk.blocks[0], hidden, level) < NEAR[level]

    @pytest.mark.parametrize("level", NEAR)
    @pytest.mark.parametrize("method", ["repq", "mse"])
    @pytest.mark.parametrize("variant", ["vit", "dinov2"])
    def test_of_other_methods_equal_the_models(self, variant, method, level):
        options = {"log": False} if method == "repq" else {}
        block, hidden = one_block(variant, method=method, **options)
        assert difference(block, hidden, level) < NEAR[level]

    @pytest.mark.parametrize("level", [8, 4])
    def test_that_share_codes_equal_the_models(self, level):
        """Weights of few bits have offsets of fractions of a step."""
        block, hidden = one_block(weight_sharing="nested")
        offsets = [block.mlp.fc1.get_buffer("weight_offset"), block.mlp.fc2.get_buffer("weight_offset")]
        assert all(offset.any() for offset in offsets)
        assert difference(block, hidden, level) < NEAR[level]

    @pytest.mark.parametrize(
        "keep",
        [
            {"*.scores": "fp32", "*.mix": "fp32"},
            {"*.scores": "bf16", "*.mix": "bf16"},
            {"*.scores": "fp32"},
            {"*.mix": "fp32"},
            {"*.mix": 8},
            {"*.qkv": "fp32", "*.fc2": "fp32"},
            {"*.output": "bf16", "*.fc1": "fp32"},
            {"*.fc1": "bf16", "*.qkv": "bf16"},
        ],
        ids=str,
    )
    @pytest.mark.parametrize("variant", ["vit", "dinov2"])
    def test_with_exceptions_equal_the_models(self, variant, keep):
        block, hidden = one_block(variant, keep=keep)
        # The model keeps scores and probabilities in bfloat16, of 8 bits, too.
        assert difference(block, hidden, 6) < (0.05 if "bf16" in keep.values() else 0.01)

    @every_variant
    def test_in_bfloat16_equal_the_models(self, variant):
        model = wrap(variant.build(num_blocks=1), exit_blocks=[1], levels=["bf16"])
        hidden = model.embed(images(6, variant.image_size, seed=1)).detach()
        assert difference(model.trunk.blocks[0], hidden, "bf16") < 0.01

    def test_leave_what_they_are_given(self):
        block, hidden = one_block()
        before = hidden.clone()
        with torch.inference_mode():
            PreparedBlocks([block], 8)(hidden)
        assert torch.equal(hidden, before)

    def test_an_image_does_not_depend_on_its_neighbours(self, monkeypatch):
        block, hidden = one_block()
        prepared = PreparedBlocks([block], 8)
        with torch.inference_mode():
            together = prepared(hidden)
            monkeypatch.setattr(blocks_module, "_ROWS_PER_THREAD", 1)
            alone = prepared(hidden)
        torch.testing.assert_close(alone, together, rtol=1e-5, atol=1e-5)

    def test_only_a_cpu_takes_few_images_at_a_time(self):
        shape = (300, 197, 8)
        assert blocks_module._num_together(torch.empty(shape)) < 300
        assert blocks_module._num_together(torch.empty(shape, device="meta")) == 300

    @pytest.mark.parametrize(
        ("method", "options", "quantizer"), [("ptq4vit", {}, "Twin"), ("repq", {"log": True}, "Log")]
    )
    def test_what_no_kernel_computes_is_refused(self, method, options, quantizer):
        block, _ = one_block(method=method, **options)
        with pytest.raises(ValueError, match=f"No integer kernel computes .* {quantizer}"):
            PreparedBlocks([block], 8)


class TestLinear:
    def prepared(self, level, keep=None):
        block, _ = one_block(levels=["fp32", 8, 6], method="repq", log=False, keep=keep or {})
        assert isinstance(block, Block)
        linear = block.mlp.fc1
        assert isinstance(linear, MultiLevelLinear)
        return linear, prepare_linear(linear, level)

    @pytest.mark.parametrize("level", [8, 6])
    def test_offsets_meet_the_sum_of_the_input(self, level):
        linear, prepared = self.prepared(level)
        assert isinstance(prepared, CodeLinear)
        assert linear.get_buffer("weight_offset").any()
        x = torch.randn(40, linear.in_features)
        found = prepared(prepared.encode(x.clone()))
        torch.testing.assert_close(found, linear(x, level), rtol=1e-4, atol=1e-4)

    def test_a_float_layer_shares_the_models_weight(self):
        linear, prepared = self.prepared("fp32")
        assert isinstance(prepared, FloatLinear)
        assert prepared._weight.data_ptr() == linear.float_weight.data_ptr()

    @pytest.mark.parametrize("level", [8, "fp32"])
    def test_factor_and_shift(self, level):
        linear, plain = self.prepared(level)
        factor, shift = torch.randn(2, linear.out_features).unbind()
        x = torch.randn(40, linear.in_features)
        expected = plain(plain.encode(x.clone())) * factor + shift
        prepared = prepare_linear(linear, level, factor, shift)
        found = prepared(prepared.encode(x.clone()))
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
