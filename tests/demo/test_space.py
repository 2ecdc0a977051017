"""Tests of `quee_hf.demo.space`: the folder holds a Space that runs."""

import os
import runpy
import stat

import pytest
from huggingface_hub import RepoCard
from tests.demo.conftest import processor

from quee_hf.demo.space import SpaceModel, export_space


@pytest.fixture
def saved(classifier, tmp_path):
    folder = tmp_path / "run" / "model"
    classifier.model.save_pretrained(folder)
    processor().save_pretrained(folder)
    (folder / "training_args.bin").write_bytes(b"no part of the model")
    return folder


def test_a_model_in_a_directory_goes_into_the_space(classifier, saved, tmp_path):
    folder = tmp_path / "space"
    written = export_space(SpaceModel(str(saved), classifier.config, engine="onnxruntime"), folder)
    names = {path.relative_to(folder).as_posix() for path in written}
    assert {"app.py", "requirements.txt", "README.md"} < names
    assert {"model/config.json", "model/model.safetensors", "model/preprocessor_config.json"} < names
    assert "model/training_args.bin" not in names
    assert (folder / "model" / "model.safetensors").read_bytes() == (saved / "model.safetensors").read_bytes()
    assert "quee-hf[demo,onnxruntime]==" in (folder / "requirements.txt").read_text()
    data = RepoCard.load(folder / "README.md", ignore_metadata_errors=False).data.to_dict()
    assert (data["sdk"], data["app_file"]) == ("gradio", "app.py")
    assert data["sdk_version"]
    assert "models" not in data
    assert not list(tmp_path.glob(".space*"))
    mask = os.umask(0)
    os.umask(mask)
    for path in (folder, *folder.rglob("*")):
        assert stat.S_IMODE(path.stat().st_mode) == (0o777 if path.is_dir() else 0o666) & ~mask


def test_its_app_is_the_demo_of_that_model(classifier, saved, tmp_path):
    folder = tmp_path / "space"
    export_space(SpaceModel(str(saved), classifier.config, engine="onnxruntime"), folder)
    app = runpy.run_path(str(folder / "app.py"), run_name="app")
    assert app["app"].title == "quee-vit"
    assert app["classify"].model.engine == "onnxruntime"
    assert app["classify"].model.config.exit_blocks == classifier.config.exit_blocks


def test_a_model_on_the_hub_is_named(classifier, tmp_path):
    folder = tmp_path / "space"
    written = export_space(SpaceModel("org/quee-vit", classifier.config, revision="v2"), folder)
    assert {path.name for path in written} == {"app.py", "requirements.txt", "README.md"}
    code = (folder / "app.py").read_text()
    assert 'model="org/quee-vit", revision="v2", engine="torch"' in code
    compile(code, "app.py", "exec")
    card = RepoCard.load(folder / "README.md", ignore_metadata_errors=False)
    assert card.data.to_dict()["models"] == ["org/quee-vit"]
    assert "# quee-vit" in card.text
    assert (folder / "requirements.txt").read_text().splitlines()[1].startswith("quee-hf[demo]==")


def test_an_empty_folder_is_taken_and_any_other_refused(classifier, tmp_path):
    model = SpaceModel("org/quee-vit", classifier.config)
    (tmp_path / "empty").mkdir()
    export_space(model, tmp_path / "empty")
    before = (tmp_path / "empty" / "README.md").read_bytes()
    for folder in (tmp_path / "empty", tmp_path / "empty" / "README.md"):
        with pytest.raises(ValueError, match="is not an empty folder"):
            export_space(model, folder)
    assert (tmp_path / "empty" / "README.md").read_bytes() == before


def test_what_fails_leaves_nothing(classifier, saved, tmp_path, monkeypatch):
    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr("quee_hf.demo.space.shutil.copyfile", fail)
    with pytest.raises(OSError, match="disk full"):
        export_space(SpaceModel(str(saved), classifier.config), tmp_path / "space")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run"]
