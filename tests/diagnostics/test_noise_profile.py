"""Tests of `quee_hf.diagnostics.noise_profile`, against slow loops and models whose noise is known."""

import json

import numpy as np
import pytest
import torch
from scipy.stats import kurtosis
from tests.tiny import NUM_BLOCKS, VARIANTS, every_variant, images, quantize_fast, wrap
from torch.utils.data import Dataset

from quee_hf.diagnostics.noise_profile import measure_noise
from quee_hf.quantize import quantize

NUM_IMAGES = 7
SIX_DIGITS = 1e-5  # how numbers are written; cosines have six decimals


def twins(variant="vit", levels=(8, 4), **options):
    """Return a quantized model, its float twin, and images."""
    kind = VARIANTS[variant]
    model, reference = wrap(kind.build(), levels=list(levels)), wrap(kind.build(), levels=["fp32"])
    quantize(model, images(4, kind.image_size), **{"method": "min_max", **options})
    return model, reference, images(NUM_IMAGES, kind.image_size, seed=1)


@pytest.fixture(scope="module")
def made():
    return twins()


@pytest.fixture(scope="module")
def profile(made):
    return measure_noise(*made)


class Items(Dataset):
    def __init__(self, pixels):
        self.pixels = pixels

    def __len__(self):
        return len(self.pixels)

    def __getitem__(self, index):
        return {"pixel_values": self.pixels[index], "labels": 0}


def states(model, pixels, level):
    """Return the tokens of one image after 0, 1, 2, ... blocks, as float64 arrays."""
    with torch.inference_mode():
        hidden = [model.embed(pixels[None])]
        for block in model.trunk.blocks:
            hidden.append(block(hidden[-1], level))
    return [tokens[0].double().numpy() for tokens in hidden]


def mean_cosine(first, second):
    pairs = zip(first.reshape(-1, first.shape[-1]), second.reshape(-1, second.shape[-1]), strict=True)
    return np.mean([a @ b / np.linalg.norm(a) / np.linalg.norm(b) for a, b in pairs])


def normalize(norm, tokens):
    """Apply a layer norm."""
    centred = tokens - tokens.mean(axis=-1, keepdims=True)
    scaled = centred / np.sqrt((centred**2).mean(axis=-1, keepdims=True) + norm.eps)
    return scaled * norm.weight.double().numpy() + norm.bias.double().numpy()


def as_distances(row):
    """Replace cosines, which are all close to 1, by what they lack of 1."""
    return {name: 1 - value if "cosine" in name else value for name, value in row.items()}


class TestBlocks:
    @pytest.mark.parametrize("level", [8, 4])
    def test_equal_a_loop_over_images(self, made, level):
        model, reference, pixels = made
        rows = measure_noise(*made, level=level)["blocks"]
        exact = [states(reference, image, "fp32") for image in pixels]
        noisy = [states(model, image, level) for image in pixels]
        for number, row in enumerate(rows, start=1):
            before, h = (np.stack([image[at] for image in exact]) for at in (number - 1, number))
            q = np.stack([image[number] for image in noisy])
            signal, noise, evolution = (
                (part**2).reshape(NUM_IMAGES, -1).sum(axis=1) for part in (h, q - h, h - before)
            )
            read = [normalize(model.trunk.norm, part) for part in (h, q)]
            expected = {
                "block": number,
                "noise_ratio": noise.mean() / signal.mean(),
                "noise": noise.mean(),
                "evolution": evolution.mean(),
                "inr": (evolution / noise).mean(),
                "token_cosine": mean_cosine(h, q),
                "class_cosine": mean_cosine(*(part[:, 0] for part in read)),
                "mean_patch_cosine": mean_cosine(*(part[:, 1:].mean(axis=1) for part in read)),
                "largest": np.abs(h).max(),
                "kurtosis": kurtosis(h, axis=None, fisher=False),
            }
            # Batches round float32 sums differently, and codes are steps: one of thousands may differ.
            assert as_distances({name: row[name] for name in expected}) == pytest.approx(
                as_distances(expected), rel=1e-3, abs=1e-6
            )

    def test_stand_out_against_the_others(self, profile):
        noise = [row["noise_ratio"] for row in profile["blocks"]]
        second = profile["blocks"][1]
        assert second["noise_jump"] == pytest.approx(
            noise[1] / np.median([noise[0], *noise[2:]]), rel=SIX_DIGITS
        )
        peaks = [row["largest"] for row in profile["blocks"]]
        assert second["largest_ratio"] == pytest.approx(peaks[1] / np.median(peaks), rel=SIX_DIGITS)

    def test_fewer_bits_are_noisier(self, made, profile):
        lower = measure_noise(*made, level=4)
        for high, low in zip(profile["blocks"], lower["blocks"], strict=True):
            # 16 times the step is 256 times the squared error, until noise is as large as the signal.
            assert low["noise_ratio"] > 20 * high["noise_ratio"]
            assert low["inr"] < high["inr"]
            assert low["token_cosine"] < high["token_cosine"]
            assert [low[name] for name in ("evolution", "kurtosis")] == [
                high[name] for name in ("evolution", "kurtosis")
            ]

    @pytest.mark.parametrize("batch_size", [1, 3, 64])
    def test_batches_change_nothing(self, made, profile, batch_size):
        again = measure_noise(*made, batch_size=batch_size)
        for row, other in zip(profile["blocks"], again["blocks"], strict=True):
            assert row == pytest.approx(other, rel=1e-3)  # as above
        assert again["final"] == pytest.approx(profile["final"], abs=1e-4)

    def test_items_and_pixels_are_the_same(self, made, profile):
        model, reference, pixels = made
        assert measure_noise(model, reference, Items(pixels)) == profile

    def test_one_more_outlier_shows(self, made, profile):
        model, reference, pixels = twins()
        with torch.no_grad():
            for changed in (model, reference):
                changed.trunk.blocks[1].mlp.fc2.bias[3] += 200
        rows = measure_noise(model, reference, pixels)["blocks"]
        assert rows[0] == pytest.approx(profile["blocks"][0] | {"largest_ratio": rows[0]["largest_ratio"],
                                                                 "noise_jump": rows[0]["noise_jump"]})  # fmt: skip
        assert rows[1]["largest"] > 190
        assert rows[1]["largest_ratio"] > 1
        # One of 32 channels far from all others: (1 - p)**3 + p**3 over p (1 - p), about 30, if that is all.
        assert rows[1]["kurtosis"] == pytest.approx(30, rel=0.1)
        assert rows[1]["kurtosis"] > 3 * profile["blocks"][1]["kurtosis"]

    def test_are_fit_for_json(self, profile):
        assert json.loads(json.dumps(profile, allow_nan=False)) == profile
        assert (profile["num_images"], profile["level"]) == (NUM_IMAGES, 8)
        assert [row["block"] for row in profile["blocks"]] == list(range(1, NUM_BLOCKS + 1))


def test_there_is_no_noise_against_itself():
    model = wrap(VARIANTS["vit"].build(), levels=["fp32", 8])
    quantize_fast(model)
    profile = measure_noise(model, model, images(3), level="fp32")
    for row in profile["blocks"]:
        assert (row["noise_ratio"], row["noise"], row["inr"]) == (0.0, 0.0, None)
        assert [row[f"{name}_cosine"] for name in ("token", "class", "mean_patch")] == [1.0] * 3
        assert row["evolution"] > 0
        assert row["noise_jump"] == 1.0
    assert profile["final"] == {"embedding_cosine": 1.0, "logits_cosine": 1.0, "same_class": 1.0}
    json.dumps(profile, allow_nan=False)


@pytest.mark.parametrize("method", ["repq", "min_max"])
def test_folded_float_weights_are_a_twin_too(method):
    """What folding does to norms and weights cancels in full precision."""
    model, reference, pixels = twins(levels=("fp32", 8), method=method)
    own, other = (measure_noise(model, twin, pixels) for twin in (model, reference))
    assert own["level"] == 8
    for row, expected in zip(own["blocks"], other["blocks"], strict=True):
        assert row == pytest.approx(expected, rel=1e-3)  # float32 rounding, against 8-bit noise
    folded = measure_noise(model, reference, pixels, level="fp32")["blocks"]
    assert all(row["noise_ratio"] < 1e-10 for row in folded)  # float32 has 24 bits: 2**-48 is 4e-15


@every_variant
def test_every_backbone_can_be_measured(variant):
    name = next(name for name, kind in VARIANTS.items() if kind is variant)
    model, reference, pixels = twins(name, levels=[8])
    profile = measure_noise(model, reference, pixels)
    with torch.inference_mode():
        exact, noisy = reference.embed(pixels), model.embed(pixels)
        exact, noisy = reference.trunk.run_blocks(exact, 0, 4, "fp32"), model.trunk.run_blocks(noisy, 0, 4, 8)
        exact, noisy = model.select_exit(2, exact), model.select_exit(2, noisy)
        if variant.is_clip:
            exact, noisy = model.heads[2](exact), model.heads[2](noisy)
    expected = torch.nn.functional.cosine_similarity(exact, noisy).mean()
    assert profile["final"]["embedding_cosine"] == pytest.approx(float(expected), abs=1e-5)
    with torch.inference_mode():
        logits = [reference(pixels).logits, model(pixels).logits]
    same = (logits[0].argmax(-1) == logits[1].argmax(-1)).double().mean()
    assert profile["final"]["same_class"] == pytest.approx(float(same), abs=1e-6)
    centred = [part - part.mean(dim=-1, keepdim=True) for part in logits]
    expected = torch.nn.functional.cosine_similarity(*centred).mean()
    assert profile["final"]["logits_cosine"] == pytest.approx(float(expected), abs=1e-5)


def test_prefix_tokens_are_no_patches():
    model, reference, pixels = twins("dinov2-with-registers", levels=[8])
    (row, *_) = measure_noise(model, reference, pixels)["blocks"]
    num_prefix_tokens = model.trunk.num_prefix_tokens
    assert num_prefix_tokens == 5
    with torch.inference_mode():
        found = [
            trunk.norm(trunk.run_blocks(trunk.embed(pixels), 0, 1, level))[:, num_prefix_tokens:].mean(dim=1)
            for trunk, level in ((reference.trunk, "fp32"), (model.trunk, 8))
        ]
    expected = torch.nn.functional.cosine_similarity(*found).mean()
    assert row["mean_patch_cosine"] == pytest.approx(float(expected), abs=1e-5)


class TestRefusals:
    """All before any image is run: the last argument is none."""

    def check(self, model, reference, message, **options):
        with pytest.raises(ValueError, match=message):
            measure_noise(model, reference, None, **options)

    def test_float_model(self, made):
        self.check(made[1], made[1], "The model is not quantized")

    def test_level_that_it_lacks(self, made):
        self.check(*made[:2], r"`level` must be one of the model's levels \[8, 4\], got 6", level=6)

    def test_reference_without_float_weights(self, made):
        self.check(made[0], made[0], r"The reference has no float weights: its levels are \[8, 4\]")

    def test_reference_with_another_number_of_blocks(self, made):
        self.check(made[0], wrap(VARIANTS["vit"].build(2)), "num_hidden_layers 2 instead of 4")

    def test_reference_of_another_type(self, made):
        self.check(made[0], wrap(VARIANTS["dinov2"].build()), "it has type 'dinov2' instead of 'vit'")

    def test_reference_of_another_width(self, made):
        other = VARIANTS["vit"].make(num_hidden_layers=4, intermediate_size=64).eval()
        self.check(made[0], wrap(other), "mlp_size 64 instead of 48")

    def test_reference_with_other_weights(self, made):
        other = wrap(VARIANTS["vit"].build())
        with torch.no_grad():
            other.trunk.norm.weight[0] += 1
        self.check(made[0], other, "its weight norm.weight differs")

    def test_reference_elsewhere(self, made):
        self.check(made[0], wrap(VARIANTS["vit"].build()).to("meta"), "on cpu, the reference on meta")


def test_no_images_are_refused(made):
    with pytest.raises(ValueError, match="There are no images"):
        measure_noise(*made[:2], made[2][:0])


def test_block_whose_output_is_not_finite_is_named():
    model, reference, pixels = twins(levels=[8])
    with torch.no_grad():
        model.trunk.blocks[2].mlp.fc2.bias[0] = torch.nan
    with pytest.raises(ValueError, match="The output of block 3 holds NaN or infinity"):
        measure_noise(model, reference, pixels)
