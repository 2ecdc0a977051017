"""Tests of `quantize`: what it changes, what it keeps, and what it refuses before changing anything."""

from functools import partial

import pytest
import torch
from tests.tiny import VARIANTS, Variant, every_variant, images, quantize_fast, wrap

from quee_hf import NotReadyError, quantize
from quee_hf.blueprint import segment_costs
from quee_hf.ptq import PTQ_METHODS, MinMax
from quee_hf.ptq.calibration import Calibration
from quee_hf.quantization.linear import MultiLevelLinear
from quee_hf.quantize import add_level, calibrate, load_calibration, save_calibration
from quee_hf.schemes import WEIGHT_SHARING


def model_with(levels, **fields):
    return wrap(VARIANTS["vit"].build(), levels=levels, **fields)


def linears(model):
    return [module for module in model.trunk.modules() if isinstance(module, MultiLevelLinear)]


def snapshot(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def assert_equal(state, other):
    assert state.keys() == other.keys()
    assert all(torch.equal(tensor, other[name]) for name, tensor in state.items())


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

    def test_the_config_says_how(self):
        model = model_with([8])
        quantize(model, images(7), method="min_max", num_images=5, keep={"2.fc2": 4}, weight_sharing="nested")
        assert model.config.quantization == {
            "method": "min_max",
            "num_images": 5,
            "weight_sharing": "nested",
            "weights": "symmetric",
            "activations": "static",
            "softmax": "uniform",
            "gelu": "uniform",
            "per_head": False,
            "kept": {"2.fc2": 4},
            "options": {},
        }

    def test_repq_is_the_default(self):
        model = wrap(VARIANTS["vit"].build(num_blocks=1), levels=[8])
        quantize(model, images(2))
        assert model.config.quantization["method"] == "repq"
        assert (model.config.scheme.weights, model.config.scheme.per_head) == ("asymmetric", True)

    def test_frozen_parts_stay_frozen(self):
        model = model_with(["fp32", 8])
        flags = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
        quantize_fast(model)
        assert {name: parameter.requires_grad for name, parameter in model.named_parameters()} == flags


class TestWhichImages:
    @pytest.fixture
    def used(self, monkeypatch):
        """The mean pixel of each image that is collected, batch by batch."""
        batches, collect = [], Calibration.collect.__func__

        def record(cls, trunk, given, *arguments, **options):
            given = list(given)
            batches.extend([[round(image.mean().item(), 3) for image in batch] for batch in given])
            return collect(cls, trunk, given, *arguments, **options)

        monkeypatch.setattr(Calibration, "collect", classmethod(record))
        return batches

    def numbered(self, count):
        return images(count) * 0.01 + torch.arange(count)[:, None, None, None]

    def test_evenly_spread_over_those_given(self, used):
        quantize(model_with([8]), self.numbered(9), method="min_max", num_images=5, batch_size=2)
        assert [[round(value) for value in batch] for batch in used] == [[0, 2], [4, 6], [8]]

    def test_all_if_there_are_fewer(self, used):
        quantize(model_with([8]), self.numbered(3), method="min_max")
        assert [[round(value) for value in batch] for batch in used] == [[0, 1, 2]]

    def test_a_data_set_equals_its_pixels_and_labels_do_not_matter(self, used):
        pixel_values = self.numbered(4)
        items = [{"pixel_values": image, "labels": 99} for image in pixel_values]
        from_items, from_tensor = model_with([8]), model_with([8])
        quantize(from_items, items, method="min_max")
        quantize(from_tensor, pixel_values, method="min_max")
        assert used[0] == used[1]
        assert_equal(from_items.state_dict(), from_tensor.state_dict())

    def test_the_images_are_not_changed(self):
        pixel_values = images(3)
        before = pixel_values.clone()
        quantize(model_with([8]), pixel_values, method="min_max")
        assert torch.equal(pixel_values, before)


class TestExceptions:
    """Products that are kept at a level of their own."""

    KEEP = {"2.fc2": 8, "*.scores": "fp32"}  # noqa: RUF012

    def test_their_layers_store_what_they_need(self):
        model = model_with([6, 3])
        quantize(model, images(3), method="min_max", keep=self.KEEP)
        for index, block in enumerate(model.trunk.blocks):
            assert block.mlp.fc2.layout.bit_widths == ([8] if index == 1 else [6, 3])
            assert block.attention.scores.layout.bit_widths == []
            assert block.mlp.fc1.layout.bit_widths == [6, 3]
            assert block.attention.mix.layout.bit_widths == [6, 3]

    @pytest.mark.parametrize("weight_sharing", WEIGHT_SHARING)
    def test_they_are_computed_at_their_level(self, weight_sharing):
        """A block with exceptions equals the same block run by hand with each product at its own level."""
        mixed, plain = model_with([8, 3]), model_with(["fp32", 8, 3])
        for model, keep in ((mixed, self.KEEP), (plain, None)):
            quantize(model, images(3), method="min_max", keep=keep, weight_sharing=weight_sharing)
        at = {"qkv": 3, "scores": "fp32", "mix": 3, "output": 3, "fc1": 3, "fc2": 8}
        block, hidden = plain.trunk.blocks[1], plain.embed(images(3, seed=4))
        for name, product in block.products.items():
            product.forward = partial(_at_its_level, type(product).forward, product, at[name])
        assert torch.equal(mixed.trunk.blocks[1](hidden, 3), block(hidden, 3))

    def test_float_levels_have_none(self):
        model, plain = model_with(["fp32", "bf16", 4]), model_with(["fp32", "bf16"])
        quantize(model, images(3), method="min_max", keep={"*.fc2": 8, "*.mix": "bf16"})
        for level in ("fp32", "bf16"):
            found, expected = (each(images(2), path=(level,) * 3).logits for each in (model, plain))
            assert torch.equal(found, expected)

    def test_costs_count_them(self):
        model, plain = model_with([8, 4]), model_with([8, 4])
        quantize(model, images(2), method="min_max", keep={"2.fc2": 8})
        quantize(plain, images(2), method="min_max")
        costs, without = segment_costs(model.config), segment_costs(plain.config)
        tokens = 17
        assert costs[1][1] - without[1][1] == pytest.approx(2 * tokens * 48 * 32 * (8 - 4), rel=1e-9)
        assert [costs[0], costs[2]] == [without[0], without[2]]
        assert costs[1][0] == pytest.approx(without[1][0], rel=1e-12)
        path = (8, 4)
        assert model(images(1), path=path).cost > plain(images(1), path=path).cost

    def test_those_of_the_method_can_be_added_to(self):
        model = model_with([8])
        quantize(model, images(2), method="torch_dynamic", keep={"1.fc1": "fp32"})
        assert model.config.scheme.kept == {"*.scores": "fp32", "*.mix": "fp32", "1.fc1": "fp32"}

    def test_the_mapping_is_not_changed(self):
        keep = {"1.fc1": 8}
        model = model_with([4])
        quantize(model, images(2), method="torch_dynamic", keep=keep)
        assert keep == {"1.fc1": 8}


def _at_its_level(forward, product, level, *arguments):
    return forward(product, *arguments[:-1], level)


class TestReuse:
    def test_a_calibration_serves_other_models_of_the_same_weights(self):
        first, second = model_with([8, 4]), model_with([4])
        calibration = quantize(first, images(4), method="min_max")
        assert quantize(second, calibration) is calibration
        assert second.config.quantization == first.config.quantization
        assert torch.equal(second(images(2), path=(4,) * 3).logits, first(images(2), path=(4,) * 3).logits)

    def test_it_is_not_changed_by_use(self):
        calibration = calibrate(model_with([8]), images(3), method="min_max")
        before = {name: tensor.clone() for name, tensor in calibration.state_dict().items()}
        quantize(model_with([8, 4]), calibration, weight_sharing="nested", keep={"1.fc1": "fp32"})
        assert_equal(before, calibration.state_dict())

    def test_options_beside_it_are_refused(self):
        calibration = calibrate(model_with([8]), images(3), method="min_max")
        with pytest.raises(ValueError, match=r"A calibration has its options already, got \['num_images'\]"):
            quantize(model_with([8]), calibration, num_images=3)

    def test_it_survives_a_file(self, tmp_path):
        model, other = model_with([8, 4]), model_with([8, 4])
        calibration = quantize(model, images(3), method="repq", smoothing=0.5)
        save_calibration(calibration, tmp_path / "calibration.safetensors")
        quantize(other, load_calibration(tmp_path / "calibration.safetensors", other))
        assert_equal(model.state_dict(), other.state_dict())
        assert model.config.quantization == other.config.quantization
        assert [path.name for path in tmp_path.iterdir()] == ["calibration.safetensors"]


class TestAddLevel:
    @pytest.mark.parametrize("weight_sharing", WEIGHT_SHARING)
    @pytest.mark.parametrize("keep", [None, {"2.fc2": 8, "*.scores": "fp32"}])
    def test_equals_having_had_it_from_the_start(self, weight_sharing, keep):
        model, whole = model_with([8, 3]), model_with([8, 5, 3])
        calibration = quantize(model, images(3), method="min_max", weight_sharing=weight_sharing, keep=keep)
        quantize(whole, calibration, weight_sharing=weight_sharing, keep=keep)
        add_level(model, 5, calibration)
        assert model.config.levels == [8, 5, 3]
        assert_equal(model.trunk.state_dict(), whole.trunk.state_dict())
        for level in (8, 5, 3):
            found, expected = (each(images(2), path=(level,) * 3).logits for each in (model, whole))
            assert torch.equal(found, expected)

    @pytest.mark.parametrize("level", [8, 3, "fp32"])
    def test_a_level_that_cannot_be_added(self, level):
        model = model_with([8, 3])
        calibration = quantize(model, images(3), method="min_max")
        before = snapshot(model)
        with pytest.raises(ValueError, match="`level` must be bits that are not among"):
            add_level(model, level, calibration)
        assert_equal(before, model.state_dict())

    def test_another_calibration(self):
        model = model_with([8, 3])
        quantize(model, images(3), method="min_max")
        with pytest.raises(ValueError, match="the calibration is for .*'mse'"):
            add_level(model, 4, calibrate(model_with([8]), images(3), method="mse"))

    def test_a_float_model(self):
        model = model_with([8])
        with pytest.raises(ValueError, match="not quantized yet; use `quantize`"):
            add_level(model, 4, calibrate(model, images(2), method="min_max"))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("method", ["min_max", "repq", "ptq4vit"])
def test_a_model_that_was_cast_keeps_its_kind(dtype, method):
    model = wrap(VARIANTS["vit"].build(num_blocks=1), levels=["fp32", 8]).to(dtype)
    kinds = {name: parameter.dtype for name, parameter in model.named_parameters()}
    exact = model(images(4).to(dtype), path=("fp32",)).logits
    quantize(model, images(4).to(dtype), method=method)
    assert {name: parameter.dtype for name, parameter in model.named_parameters()} == kinds
    logits = model(images(4).to(dtype), path=(8,)).logits
    assert torch.nn.functional.cosine_similarity(logits.flatten(), exact.flatten(), dim=0) > 0.98


class TestRefusals:
    """Each leaves the model exactly as it was."""

    def refuse(self, model, *arguments, message, **options):
        before, config = snapshot(model), model.config.to_dict()
        with pytest.raises(ValueError, match=message):
            quantize(model, *arguments, **options)
        assert_equal(before, model.state_dict())
        assert model.config.to_dict() == config

    def test_an_unknown_method(self):
        message = r"`method` must be one of \['min_max', .*\], got 'magic'"
        self.refuse(model_with([8]), images(2), method="magic", message=message)

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"method": "min_max", "ridge": 1}, r"'min_max' has no option \['ridge'\]; it has \[\]"),
            ({"method": "repq", "rigde": 1}, r"'repq' has no option \['rigde'\]; it has \['log', 'ridge'\]"),
            ({"method": "repq", "name": "mine"}, r"'repq' has no option \['name'\]"),
            ({"weight_sharing": "shared"}, r"`weight_sharing` must be one of \['independent', 'nested'\]"),
            ({"smoothing": 1.5}, "`smoothing` must be None, 'search' or a number from 0 to 1, got 1.5"),
            ({"keep": {"5.fc2": 8}}, "There are 4 blocks, but an exception names '5.fc2'"),
            ({"keep": {"fc2": 8}}, r"named '<block>\.<product>'.*got 'fc2'"),
            ({"keep": {"1.fc2": 9}}, "bit-width 2 to 8, 'bf16' or 'fp32', got 9"),
            (
                {"method": "torch_dynamic", "keep": {"2.scores": 8}},
                "keeps products of activations in float32",
            ),
        ],
    )
    def test_a_wrong_option(self, options, message):
        self.refuse(model_with([8]), images(2), message=message, **options)

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

    @pytest.mark.parametrize("failing", ["prepare_linear", "prepare_matmul"])
    def test_a_method_that_fails_half_way(self, failing, monkeypatch):
        calls, whole = [], getattr(MinMax, failing)

        def fail_late(*arguments):
            calls.append(arguments)
            if len(calls) > 3:
                raise ValueError("half way")
            return whole(*arguments)

        monkeypatch.setattr(MinMax, failing, fail_late)
        self.refuse(model_with(["fp32", 8]), images(2), method="min_max", message="half way")


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


def test_costs_follow_exceptions_even_if_they_were_asked_for_before():
    """A bug once: the router kept the costs of before quantization."""
    model = wrap(VARIANTS["vit"].build(), levels=[8, 4])
    before = model.router.costs.clone()
    quantize(model, images(4), method="min_max", keep={"*.fc2": 8})
    fresh = wrap(VARIANTS["vit"].build(), levels=[8, 4])
    quantize(fresh, images(4), method="min_max", keep={"*.fc2": 8})
    assert not torch.equal(model.router.costs, before)
    assert torch.equal(model.router.costs, fresh.router.costs)
    assert model(images(1), path=(8, 4, 4)).cost.item() == pytest.approx(
        fresh.router.costs[fresh.paths.index((0, 1, 1))].item()
    )
