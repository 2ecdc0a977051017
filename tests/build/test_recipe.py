"""Tests of `quee_hf.build.recipe` and `quee_hf.build.roles`."""

import numpy as np
import pytest
from PIL import Image

from quee_hf.build.recipe import Recipe
from quee_hf.build.roles import TRAIN_SHARES, divide, positions, validation_shares
from quee_hf.data import LabelledImages
from quee_hf.data.roles import describe_roles
from quee_hf.errors import BadDatasetError

PATHS = {"model": "m", "train": "t", "validation": "v", "exits": (2, 4), "levels": (8, "fp32")}


def images(count: int, num_classes: int = 4) -> LabelledImages:
    pictures = [Image.new("RGB", (2, 2), (i % 256, i // 256, 0)) for i in range(count)]
    return LabelledImages.from_images(pictures, [i % num_classes for i in range(count)])


def test_as_dict_is_plain():
    as_dict = Recipe(**PATHS).as_dict()
    assert as_dict["exits"] == [2, 4]
    assert as_dict["levels"] == [8, "fp32"]
    assert Recipe(**PATHS).pick(["levels", "seed"]) == {"levels": [8, "fp32"], "seed": 0}
    with pytest.raises(ValueError, match="no field"):
        Recipe(**PATHS).pick(["colour"])


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("calibration_images", 0),
        ("batch_size", 0),
        ("gate_epochs", -1),
        ("gate_fraction", 0.0),
        ("max_accuracy_drop", 1.1),
        ("max_accuracy_drop", float("nan")),
        ("gate_fraction", float("nan")),
        ("seed", -1),
        ("seed", 2**32),
        ("logit_scale", float("inf")),
        ("gate_targets", "luck"),
        ("match_labels", "luck"),
        ("num_clusters", 3),
    ],
)
def test_impossible_values_are_named(field, value):
    with pytest.raises(ValueError, match=f"`{field}`"):
        Recipe(**PATHS, **{field: value})


@pytest.mark.parametrize("targets", ["outcome", "cluster"])
@pytest.mark.parametrize("fraction", [0.1, 0.7, 0.95])
def test_validation_shares_add_up(targets, fraction):
    shares = validation_shares(Recipe(**PATHS, gate_targets=targets, gate_fraction=fraction))
    assert sum(shares.values()) == pytest.approx(1, abs=1e-8)  # rounded to nine decimals
    assert shares["operating points"] == pytest.approx(1 - fraction)
    assert ("error clusters" in shares) == (targets == "cluster")


def test_parts_are_disjoint_complete_and_stratified():
    whole = images(400)
    parts = divide(whole, TRAIN_SHARES, 3, name="training")
    found = np.concatenate([positions(whole, part).numpy() for part in parts.values()])
    assert sorted(found) == list(range(400))
    for role, share in TRAIN_SHARES.items():
        counts = np.bincount(parts[role].labels, minlength=4)
        assert np.abs(counts - 100 * share).max() <= 2  # a row or two, as `split` promises


def test_positions_point_at_the_part():
    whole = images(40).select(np.arange(0, 40, 2))
    part = divide(whole, {"a": 0.5, "b": 0.5}, 0, name="some")["b"]
    rows = positions(whole, part)
    assert whole.select(rows.numpy()).fingerprint == part.fingerprint


def test_too_few_images_are_refused():
    with pytest.raises(
        BadDatasetError, match="3 training images are too few to divide into head training 85%"
    ):
        divide(images(3), TRAIN_SHARES, 0, name="training")


def test_roles_name_source_and_images():
    parts = divide(images(40), {"a": 0.5, "b": 0.5}, 0, name="some")
    described = describe_roles("here", parts)
    assert [(row["role"], row["source"], row["num_images"]) for row in described] == [
        ("a", "here", 20),
        ("b", "here", 20),
    ]
    assert described[0]["fingerprint"] != described[1]["fingerprint"]
