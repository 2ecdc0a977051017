"""Tests of `quantize`: what it changes, what it keeps, and what it refuses before changing anything."""

import pytest
import torch
from tests.tiny import VARIANTS, Variant, every_variant, images, quantize_fast, quantize_full_range, wrap

from quee_hf import NotReadyError, quantize
from quee_hf.ptq import PTQ_METHODS
from quee_hf.quantization.linear import MultiLevelLinear


def model_with(levels, **fields):
    return wrap(VARIANTS["vit"].build(), levels=levels, **fields)


def linears(model):
    return [module for module in model.trunk.modules() if isinstance(module, MultiLevelLinear)]


def snapshot(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def assert_equal(state, other):
    assert state.keys() == other.keys()
    assert all(torch.equal(tensor, other[name]) for name, tensor in state.items())


@pytest.fixture
def fast(monkeypatch):
    monkeypatch.setitem(PTQ_METHODS, "fast", quantize_full_range)


class TestWhatChanges:
    @every_variant
    def test_every_backbone_can_be_quantized(self, variant: Variant):
        model = wrap(variant.build(), levels=[8, 4])
        exact = wrap(variant.build())(images(8, variant.image_size)).logits
        quantize_fast(model)
        eight, four = (model(images(8, variant.image_size), path=(level,) * 3).logits for level in (8, 4))
        assert (eight - exact).square().mean() < (four - exact).square().mean()
        assert torch.nn.functional.cosine_similarity(eight.flatten(), exact.flatten(), dim=0) > 0.95

    def test_float_weights_go_if_no_level_needs_them(self):
        model = model_with([8, 4])
        size = sum(parameter.numel() for parameter in model.trunk.parameters())
        quantize_fast(model)
        assert all(linear.weight is None for linear in linears(model))
        assert sum(parameter.numel() for parameter in model.trunk.parameters()) < size / 2

    @pytest.mark.parametrize("levels", [["fp32", 8], ["bf16", 4], ["fp32", "bf16", 8, 2]])
    def test_float_weights_stay_if_a_level_needs_them(self, levels):
        model, plain = model_with(levels), model_with(["fp32", "bf16"])
        quantize_fast(model)
        assert all(linear.weight is not None for linear in linears(model))
        for level in levels:
            logits = model(images(2), path=(level,) * 3).logits
            assert logits.isfinite().all()
            if isinstance(level, str):
                assert torch.equal(logits, plain(images(2), path=(level,) * 3).logits)

    def test_only_blocks_change(self):
        model = model_with(["fp32", 8])
        before = snapshot(model)
        quantize_fast(model)
        after = model.state_dict()
        assert_equal(before, {name: after[name] for name in before})
        assert all(name.startswith("trunk.blocks.") for name in after.keys() - before.keys())

    def test_the_config_says_how(self, fast):
        model = model_with([8])
        quantize(model, images(7), method="fast", num_images=5)
        assert model.config.quantization == {"method": "fast", "num_images": 5}

    def test_frozen_parts_stay_frozen(self):
        model = model_with(["fp32", 8])
        flags = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
        quantize_fast(model)
        assert {name: parameter.requires_grad for name, parameter in model.named_parameters()} == flags


class TestWhichImages:
    @pytest.fixture
    def used(self, monkeypatch):
        """The mean pixel of each image that a method is given, batch by batch."""
        batches = []

        def method(trunk, given, levels):
            given = list(given)
            batches.extend([[round(image.mean().item(), 3) for image in batch] for batch in given])
            quantize_full_range(trunk, given, levels)

        monkeypatch.setitem(PTQ_METHODS, "recording", method)
        return batches

    def numbered(self, count):
        return images(count) * 0.01 + torch.arange(count)[:, None, None, None]

    def test_evenly_spread_over_those_given(self, used):
        quantize(model_with([8]), self.numbered(9), method="recording", num_images=5, batch_size=2)
        assert [[round(value) for value in batch] for batch in used] == [[0, 2], [4, 6], [8]]

    def test_all_if_there_are_fewer(self, used):
        quantize(model_with([8]), self.numbered(3), method="recording")
        assert [[round(value) for value in batch] for batch in used] == [[0, 1, 2]]

    def test_a_data_set_equals_its_pixels_and_labels_do_not_matter(self, used):
        pixel_values = self.numbered(4)
        items = [{"pixel_values": image, "labels": 99} for image in pixel_values]
        from_items, from_tensor = model_with([8]), model_with([8])
        quantize(from_items, items, method="recording")
        quantize(from_tensor, pixel_values, method="recording")
        assert used[0] == used[1]
        assert_equal(from_items.state_dict(), from_tensor.state_dict())

    def test_the_images_are_not_changed(self, fast):
        pixel_values = images(3)
        before = pixel_values.clone()
        quantize(model_with([8]), pixel_values, method="fast")
        assert torch.equal(pixel_values, before)


class TestRefusals:
    """Each leaves the model exactly as it was."""

    def refuse(self, model, *arguments, message, **options):
        before, config = snapshot(model), model.config.to_dict()
        with pytest.raises(ValueError, match=message):
            quantize(model, *arguments, **options)
        assert_equal(before, model.state_dict())
        assert model.config.to_dict() == config

    def test_an_unknown_method(self):
        message = r"`method` must be one of \['mse'.*\], got 'magic'"
        self.refuse(model_with([8]), images(2), method="magic", message=message)

    @pytest.mark.parametrize("levels", [["fp32"], ["fp32", "bf16"]])
    def test_no_integer_level(self, levels):
        self.refuse(
            model_with(levels), images(2), message=r"no integer level to quantize to: `levels` is \['fp32'"
        )

    @pytest.mark.parametrize("levels", [[8], ["fp32", 8]])
    def test_a_second_time(self, levels):
        model = model_with(levels)
        quantize_fast(model)
        self.refuse(model, images(2), message="already quantized; start from the float model")

    @pytest.mark.parametrize("none", [torch.empty(0, 3, 32, 32), []])
    def test_no_images(self, none):
        self.refuse(model_with([8]), none, message="there must be images, got 128 of 0")

    @pytest.mark.parametrize("num_images", [0, -1])
    def test_no_images_asked_for(self, num_images):
        message = f"`num_images` must be at least 1.*got {num_images} of 2"
        self.refuse(model_with([8]), images(2), num_images=num_images, message=message)

    @pytest.mark.parametrize("method", PTQ_METHODS)
    def test_an_image_that_is_not_finite(self, method):
        bad = images(3)
        bad[1, 0, 5, 5] = torch.nan
        message = r"activations at blocks\.0\.attention\.qkv\.input hold NaN or infinity"
        self.refuse(model_with([8]), bad, method=method, message=message)

    @pytest.mark.parametrize("method", PTQ_METHODS)
    def test_a_module_that_overflows_is_named(self, method):
        model = model_with([8])
        with torch.no_grad():
            model.trunk.blocks[2].mlp.fc1.float_weight.mul_(1e38)
        message = r"activations at blocks\.2\.mlp\.fc2\.input hold NaN or infinity"
        self.refuse(model, images(3), method=method, message=message)


class TestBefore:
    @pytest.mark.parametrize("path", [(8,), ("fp32", 8), None])
    def test_integer_levels_say_what_is_missing(self, path):
        model = model_with(["fp32", 8] if path == ("fp32", 8) else [8])
        with pytest.raises(NotReadyError, match=r"Level 8 needs quantized weights; call `quee_hf.quantize`"):
            model(images(1), path=path)

    def test_training_runs_in_full_precision(self):
        model, exact = model_with([8]).train(), model_with(["fp32"])
        assert model.exact_level == "fp32"
        assert torch.equal(model(images(2)).logits, exact(images(2)).logits)
        quantize_fast(model)
        assert model.exact_level == 8
        assert torch.equal(model(images(2)).logits, model.eval()(images(2)).logits)
