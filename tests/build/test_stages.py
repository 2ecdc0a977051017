"""What a changed recipe, model or data set redoes: exactly the stages that depend on it."""

import shutil
from dataclasses import replace

import pytest
import torch
from tests.builds import write_classifier, write_images

from quee_hf.build.builder import stage_hashes
from quee_hf.build.ingredients import load_ingredients
from quee_hf.build.recipe import Recipe
from quee_hf.build.source import complete_exits, open_source

ALL = (1, 2, 3, 4, 5, 6, 7)


@pytest.fixture(scope="module")
def recipe(tmp_path_factory) -> Recipe:
    root = tmp_path_factory.mktemp("stages")
    write_classifier(root / "model")
    write_images(root / "train", 80, 0)
    write_images(root / "validation", 60, 1)
    paths = {name: str(root / name) for name in ("model", "train", "validation")}
    return Recipe(**paths, exits=(1, 2, 3), levels=(8, 4))


def hashes(recipe: Recipe) -> list[str]:
    ingredients = load_ingredients(recipe, open_source(recipe), torch.device("cpu"), lambda _: None)
    return stage_hashes(ingredients)


def redone(before: Recipe, after: Recipe) -> tuple[int, ...]:
    """Return the numbers of the stages whose inputs differ."""
    pairs = zip(hashes(before), hashes(after), strict=True)
    return tuple(number for number, (old, new) in enumerate(pairs, start=1) if old != new)


@pytest.mark.parametrize(
    ("changes", "stages"),
    [
        ({"exits": (2, 3)}, ALL),
        ({"head": "ssa"}, ALL),
        ({"head": "mlp"}, ALL),
        ({"class_names": ("red", "green", "blue", "gray")}, ALL),
        ({"seed": 1}, ALL),
        ({"head_epochs": 7}, (2, 3, 4, 5, 6, 7)),
        ({"ptq": "mse"}, (3, 4, 5, 6, 7)),
        ({"ptq_options": {"ridge": 0.01}}, (3, 4, 5, 6, 7)),
        ({"smoothing": "search"}, (3, 4, 5, 6, 7)),
        ({"calibration_images": 7}, (3, 4, 5, 6, 7)),
        ({"levels": ("fp32",)}, (3, 4, 5, 6, 7)),
        ({"levels": (8, 5)}, (4, 5, 6, 7)),
        ({"weight_sharing": "nested"}, (4, 5, 6, 7)),
        ({"keep": {"2.fc2": 8}}, (4, 5, 6, 7)),
        ({"first_level": "any"}, (5, 6, 7)),
        ({"max_paths": 7}, (5, 6, 7)),
        ({"gate_targets": "cluster"}, (6, 7)),
        ({"gate_features": "probabilities"}, (6, 7)),
        ({"gate_epochs": 7}, (6, 7)),
        ({"gate_fraction": 0.5}, (6, 7)),
        ({"max_accuracy_drop": 0.5}, (7,)),
        ({"batch_size": 7}, ()),
        ({"device": "auto"}, ()),
        ({"skip_bad": True}, ()),
        ({"match_labels": "names"}, ()),
    ],
    ids=lambda value: ",".join(value) if isinstance(value, dict) else "",
)
def test_changed_option(recipe, changes, stages):
    assert redone(recipe, replace(recipe, **changes)) == stages


def test_cluster_count(recipe):
    clusters = replace(recipe, gate_targets="cluster", num_clusters=3)
    assert redone(clusters, replace(clusters, num_clusters=4)) == (6, 7)


@pytest.mark.parametrize(("data", "stages"), [("train", (2, 3, 4, 5, 6, 7)), ("validation", (5, 6, 7))])
def test_changed_images(recipe, tmp_path, data, stages):
    folder = shutil.copytree(getattr(recipe, data), tmp_path / "data")
    assert redone(recipe, replace(recipe, **{data: str(folder)})) == (), "the same images elsewhere"
    next(folder.rglob("*.png")).unlink()
    assert redone(recipe, replace(recipe, **{data: str(folder)})) == stages


@pytest.mark.parametrize("file", ["model.safetensors", "preprocessor_config.json"])
def test_changed_model(recipe, tmp_path, file):
    folder = shutil.copytree(recipe.model, tmp_path / "model")
    assert redone(recipe, replace(recipe, model=str(folder))) == (), "the same model elsewhere"
    changed = folder / file
    changed.write_bytes(changed.read_bytes() + b"\n")
    assert redone(recipe, replace(recipe, model=str(folder))) == ALL


def test_exits_are_completed_and_sorted(recipe):
    assert complete_exits(replace(recipe, exits=(2, 1))).exits == (1, 2, 3)
    assert complete_exits(replace(recipe, exits=(3, 1, 1))).exits == (1, 3)
    with pytest.raises(ValueError, match=r"blocks 1 to 3.* has 3 blocks; got \[1, 4\]"):
        complete_exits(replace(recipe, exits=(1, 4)))
