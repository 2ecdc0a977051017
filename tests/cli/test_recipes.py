"""Tests of `quee build --recipe`."""

import json
import shutil

import pytest
import yaml
from tests.builds import build_arguments

from quee_hf.cli.recipes import recipe_names


def without(arguments, *options):
    """Return a command line without some options and their values."""
    kept = list(arguments)
    for option in options:
        position = kept.index(option)
        del kept[position : position + 2]
    return kept


def test_names():
    assert recipe_names() == ["clip", "dinov2", "vit"]


@pytest.mark.parametrize("name", ["clip", "dinov2", "vit"])
def test_those_that_come_with_the_package_are_whole(name, quee, root, tmp_path):
    """They are made for 12 blocks, which is what the complaint is about, and the only one."""
    arguments = without(build_arguments(root, tmp_path / "run"), "--exits", "--levels")
    result = quee(*arguments, "--recipe", name)
    assert result.exit_code == 2
    assert "`exits`" in result.stderr or "exit" in result.stderr
    assert "12" in result.stderr


def test_that_of_a_build_gives_the_same_build(quee, built, root, tmp_path):
    output = shutil.copytree(built, tmp_path / "again")
    result = quee("build", "--recipe", built / "recipe.yaml", "--output", output, "--json")
    assert result.exit_code == 0, result.stderr
    assert all(stage["is_reused"] for stage in json.loads(result.stdout)["stages"])


def test_options_overrule_it(quee, built, tmp_path):
    output = shutil.copytree(built, tmp_path / "again")
    arguments = ["build", "--recipe", built / "recipe.yaml", "--output", output, "--json"]
    result = quee(*arguments, "--max-accuracy-drop", "0.5")
    assert result.exit_code == 0, result.stderr
    reused = [stage["is_reused"] for stage in json.loads(result.stdout)["stages"]]
    assert reused == [True] * 6 + [False]


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("exits: [", "cannot read"),
        ("[1, 2]", "must hold options"),
        ("exit: [1]", "has exit, which no option is called"),
        ("output: here", "has output, which belongs on the command line"),
    ],
)
def test_bad_files_are_refused(quee, tmp_path, content, complaint):
    path = tmp_path / "recipe.yaml"
    path.write_text(content)
    result = quee("build", "--recipe", path)
    assert result.exit_code == 2
    assert complaint in result.stderr


def test_unknown_names_are_refused(quee):
    result = quee("build", "--recipe", "resnet")
    assert "one of clip, dinov2, vit" in result.stderr


def test_mappings_become_pairs(quee, built, root, tmp_path):
    recipe = yaml.safe_load((built / "recipe.yaml").read_text())
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump({**recipe, "keep": {"1.fc2": 8}, "ptq_options": {"ridge": -1}}))
    result = quee("build", "--recipe", path, "--output", tmp_path / "run")
    assert result.exit_code == 2
    assert "`ridge` must be at least 0" in result.stderr
