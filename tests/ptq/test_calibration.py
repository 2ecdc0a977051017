"""Tests of observing activations: complete, bounded, and without a trace."""

import pytest
import torch
from tests.tiny import VARIANTS, Variant, every_variant, generator, images, wrap

from quee_hf.ptq.calibration import WeightedPoints, observe_activations, summarize
from quee_hf.quantization.activation import ActivationQuantizer


class TestSummarize:
    def test_a_small_sample_is_kept_whole(self):
        sample = torch.randn(7, 11, generator=generator(0))
        points = summarize(sample)
        assert torch.equal(points.values, sample.flatten().sort().values)
        assert (points.weights == 1).all()

    def test_a_large_sample_keeps_its_tails_its_mass_and_its_mean(self):
        sample = torch.randn(100_000, generator=generator(0)) ** 3  # long tails
        points, ordered = summarize(sample), sample.sort().values
        assert len(points.values) < 5000
        assert torch.equal(points.values, points.values.sort().values)
        assert torch.equal(points.values[:100], ordered[:100])
        assert torch.equal(points.values[-100:], ordered[-100:])
        assert points.weights.sum() == 100_000
        mean = (points.values.double() * points.weights.double()).sum() / 100_000
        # Groups are replaced by their means in float32: only roundings of 2**-24 of values near 1 are left.
        assert mean.item() == pytest.approx(sample.double().mean().item(), abs=1e-6)


@pytest.fixture(scope="module")
def model():
    return wrap(VARIANTS["vit"].build())


def quantizer_names(trunk):
    return {name for name, module in trunk.named_modules() if isinstance(module, ActivationQuantizer)}


@every_variant
def test_every_quantizer_of_every_backbone_is_observed(variant: Variant):
    trunk = wrap(variant.build()).trunk
    points = observe_activations(trunk, [images(2, variant.image_size)])
    assert set(points) == quantizer_names(trunk)
    assert len(points) == 4 * (4 + 2 * 2)  # four blocks of four layers and two products


def test_extremes_are_those_of_the_images_whatever_the_batches(model):
    pixel_values = images(6)
    whole = observe_activations(model.trunk, [pixel_values])
    split = observe_activations(model.trunk, pixel_values.split(2))
    first = model.trunk.blocks[0].norm1(model.embed(pixel_values))
    seen = whole["blocks.0.attention.qkv.input"]
    assert (seen.values[0], seen.values[-1]) == (first.min(), first.max())
    for name, points in whole.items():
        # Batches of another size may round differently in the last place.
        ends = split[name].values[[0, -1]]
        torch.testing.assert_close(ends, points.values[[0, -1]], rtol=1e-4, atol=1e-6)


def test_attention_weights_are_observed_after_the_softmax(model):
    points = observe_activations(model.trunk, [images(2)])
    weights = points["blocks.2.attention.mix.left"].values
    assert weights[0] >= 0
    assert weights[-1] <= 1
    queries = points["blocks.2.attention.scores.left"].values
    assert queries[0] < 0 < queries[-1]


def test_the_sample_is_bounded_and_repeatable(model, monkeypatch):
    monkeypatch.setattr("quee_hf.ptq.calibration.SAMPLE_SIZE", 100)
    batches = images(6).split(2)
    first, again = (observe_activations(model.trunk, batches, seed=1) for _ in range(2))
    other = observe_activations(model.trunk, batches, seed=2)
    name = "blocks.0.mlp.fc2.input"
    assert len(first[name].values) <= 100 + 2 * len(batches)
    assert torch.equal(first[name].values, again[name].values)
    assert not torch.equal(first[name].values, other[name].values)


class TestLeavesNoTrace:
    def assert_untouched(self, trunk):
        assert not any(module._forward_pre_hooks for module in trunk.modules())
        assert not any(block.attention.is_observed for block in trunk.blocks)

    def test_after_success(self, model):
        before = model(images(2)).logits
        observe_activations(model.trunk, [images(2)])
        self.assert_untouched(model.trunk)
        assert torch.equal(model(images(2)).logits, before)

    def test_after_failure(self, model):
        with pytest.raises(ValueError, match="hold NaN or infinity"):
            observe_activations(model.trunk, [torch.full((1, 3, 32, 32), torch.nan)])
        self.assert_untouched(model.trunk)


def test_no_images_are_refused(model):
    with pytest.raises(ValueError, match="There are no calibration images"):
        observe_activations(model.trunk, [])


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_the_first_module_that_sees_a_bad_number_is_named(value):
    model = wrap(VARIANTS["vit"].build())
    with torch.no_grad():
        model.trunk.blocks[1].mlp.fc1.bias[3] = value
    # -inf becomes 0 after GELU; it shows as NaN (0 * inf) there.
    with pytest.raises(
        ValueError, match=r"The activations at blocks\.1\.mlp\.fc2\.input hold NaN or infinity"
    ):
        observe_activations(model.trunk, [images(2)])


def test_weighted_points_hold_what_they_are_given():
    points = WeightedPoints(torch.tensor([1.0, 2.0]), torch.tensor([3.0, 4.0]))
    assert points.values.tolist() == [1.0, 2.0]
    assert points.weights.tolist() == [3.0, 4.0]
