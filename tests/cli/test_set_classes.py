"""Tests of `quee set-classes`."""

import json

import pytest
import torch
from tests.cli.conftest import words
from tests.tiny import PROJECTION_SIZE, VARIANTS, generator, routable
from transformers import CLIPImageProcessorPil

from quee_hf import QuEEForImageClassification
from quee_hf.backbones.class_embeddings import write_class_embeddings

NAMES = ["cat", "dog", "aeroplane"]


def write(folder, gate_type):
    model = routable(VARIANTS["clip"], levels=[8], gate_type=gate_type, id2label=dict(enumerate("abcde")))
    model.save_pretrained(folder)
    processor = CLIPImageProcessorPil(size={"shortest_edge": 30}, crop_size={"height": 30, "width": 30})
    processor.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    root = tmp_path_factory.mktemp("clips")
    return {name: write(root / name, name) for name in ("lra", "error_predictor")}


@pytest.fixture
def given(tmp_path):
    """Names and embeddings as options."""
    embeddings = torch.randn(3, PROJECTION_SIZE, generator=generator(0))
    write_class_embeddings(tmp_path / "e.safetensors", embeddings)
    (tmp_path / "names.json").write_text(json.dumps({"classes": NAMES}))
    return ["--class-names", tmp_path / "names.json", "--class-embeddings", tmp_path / "e.safetensors"]


def test_writes_a_model_with_the_classes(models, given, quee, tmp_path):
    result = quee("set-classes", models["lra"], *given, "--output", tmp_path / "new")
    assert result.exit_code == 0, result.output
    assert "3 classes" in result.stdout
    assert "not trained" not in result.stdout
    loaded = QuEEForImageClassification.from_pretrained(tmp_path / "new")
    assert loaded.config.class_names == NAMES
    assert loaded.config.trained_parts == ["gates", "heads"]
    assert (tmp_path / "new" / "preprocessor_config.json").exists()


def test_a_selection_needs_no_embeddings(models, quee, tmp_path):
    result = quee(
        "set-classes", models["lra"], "--class-names", '["d", "b"]', "--output", tmp_path / "new", "--json"
    )
    assert json.loads(result.stdout) == {"output": str(tmp_path / "new"), "num_classes": 2, "has_gates": True}
    before, after = (
        QuEEForImageClassification.from_pretrained(folder) for folder in (models["lra"], tmp_path / "new")
    )
    assert torch.equal(after.get_buffer("class_embeddings"), before.get_buffer("class_embeddings")[[3, 1]])


def test_gates_that_cannot_stay(models, given, quee, tmp_path):
    arguments = ["set-classes", models["error_predictor"], *given, "--output", tmp_path / "new"]
    result = quee(*arguments)
    assert result.exit_code == 2
    assert "Give `--new-gates` for new ones" in result.stderr
    assert not (tmp_path / "new").exists()
    result = quee(*arguments, "--new-gates")
    assert result.exit_code == 0, result.output
    assert "Its gates are not trained: quee train-gates" in words(result.stdout)
    assert QuEEForImageClassification.from_pretrained(tmp_path / "new").config.trained_parts == ["heads"]


def test_names_that_are_none(models, quee, tmp_path):
    result = quee("set-classes", models["lra"], "--class-names", "[]", "--output", tmp_path / "new")
    assert result.exit_code == 2
    assert "at least two classes" in result.stderr
