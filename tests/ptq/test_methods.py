"""What every PTQ method must do, whatever it does inside."""

import dataclasses
from functools import cache

import pytest
import torch
from tests.tiny import VARIANTS, Variant, every_variant, images, wrap

from quee_hf import QuEEForImageClassification, quantize
from quee_hf.backbones.block import LevelSet
from quee_hf.backbones.trunk import Trunk
from quee_hf.ptq import PTQ_METHODS, PTQMethod
from quee_hf.quantization.linear import MultiLevelLinear
from quee_hf.schemes import WEIGHT_SHARING, QuantizationScheme

LEVELS = [8, 6, 4, 2]
every_method = pytest.mark.parametrize("method", PTQ_METHODS)
every_sharing = pytest.mark.parametrize("weight_sharing", WEIGHT_SHARING)
# Other than the defaults, of methods whose options change what is computed.
OPTIONS = [("repq", {"log": True}), ("repq", {"ridge": 0.01}), ("ptq4vit", {"gradient_source": "perturbed"})]
CASES = [(method, {}) for method in PTQ_METHODS] + OPTIONS
every_case = pytest.mark.parametrize(
    ("method", "options"), CASES, ids=["-".join([method, *options]) for method, options in CASES]
)


def make(method, variant=VARIANTS["vit"], levels=(8, 4), num_images=4, **options):
    model = wrap(variant.build(num_blocks=1), levels=list(levels))
    return model, quantize(model, images(num_images, variant.image_size), method=method, **options)


@cache
def made_once(method, options, weight_sharing="independent"):
    """A quantized model and its calibration, for tests that only look."""
    return make(method, weight_sharing=weight_sharing, **dict(options))


def run(model, pixel_values, level):
    return model(pixel_values, path=(level,) * model.config.num_exits).logits


def exact_logits(pixel_values, variant=VARIANTS["vit"]):
    return wrap(variant.build(num_blocks=1))(pixel_values).logits


@every_method
def test_methods_are_frozen_and_say_their_name(method):
    made = PTQ_METHODS[method]()
    assert isinstance(made, PTQMethod)
    assert made.name == method
    assert made.options() == {field.name: getattr(made, field.name) for field in dataclasses.fields(made)}
    QuantizationScheme(method=method, num_images=1, **made.layout())
    for field in dataclasses.fields(made):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(made, field.name, None)


@every_method
@every_variant
def test_every_backbone_can_be_quantized(variant: Variant, method):
    model, _ = make(method, variant)
    # Those it was calibrated on: four images leave room for surprises by others.
    pixel_values = images(4, variant.image_size)
    exact = exact_logits(pixel_values, variant)
    eight, four = (run(model, pixel_values, level) for level in (8, 4))
    assert (eight - exact).square().mean() < (four - exact).square().mean()
    assert torch.nn.functional.cosine_similarity(eight.flatten(), exact.flatten(), dim=0) > 0.98


@every_case
@every_sharing
class TestFiles:
    def test_what_is_saved_comes_back(self, method, options, weight_sharing, tmp_path):
        model, _ = make(method, weight_sharing=weight_sharing, keep={"1.fc2": 8, "1.fc1": "bf16"}, **options)
        model.save_pretrained(tmp_path / "first")
        loaded = QuEEForImageClassification.from_pretrained(tmp_path / "first")
        loaded.save_pretrained(tmp_path / "second")
        first, second = (tmp_path / name / "model.safetensors" for name in ("first", "second"))
        assert first.read_bytes() == second.read_bytes()
        assert loaded.config.quantization == model.config.quantization
        for level in (8, 4):
            assert torch.equal(run(loaded, images(3), level), run(model, images(3), level))

    def test_every_tensor_is_there_in_its_kind(self, method, options, weight_sharing):
        model, _ = made_once(method, tuple(options.items()), weight_sharing)
        made = Trunk(model.config.backbone, LevelSet([8, 4], model.config.scheme)).state_dict()
        state = model.trunk.state_dict()
        assert {name: (t.shape, t.dtype) for name, t in state.items()} == {
            name: (t.shape, t.dtype) for name, t in made.items()
        }
        for name, tensor in state.items():
            assert not tensor.is_floating_point() or tensor.isfinite().all(), name
            if name.rpartition(".")[2] in ("scale", "weight_scale", "largest", "negative_scale"):
                assert (tensor > 0).all(), name
            if name.endswith("zero_point"):
                highest = torch.tensor([2**8 - 1, 2**4 - 1]).view(2, *[1] * (tensor.ndim - 1))
                assert ((tensor >= 0) & (tensor <= highest)).all(), name


@every_case
@every_sharing
def test_an_image_does_not_meet_its_neighbours(method, options, weight_sharing):
    model, _ = made_once(method, tuple(options.items()), weight_sharing)
    pixel_values = images(5, seed=3)
    pixel_values[4] *= 50  # a neighbour that would widen a shared range
    # Embeddings and heads stay float: their sums may depend on the batch, those of a quantized block may not.
    hidden = model.embed(pixel_values)
    for level in (8, 4):
        together = model.trunk.run_blocks(hidden, 0, 1, level)
        for i in range(5):
            assert torch.equal(model.trunk.run_blocks(hidden[i : i + 1], 0, 1, level)[0], together[i])
        assert torch.equal(model.trunk.run_blocks(hidden.flip(0), 0, 1, level).flip(0), together)
        assert torch.equal(model.trunk.run_blocks(hidden[:3], 0, 1, level), together[:3])


@every_case
@pytest.mark.parametrize("product", ["qkv", "scores", "fc1"])
def test_what_follows_a_product_in_bfloat16_can_be_quantized(method, options, product):
    model, _ = make(method, keep={f"*.{product}": "bf16"}, **options)
    logits = run(model, images(4), 8)
    exact = exact_logits(images(4))
    assert logits.dtype == torch.float32
    assert torch.nn.functional.cosine_similarity(logits.flatten(), exact.flatten(), dim=0) > 0.98


@every_method
def test_more_bits_are_nearer_to_the_float_model(method):
    model, _ = make(method, levels=LEVELS, num_images=8)
    pixel_values = images(8)
    exact = exact_logits(pixel_values)
    errors = [(run(model, pixel_values, level) - exact).square().mean().sqrt().item() for level in LEVELS]
    # Two bits fewer make rounding errors four times as large, until they are as large as the logits themselves.
    # Over 8 images of 5 logits the root mean square varies by some 20 %.
    assert errors == sorted(errors)
    assert errors[0] < errors[2] / 4
    assert errors[0] < exact.std(dim=0).mean()


@every_method
@every_sharing
class TestCalibrations:
    def state(self, model):
        return model.trunk.state_dict()

    def test_serve_other_levels_with_identical_codes(self, method, weight_sharing):
        together, calibration = made_once(method, (), weight_sharing)
        for level in (8, 4):
            alone = wrap(VARIANTS["vit"].build(num_blocks=1), levels=[level])
            quantize(alone, calibration, weight_sharing=weight_sharing)
            assert torch.equal(run(alone, images(3), level), run(together, images(3), level))
            for name, module in alone.trunk.blocks[0].products.items():
                twin = together.trunk.blocks[0].products[name]
                if not isinstance(module, MultiLevelLinear):
                    sides = ((module.left, twin.left), (module.right, twin.right))
                else:
                    sides = ((module.input, twin.input),)
                    found, expected = module.load_codes(level), twin.load_codes(level)
                    for a, b in zip(found, expected, strict=True):
                        assert (a is b is None) or torch.equal(a, b)
                for ours, theirs in sides if module.layout.bit_widths else ():
                    parameters = theirs.parameters_at(level)
                    for key, value in ours.parameters_at(level).items():
                        assert torch.equal(value, parameters[key])

    def test_are_repeatable(self, method, weight_sharing):
        first, _ = made_once(method, (), weight_sharing)
        states = self.state(first), self.state(make(method, weight_sharing=weight_sharing)[0])
        assert states[0].keys() == states[1].keys()
        assert all(torch.equal(tensor, states[1][name]) for name, tensor in states[0].items())


@every_sharing
@every_method
def test_stores_of_codes(method, weight_sharing):
    model, _ = make(method, levels=[6, 3], weight_sharing=weight_sharing)
    for module in model.trunk.modules():
        if isinstance(module, MultiLevelLinear):
            names = {name for name in module.state_dict() if name.startswith("codes")}
            assert names == ({"codes_8"} if weight_sharing == "nested" else {"codes_6", "codes_3"})


@pytest.mark.parametrize("gradient_source", ["as_coded", "fisher", "perturbed"])
def test_a_model_that_is_sure_of_everything(gradient_source):
    """Gradients are then zero, or vanish when they are squared."""
    model = wrap(VARIANTS["vit"].build(num_blocks=1), levels=[8])
    with torch.no_grad():
        model.heads[-1].network.weight *= 300
    pixels = images(4)
    whole = wrap(VARIANTS["vit"].build(num_blocks=1))
    with torch.no_grad():
        whole.heads[-1].network.weight *= 300
    expected = whole(pixels).logits
    quantize(model, images(4), method="ptq4vit", gradient_source=gradient_source)
    error = (run(model, pixels, 8) - expected).norm() / expected.norm()
    assert error < 0.15  # 0.77 when all candidates count as equally good


@every_method
def test_nan_after_the_last_block_is_named(method):
    model = wrap(VARIANTS["vit"].build(num_blocks=1), levels=[8])
    with torch.no_grad():
        model.trunk.norm.weight[0] = torch.nan
    with pytest.raises(ValueError, match="norm after the last block"):
        quantize(model, images(2), method=method)


@every_method
@pytest.mark.parametrize("num_images", [1, 2])
def test_few_images_will_do(method, num_images):
    model = wrap(VARIANTS["vit"].build(num_blocks=1), levels=[8])
    calibration = quantize(model, images(num_images), method=method, num_images=100)
    assert calibration.num_images == model.config.quantization["num_images"] == num_images
    assert run(model, images(4), 8).isfinite().all()
