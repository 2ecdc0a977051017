"""Tests of SmoothQuant: factors by the formula, the function preserved, the searched alpha the best."""

import numpy as np
import pytest
import torch
from tests.ptq.four_images import quantized
from tests.reference.ptq import smoothing_errors, smoothing_factors
from tests.tiny import VARIANTS, Variant, every_variant, images, wrap

from quee_hf import quantize
from quee_hf.ptq import PTQ_METHODS
from quee_hf.ptq.observation import observe_block
from quee_hf.ptq.smoothquant import ALPHAS, check_smoothing, smooth_block

PAIRS = {"qkv": "norm1", "fc1": "norm2"}


def smoothed(smoothing, variant=VARIANTS["vit"]):
    """A block before and after, with what it sees and returns."""
    blocks, outputs, seen = [], [], []
    hidden = None
    for number in range(2):
        trunk = wrap(variant.build(num_blocks=1)).trunk
        hidden = trunk.embed(images(4, variant.image_size))
        block = trunk.blocks[0]
        chosen = smooth_block(block, observe_block(block, 1, hidden)[0], smoothing) if number else {}
        found, output = observe_block(block, 1, hidden)
        blocks.append(block)
        seen.append(found)
        outputs.append(output)
    return blocks, seen, outputs, chosen


@pytest.mark.parametrize("alpha", [0, 0.5, 0.9, 1])
class TestFixedAlpha:
    def test_factors_follow_the_formula(self, alpha):
        (before, after), seen, _, chosen = smoothed(alpha)
        assert chosen == dict.fromkeys(PAIRS, alpha)
        for name, norm in PAIRS.items():
            linear = before.products[name]
            factors = smoothing_factors(seen[0][name].rows.numpy(), linear.weight.detach().numpy(), alpha)
            # Powers in float32, and one rounding more of each weight.
            for found, expected in (
                (after.products[name].weight, linear.weight * torch.from_numpy(factors).float()),
                (
                    getattr(after, norm).weight,
                    getattr(before, norm).weight / torch.from_numpy(factors).float(),
                ),
                (getattr(after, norm).bias, getattr(before, norm).bias / torch.from_numpy(factors).float()),
            ):
                torch.testing.assert_close(found, expected, rtol=2e-6, atol=0)
            assert torch.equal(after.products[name].bias, linear.bias)

    @every_variant
    def test_the_block_computes_the_same(self, alpha, variant: Variant):
        _, _, outputs, _ = smoothed(alpha, variant)
        # Some float32 roundings of numbers of order 10, in sums of 32 and more.
        torch.testing.assert_close(outputs[1], outputs[0], rtol=1e-4, atol=1e-4)


def test_alpha_1_gives_all_channels_of_an_input_one_size():
    _, seen, _, _ = smoothed(1.0)
    for name in PAIRS:
        largest = seen[1][name].rows.abs().amax(dim=0)
        torch.testing.assert_close(largest, torch.ones_like(largest), rtol=1e-5, atol=0)


def test_alpha_0_gives_all_channels_of_a_weight_one_size():
    (_, after), *_ = smoothed(0.0)
    for name in PAIRS:
        largest = after.products[name].weight.abs().amax(dim=0)
        torch.testing.assert_close(largest, torch.ones_like(largest), rtol=1e-5, atol=0)


@pytest.mark.parametrize("outlier", [1, 30])
def test_the_searched_alpha_is_the_best_of_all(outlier):
    trunk = wrap(VARIANTS["vit"].build(num_blocks=1)).trunk
    block, hidden = trunk.blocks[0], trunk.embed(images(4))
    with torch.no_grad():
        block.norm1.weight[5] *= outlier
    seen, _ = observe_block(block, 1, hidden)
    weights = {name: block.products[name].weight.detach().numpy().copy() for name in PAIRS}
    chosen = smooth_block(block, seen, "search")
    candidates = (None, *ALPHAS)
    for name in PAIRS:
        errors = smoothing_errors(seen[name].rows.numpy(), weights[name], candidates)
        # Factors are powers in float32; a code or two near a tie changes the mean error by less than this.
        assert errors[candidates.index(chosen.get(name))] <= min(errors) * 1.01
    if outlier > 1:
        assert "qkv" in chosen


@pytest.mark.parametrize("method", PTQ_METHODS)
@pytest.mark.parametrize("smoothing", [0.5, "search"])
def test_every_method_takes_it_and_the_config_records_it(method, smoothing):
    made = quantized(method, levels=[8], smoothing=smoothing)
    alphas = made.model.config.quantization["options"].get("smoothing", {})
    assert alphas == made.calibration.smoothing
    if smoothing == 0.5:
        assert alphas == {"1.qkv": 0.5, "1.fc1": 0.5}
    exact = wrap(VARIANTS["vit"].build(num_blocks=1))(images(8, seed=3)).logits
    logits = made.model(images(8, seed=3), path=(8,)).logits
    assert torch.nn.functional.cosine_similarity(logits.flatten(), exact.flatten(), dim=0) > 0.99


def test_it_helps_if_a_channel_is_an_outlier():
    errors = []
    for smoothing in (None, 0.5):
        model = wrap(VARIANTS["vit"].build(num_blocks=1), levels=[6])
        with torch.no_grad():
            model.trunk.blocks[0].norm1.weight[5] *= 100
            model.trunk.blocks[0].attention.qkv.weight[:, 5] /= 100
        hidden = model.embed(images(4))
        exact = model.trunk.run_blocks(hidden, 0, 1, "fp32")
        quantize(model, images(4), method="min_max", smoothing=smoothing)
        errors.append((model.trunk.run_blocks(hidden, 0, 1, 6) - exact).square().mean().item())
    assert errors[1] < errors[0] / 4


@pytest.mark.parametrize("smoothing", [None, 0, 0.5, 1, "search"])
def test_what_is_taken(smoothing):
    check_smoothing(smoothing)


@pytest.mark.parametrize("smoothing", [-0.1, 1.1, float("nan"), True, "best", [0.5]])
def test_what_is_refused(smoothing):
    model = wrap(VARIANTS["vit"].build(num_blocks=1), levels=[8])
    with pytest.raises(ValueError, match="`smoothing` must be None, 'search' or a number from 0 to 1, got"):
        quantize(model, images(2), method="min_max", smoothing=smoothing)
    assert model.config.quantization is None


def test_a_dead_channel_gives_finite_factors():
    rows, weight = np.zeros((4, 3), np.float32), np.ones((2, 3), np.float32)
    assert np.isfinite(smoothing_factors(rows, weight, 1.0)).all()
    trunk = wrap(VARIANTS["vit"].build(num_blocks=1)).trunk
    block = trunk.blocks[0]
    with torch.no_grad():
        block.norm1.weight[2] = block.norm1.bias[2] = 0
        block.mlp.fc1.weight[:, 4] = 0
    seen, output = observe_block(block, 1, trunk.embed(images(2)))
    smooth_block(block, seen, 0.5)
    torch.testing.assert_close(
        observe_block(block, 1, trunk.embed(images(2)))[1], output, rtol=1e-4, atol=1e-4
    )
