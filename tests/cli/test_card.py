"""Tests of `quee card`."""

import json
import shutil

import pytest


@pytest.fixture
def model(built, tmp_path):
    return shutil.copytree(built / "model", tmp_path / "model")


def test_writes_what_saving_writes(model, quee):
    before = {path.name: path.read_bytes() for path in model.iterdir()}
    (model / "README.md").unlink()
    result = quee("card", model)
    assert result.exit_code == 0, result.output
    assert {path.name: path.read_bytes() for path in model.iterdir()} == before


def test_facts_are_kept(model, quee):
    assert quee("card", model, "--license", "mit", "--base-model", "org/vit").exit_code == 0
    assert "license: mit" in (model / "README.md").read_text()
    record = json.loads((model / "config.json").read_text())["record"]
    assert (record["license"], record["base_model"]) == ("mit", "org/vit")
    assert record["measured"]["gates"]
    assert quee("inspect", model).exit_code == 0  # the config can still be read


def test_show_writes_nothing(model, quee):
    before = (model / "README.md").read_bytes()
    result = quee("card", model, "--repo", "org/mine", "--show")
    assert 'model="org/mine"' in result.stdout
    assert (model / "README.md").read_bytes() == before


def test_somebodys_card_is_left_alone(model, quee):
    (model / "README.md").write_text("# Mine")
    result = quee("card", model)
    assert result.exit_code == 2
    assert "was not written by quee_hf" in result.stderr
    assert (model / "README.md").read_text() == "# Mine"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--license", "Apache 2"], "'Apache 2' is not how the Hub spells a licence"),
        (["--license", ""], "'' is not how the Hub spells a licence"),
        (["--base-model", "a b"], "'a b' is no name of a repository"),
        (["--repo", "a/b/c"], "'a/b/c' is no name of a repository"),
    ],
)
def test_what_the_hub_would_not_understand_is_refused(model, quee, arguments, message):
    before = (model / "config.json").read_bytes()
    result = quee("card", model, *arguments)
    assert result.exit_code == 2
    assert message in result.stderr
    assert (model / "config.json").read_bytes() == before


def test_json(model, quee):
    found = json.loads(quee("card", model, "--json").stdout)
    assert found["card"] == (model / "README.md").read_text()


def test_the_build_records_what_it_did(built):
    card = (built / "model" / "README.md").read_text()
    assert "## Which images played which role" in card
    assert "## Gates" in card
    assert str(built.parent) not in card
    assert str(built.parent) not in (built / "model" / "config.json").read_text()


def test_no_model(quee, tmp_path):
    result = quee("card", tmp_path / "nothing")
    assert (result.exit_code, "does not exist" in result.stderr) == (2, True)
