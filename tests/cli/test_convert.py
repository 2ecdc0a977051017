"""Tests of `quee convert` and `quee embed-classes`."""

import json
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.open_clip_library import real_open_clip
from tests.reference.open_clip import random_weights

from quee_hf import QuEEForImageClassification

NAMES = ["cat", "dog", "aeroplane"]


@pytest.fixture
def checkpoint(tmp_path):
    file = tmp_path / "open_clip_model.safetensors"
    save_file({name: torch.from_numpy(value) for name, value in random_weights().items()}, file)
    return file


class TestConvert:
    def test_writes_what_from_backbone_takes(self, checkpoint, quee, tmp_path):
        result = quee("convert", checkpoint, "--name", "ViT-B-32-quickgelu", "--output", tmp_path / "clip")
        assert result.exit_code == 0, result.output
        assert "3 blocks, 128 wide, quick_gelu, images of 64 px, embeddings of 16" in result.stdout
        assert (tmp_path / "clip" / "preprocessor_config.json").exists()
        model = QuEEForImageClassification.from_backbone(
            tmp_path / "clip", class_embeddings=torch.eye(16)[:3], exit_blocks=[1, 3], levels=["fp32"]
        )
        assert model(torch.zeros(1, 3, 64, 64)).logits.shape == (1, 3)

    def test_json(self, checkpoint, quee, tmp_path):
        result = quee("convert", checkpoint, "--name", "ViT-B-32", "--output", tmp_path / "clip", "--json")
        found = json.loads(result.stdout)
        assert found["activation"] == "gelu"
        assert found["logit_scale"] == 3.5

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ([], "give --name, one of ['ViT-B-32', "),
            (["--name", "RN50"], "--name must be one of"),
            (["--name", "ViT-B-16"], "has patches of 16 pixels, the checkpoint of 32"),
        ],
    )
    def test_what_cannot_be_converted_writes_nothing(self, checkpoint, quee, tmp_path, arguments, message):
        result = quee("convert", checkpoint, *arguments, "--output", tmp_path / "clip")
        assert result.exit_code == 2
        assert message in result.stderr
        assert [path.name for path in tmp_path.iterdir()] == [checkpoint.name]

    def test_an_output_that_is_not_empty_is_left_alone(self, checkpoint, quee, tmp_path):
        result = quee("convert", checkpoint, "--name", "ViT-B-32", "--output", tmp_path)
        assert result.exit_code == 2
        assert "holds files already" in result.stderr


class TestEmbedClasses:
    @staticmethod
    def arguments(checkpoint, tmp_path, *extra):
        names = ["--class-names", json.dumps(NAMES)]
        return [
            "embed-classes",
            checkpoint,
            "--name",
            "ViT-B-32",
            *names,
            "--output",
            tmp_path / "e.safetensors",
            *extra,
        ]

    def test_writes_what_other_verbs_take(self, quee, tmp_path):
        real_open_clip()
        weights = random_weights(embedding=512, context=77, vocabulary=49408, text_width=512, text_layers=12)
        save_file(
            {name: torch.from_numpy(value) for name, value in weights.items()}, tmp_path / "w.safetensors"
        )
        extra = ["--template", "a {}", "--template", "{}, small", "--json"]
        result = quee(*self.arguments(tmp_path / "w.safetensors", tmp_path, *extra))
        assert result.exit_code == 0, result.output
        assert json.loads(result.stdout)["num_classes"] == 3
        found = load_file(tmp_path / "e.safetensors")
        assert found["class_embeddings"].shape == (3, 512)
        assert found["logit_scale"] == 3.5

    def test_without_open_clip(self, checkpoint, quee, tmp_path, monkeypatch):
        monkeypatch.setitem(sys.modules, "open_clip", None)
        result = quee(*self.arguments(checkpoint, tmp_path))
        assert result.exit_code == 2
        assert "pip install quee-hf[open-clip]" in result.stderr
        assert not (tmp_path / "e.safetensors").exists()

    def test_a_template_without_a_place(self, checkpoint, quee, tmp_path):
        result = quee(*self.arguments(checkpoint, tmp_path, "--template", "a cat"))
        assert result.exit_code == 2
        assert "where the name goes" in result.stderr

    def test_an_output_that_cannot_be_written(self, checkpoint, quee, tmp_path):
        arguments = self.arguments(checkpoint, tmp_path)
        arguments[-1] = tmp_path / "nowhere" / "e.safetensors"
        result = quee(*arguments)
        assert result.exit_code == 2
        assert "name a file in a directory that is there" in result.stderr
