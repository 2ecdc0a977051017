"""Tests of `quee export`."""

import json
import shutil

import pytest
from PIL import Image
from tests.cli.conftest import words

from quee_hf.deployment.host import HostRouter, describe_images
from quee_hf.deployment.image_reader import ImageReader


@pytest.fixture
def picture(root):
    return sorted((root / "test" / "red").iterdir())[0]


def test_an_exported_model_answers_as_predict_does(built, quee, picture, tmp_path):
    result = quee("export", built / "model", "--onnx", tmp_path / "deployed")
    assert result.exit_code == 0, result.stderr
    assert f"graphs to {tmp_path / 'deployed'}" in words(result.stdout)
    host, read = HostRouter(tmp_path / "deployed"), ImageReader.from_folder(tmp_path / "deployed")
    for options, route in ([], {}), (["--cost-lambda", 0], {"cost_lambda": 0.0}):
        found = describe_images(host.description, host(read(picture), **route))[0]
        predict = ("predict", built / "model", picture, "--engine", "onnxruntime", "--json")
        expected = json.loads(quee(*predict, *options).stdout)["images"][0]
        assert found["scores"][0]["label"] == expected["predictions"][0]["label"]
        assert found["scores"][0]["score"] == pytest.approx(expected["predictions"][0]["score"], abs=1e-3)
        assert found["routing"]["path"] == expected["path"]
        assert found["routing"]["cost"] == pytest.approx(expected["cost"])


def test_as_json(built, quee, tmp_path):
    result = quee("export", built / "model", "--onnx", tmp_path / "deployed", "--json")
    said = json.loads(result.stdout)["onnx"]
    files = list((tmp_path / "deployed").iterdir())
    assert said["folder"] == str(tmp_path / "deployed")
    assert said["graphs"] == len([file for file in files if file.suffix == ".onnx"])
    assert said["size_bytes"] == sum(file.stat().st_size for file in files)


def test_a_handler_is_written_beside_the_model(built, quee, tmp_path):
    model = shutil.copytree(built / "model", tmp_path / "model")
    result = quee("export", model, "--handler")
    assert result.exit_code == 0, result.stderr
    assert (model / "handler.py").exists()
    assert (model / "requirements.txt").exists()
    (model / "handler.py").write_text("mine")
    result = quee("export", model, "--handler")
    assert result.exit_code == 2
    assert "give --overwrite to replace it" in words(result.stderr)
    assert quee("export", model, "--handler", "--overwrite").exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "Give --onnx DIR, --handler, or both"),
        (["--onnx", "full"], "full is not empty: name another directory, or give --overwrite"),
        (["--onnx", "full", "--overwrite"], "full holds more than an earlier export"),
        (["--onnx", "full/picture.png"], "is not a directory"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(built, quee, tmp_path, arguments, message):
    (tmp_path / "full").mkdir()
    Image.new("RGB", (2, 2)).save(tmp_path / "full" / "picture.png")
    result = quee("export", built / "model", *arguments)
    assert result.exit_code == 2
    assert message in words(result.stderr.splitlines()[-1])
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["picture.png"]


def test_a_handler_needs_a_folder(quee):
    result = quee("export", "org/name", "--handler")
    assert result.exit_code == 2
    assert "org/name is none on this machine" in words(result.stderr)
