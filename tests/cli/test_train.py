"""Tests of `quee train-heads` and `quee train-gates`."""

import json

import pytest
import torch
from tests.builds import write_images

from quee_hf import QuEEForImageClassification

load = QuEEForImageClassification.from_pretrained


@pytest.fixture(scope="module")
def heads(root, built, tmp_path_factory):
    """Run `quee train-heads` on the shared build."""
    from typer.testing import CliRunner

    from quee_hf.cli.app import app

    output = tmp_path_factory.mktemp("train") / "heads"
    arguments = ["train-heads", built / "model", "--train", root / "train", "--output", output]
    result = CliRunner().invoke(app, [str(part) for part in [*arguments, "--epochs", 2, "--json"]])
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout), output


def tensors(folder, prefix):
    return {name: value for name, value in load(folder).state_dict().items() if name.startswith(prefix)}


def test_only_the_heads_but_the_last_change(heads, built):
    before, after = tensors(built / "model", ""), tensors(heads[1], "")
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed
    assert all(name.startswith(("heads.0.", "heads.1.")) for name in changed)


def test_what_was_measured_of_other_heads_is_forgotten(heads):
    config = load(heads[1]).config
    assert config.trained_parts == ["heads"]
    assert config.operating_points is config.cost_lambda is None
    assert heads[0]["num_images"] == {"head training": 144, "head early stopping": 16}


def test_gates_are_trained_and_measured(heads, root, tmp_path, quee):
    unseen = write_images(tmp_path / "unseen", 60, seed=9)
    arguments = ["train-gates", heads[1], "--train", root / "validation", "--validation", unseen]
    arguments += ["--epochs", 3]
    for name in ("a", "b"):
        result = quee(*arguments, "--output", tmp_path / name, "--json")
        assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    config = load(tmp_path / "a").config
    assert config.trained_parts == ["gates", "heads"]
    assert config.operating_points == found["operating_points"]
    assert found["num_images"]["operating points"] == 60
    assert (tmp_path / "a" / "preprocessor_config.json").exists()
    assert len(config.record["measured"]["gates"]) == len(found["gates"]) == config.num_exits - 1
    roles = {role["role"]: role["num_images"] for role in config.record["roles"]}
    assert roles["operating points"] == 60
    assert "head training" in roles  # of the step before
    assert "## Gates" in (tmp_path / "a" / "README.md").read_text()
    # The same command gives the same model.
    for file in (tmp_path / "a").iterdir():
        assert file.read_bytes() == (tmp_path / "b" / file.name).read_bytes()
    first, second = tensors(heads[1], "trunk."), tensors(tmp_path / "a", "trunk.")
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_images_must_not_play_two_roles(heads, root, tmp_path, quee):
    arguments = ["train-gates", heads[1], "--train", root / "validation", "--validation", root / "validation"]
    result = quee(*arguments, "--output", tmp_path / "out")
    assert result.exit_code == 2
    assert "validation images are among those to learn from" in result.stderr
    assert not (tmp_path / "out").exists()


def test_gates_do_not_learn_from_images_that_heads_have_learnt(heads, root, tmp_path, quee):
    unseen = write_images(tmp_path / "unseen", 60, seed=9)
    for train, validation in ((root / "train", unseen), (unseen, root / "train")):
        arguments = ["train-gates", heads[1], "--train", train, "--validation", validation]
        result = quee(*arguments, "--output", tmp_path / "out")
        assert result.exit_code == 2
        assert "train holds images that the model was made with (head training" in result.stderr


def test_an_existing_output_is_not_touched(built, root, tmp_path, quee):
    (tmp_path / "mine.txt").write_text("mine")
    result = quee("train-heads", built / "model", "--train", root / "train", "--output", tmp_path)
    assert result.exit_code == 2
    assert "holds files already" in result.stderr
