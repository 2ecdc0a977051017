"""Tests of `repq`: the fold changes nothing but ranges, and what four images leave equals a search by loops."""

import numpy as np
import pytest
import torch
from tests.ptq.four_images import LEVELS, LINEARS, quantized, uniform_parameters
from tests.reference.ptq import (
    believed,
    believed_gram,
    ridge_weight,
    row_codes,
    searched_log,
    searched_range,
    summarize,
    weight_ranges,
)
from tests.tiny import VARIANTS, Variant, every_variant, images, wrap
from transformers import AutoImageProcessor

from quee_hf import QuEEForImageClassification, quantize
from quee_hf.data import load_image_dataset
from quee_hf.ptq import RepQ
from quee_hf.ptq.observation import observe_block

NORMED = ("qkv", "fc1")


@pytest.fixture(scope="module")
def made():
    return quantized("repq")


@pytest.fixture(scope="module")
def logs():
    return quantized("repq", log=True, levels=[8, 3])


def input_points(made, name):
    """The values of a layer's input, each with what an error in its channel adds to the output's."""
    rows = made.rows(name)
    return summarize(
        rows.ravel(), np.tile((made.weight(name).astype(np.float64) ** 2).sum(axis=0), len(rows))
    )


def assert_weights(stored, weight, rows, bits):
    """Check that a layer's codes are those of the best candidate of each row."""
    gram = believed_gram(rows)
    for row, exact in enumerate(weight):
        candidates, errors = weight_ranges(exact, gram, bits, is_symmetric=bits == 8)
        scale, offset = stored.scale[row].item(), stored.offset[row].item()
        nearest = int(np.argmin([abs(scale - candidate[0]) for candidate in candidates]))
        # A few float32 roundings; offsets are differences of numbers of the row's size.
        assert scale == pytest.approx(candidates[nearest][0], rel=1e-6)
        assert offset == pytest.approx(candidates[nearest][1], abs=1e-6 * float(np.abs(exact).max()))
        # Errors are compared in float32, where near ties may fall to either side.
        assert errors[nearest] <= min(errors) * (1 + 1e-3)
        yield np.array_equal(stored.codes[row], row_codes(exact, scale, offset, bits))


@pytest.mark.parametrize("bits", LEVELS)
class TestEqualsTheReference:
    @pytest.mark.parametrize("name", LINEARS)
    def test_weights(self, made, name, bits):
        stored = made.product(name).load_codes(bits)
        assert all(assert_weights(stored, made.weight(name), made.rows(name), bits))

    @pytest.mark.parametrize("name", LINEARS)
    def test_inputs(self, made, name, bits):
        scale, zero_point = searched_range(*input_points(made, name), bits)
        found = uniform_parameters(made.product(name).input, bits)
        assert found[0] == pytest.approx(scale, rel=1e-6)  # ends are products of float32 numbers
        assert found[1] == zero_point

    def test_heads(self, made, bits):
        for quantizer, x in made.sides():
            scales, zero_points = uniform_parameters(quantizer, bits)
            for head in range(2):
                values = x[:, head].numpy().ravel()
                scale, zero_point = searched_range(*summarize(values, np.ones(len(values))), bits)
                assert scales[head].item() == pytest.approx(scale, rel=1e-6)
                assert zero_points[head].item() == zero_point


@pytest.mark.parametrize("bits", [8, 3])
class TestLog:
    def assert_best(self, parameters, values, weights, bits):
        candidates, errors = searched_log(values, weights, bits)
        found = (parameters["largest"].item(), parameters["exponent"].item())
        distances = [abs(large - found[0]) + 1e9 * (exponent != found[1]) for large, exponent in candidates]
        nearest = int(np.argmin(distances))
        assert candidates[nearest][0] == pytest.approx(found[0], rel=1e-6)
        # Float32 logarithms move a few codes that are near a tie, which changes sums of errors by less than this.
        assert errors[nearest] <= min(errors) * 1.01

    def test_after_gelu(self, logs, bits):
        self.assert_best(logs.product("fc2").input.parameters_at(bits), *input_points(logs, "fc2"), bits)

    def test_probabilities(self, logs, bits):
        values = logs.operands("mix")[0].ravel()
        parameters = logs.product("mix").left.parameters_at(bits)
        assert parameters["shift"] == 0
        self.assert_best(parameters, *summarize(values, np.ones(len(values))), bits)


class TestRidge:
    @pytest.mark.parametrize("name", LINEARS)
    @pytest.mark.parametrize("bits", [4, 3])
    def test_weights_are_those_of_the_closed_form(self, name, bits):
        made = quantized("repq", ridge=0.01, levels=[bits])
        layer, rows = made.product(name), made.rows(name)
        rounded = layer.input.restore(made.seen[name].inputs[0], bits).flatten(0, -2).numpy()
        corrected = ridge_weight(made.weight(name), rows, rounded, 0.01)
        stored = layer.load_codes(bits)
        codes_are_equal = list(assert_close_weights(stored, corrected, rounded, bits))
        # A system is solved in float32 (errors of 1e-5 or so of a step): a few codes near a tie may differ.
        assert np.mean(codes_are_equal) > 0.999

    @pytest.mark.parametrize("bits", [4, 3])
    def test_the_layer_comes_closer(self, bits):
        errors = []
        for ridge in (0.0, 0.01):
            made = quantized("repq", ridge=ridge, levels=[bits])
            x, layer = made.seen["fc2"].inputs[0], made.product("fc2")
            exact = made.calibration.blocks[0].products["fc2"](x, "fp32")
            errors.append((layer(x, bits) - exact).square().mean().item())
        assert errors[1] < errors[0]

    @pytest.mark.parametrize("ridge", [-0.1, float("nan")])
    def test_a_negative_strength(self, ridge):
        with pytest.raises(ValueError, match="`ridge` must be at least 0"):
            RepQ(ridge=ridge)


def assert_close_weights(stored, weight, rows, bits):
    """As `assert_weights`, for a weight that is known to 1e-4 of its size only."""
    gram = believed_gram(rows)
    for row, exact in enumerate(weight):
        candidates, errors = weight_ranges(exact, gram, bits, is_symmetric=bits == 8)
        scale, offset = stored.scale[row].item(), stored.offset[row].item()
        nearest = int(np.argmin([abs(scale - candidate[0]) for candidate in candidates]))
        assert scale == pytest.approx(candidates[nearest][0], rel=1e-4)
        assert errors[nearest] <= min(errors) * 1.02
        yield from stored.codes[row].numpy() == row_codes(exact, scale, offset, bits)


def ranges(x):
    """Range of each channel."""
    return x.amax(dim=0) - x.amin(dim=0)


@every_variant
class TestFold:
    def observed(self, block, hidden):
        seen, output = observe_block(block, 1, hidden)
        return {name: seen[name].rows for name in NORMED}, output

    def folded(self, variant: Variant, *, num_images: int = 4, **fields):
        trunk = wrap(variant.build(num_blocks=1)).trunk
        block, hidden = trunk.blocks[0], trunk.embed(images(num_images, variant.image_size))
        before, output = self.observed(block, hidden)
        RepQ().fold(block, observe_block(block, 1, hidden)[0], **fields)
        after, folded_output = self.observed(block, hidden)
        return block, before, after, output, folded_output

    def test_the_block_computes_the_same(self, variant: Variant):
        _, before, after, output, folded = self.folded(variant, is_smoothed=False)
        # Some float32 roundings of numbers of order 10, in sums of 32 and more.
        torch.testing.assert_close(folded, output, rtol=1e-4, atol=1e-4)
        assert not torch.allclose(before["qkv"], after["qkv"], rtol=1e-2)

    def test_many_tokens_give_all_channels_one_range(self, variant: Variant):
        _, before, after, *_ = self.folded(variant, num_images=200, is_smoothed=False)
        for name in NORMED:
            mean = ranges(before[name]).mean()
            # A hundredth of the logarithm of a channel's range is left.
            torch.testing.assert_close(
                ranges(after[name]), mean.expand(before[name].shape[1]), rtol=0.03, atol=0
            )

    def test_few_tokens_bring_ranges_closer(self, variant: Variant):
        block, before, after, *_ = self.folded(variant, is_smoothed=False)
        for name in NORMED:
            trust, spread = believed(len(before[name]), 100), ranges(before[name])
            expected = spread ** (1 - trust) * spread.mean() ** trust
            torch.testing.assert_close(ranges(after[name]), expected, rtol=1e-4, atol=0)
            low = after[name].amin(dim=0)
            if block.products[name].bias is not None:  # or there is nowhere to undo a shift
                torch.testing.assert_close(low, low.mean().expand(len(low)), rtol=1e-4, atol=1e-4)

    def test_after_smoothing_only_lower_ends_are_aligned(self, variant: Variant):
        block, before, after, output, folded = self.folded(variant, is_smoothed=True)
        torch.testing.assert_close(folded, output, rtol=1e-4, atol=1e-4)
        for name in NORMED:
            torch.testing.assert_close(ranges(before[name]), ranges(after[name]), rtol=1e-4, atol=1e-5)
            low = after[name].amin(dim=0)
            if block.products[name].bias is not None:
                torch.testing.assert_close(low, low.mean().expand(len(low)), rtol=1e-4, atol=1e-4)


def test_one_image_is_enough_for_eight_bits(assets):
    """Without caution, what a few tokens show of ranges and correlations costs 16 % of the answers."""
    source = assets / "models" / "dinov2-small-cifar10-70px"
    processor = AutoImageProcessor.from_pretrained(source, backend="pil")
    data = load_image_dataset(str(assets / "cifar10" / "validation.parquet")).with_processor(processor)
    pixels = torch.stack([data[index]["pixel_values"] for index in range(0, 300, 2)])
    model = QuEEForImageClassification.from_backbone(source, exit_blocks=[12], levels=["fp32"]).eval()
    exact = model(pixels).logits.argmax(dim=-1)
    model = QuEEForImageClassification.from_backbone(source, exit_blocks=[12], levels=[8])
    quantize(model, pixels[:1], method="repq")
    assert (model(pixels, path=(8,)).logits.argmax(dim=-1) == exact).float().mean() >= 0.9


def test_a_channel_that_never_changes_is_kept_finite():
    model = wrap(VARIANTS["vit"].build(num_blocks=1), levels=[8])
    with torch.no_grad():
        model.trunk.blocks[0].norm1.weight[3] = 0
    exact = model.read_exit(0, model.trunk.run_blocks(model.embed(images(4)), 0, 1, "fp32")).logits
    quantize(model, images(4), method="repq")
    assert all(tensor.isfinite().all() for tensor in model.state_dict().values())
    logits = model(images(4), path=(8,)).logits
    assert torch.nn.functional.cosine_similarity(logits.flatten(), exact.flatten(), dim=0) > 0.95
