"""Tests of what a build knows of its classifier before it loads the weights."""

import shutil

import pytest
from tests.builds import write_classifier

from quee_hf.build import source
from quee_hf.build.recipe import Recipe


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    return write_classifier(tmp_path_factory.mktemp("source") / "model")


def fingerprint(model):
    recipe = Recipe(model=str(model), train="t", validation="v", exits=(1, 3), levels=(8,))
    return source.open_source(recipe).fingerprint


def test_of_a_directory_is_that_of_its_files(classifier, tmp_path):
    copy = shutil.copytree(classifier, tmp_path / "copy")
    assert fingerprint(copy) == fingerprint(classifier)
    weights = bytearray((copy / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (copy / "model.safetensors").write_bytes(weights)
    assert fingerprint(copy) != fingerprint(classifier)


def test_of_a_hub_model_is_its_id_and_commit(classifier, tmp_path, monkeypatch):
    """Stages of one model must never be reused for another, nor for its next commit."""
    found = {}
    for model, commit in (("org/a", "1" * 40), ("org/b", "1" * 40), ("org/a", "2" * 40)):
        folder = shutil.copytree(classifier, tmp_path / model / "snapshots" / commit)
        for name in ("AutoConfig", "AutoImageProcessor"):
            loader = getattr(source, name)
            monkeypatch.setattr(
                source,
                name,
                type(
                    name,
                    (),
                    {
                        "from_pretrained": lambda _, loader=loader, **kw: loader.from_pretrained(
                            classifier, **kw
                        )
                    },
                ),
            )
        monkeypatch.setattr(source, "cached_file", lambda _, name, folder=folder: str(folder / name))
        found[model, commit] = fingerprint(model)
        monkeypatch.undo()
    assert len(set(found.values())) == 3
    assert found["org/a", "1" * 40] == f"org/a {'1' * 40}"
