"""Tests of `quee profile`; what it measures is tested elsewhere, and times are not looked at."""

import json
import shutil

import pytest
from tests.cli.conftest import words

from quee_hf import QuEEForImageClassification

QUICK = ("--batch-sizes", "1,2", "--seconds", "0.01", "--threads", "1")


@pytest.fixture
def model(built, tmp_path):
    return shutil.copytree(built / "model", tmp_path / "model")


def test_times_are_kept_with_the_model_and_nothing_else_changes(model, quee):
    before = {path.name: path.read_bytes() for path in model.iterdir()}
    old = json.loads(before["config.json"])
    result = quee("profile", model, *QUICK, "--json")
    assert result.exit_code == 0, result.output
    printed, new = json.loads(result.stdout), json.loads((model / "config.json").read_text())
    assert printed["profile"] == new["record"].pop("profile")
    assert printed["cost_table"] == new.pop("cost_table")
    assert printed["profile"]["batch_sizes"] == [1, 2]
    assert printed["profile"]["batch_size"] == 2
    old.pop("cost_table")
    assert new == old
    changed = {path.name for path in model.iterdir() if path.read_bytes() != before[path.name]}
    assert changed == {"config.json", "README.md"}
    assert "## Time" in (model / "README.md").read_text()
    QuEEForImageClassification.from_pretrained(model)


def test_tables_name_every_part(model, quee):
    result = quee("profile", model, *QUICK, "--batch-size", "1", "--engine", "onnxruntime")
    assert result.exit_code == 0, result.output
    said = words(result.stdout)
    for part in (
        "embedding",
        "blocks 1 to 1",
        "exit after block 3",
        "decision after block 2",
        "Costs: ms at batch 1",
    ):
        assert part in said
    assert "engine onnxruntime, 1 thread" in said
    assert "To route by these times: --data VALIDATION" in said
    shown = words(quee("inspect", model).stdout)
    assert "engine onnxruntime, 1 thread" in shown
    assert len(json.loads(quee("inspect", model, "--json").stdout)["times"]) == 4


class TestData:
    @pytest.fixture
    def measured(self, model, root, quee):
        result = quee("profile", model, *QUICK, "--data", root / "test", "--limit", 20, "--json")
        assert result.exit_code == 0, result.output
        return json.loads(result.stdout)

    def test_the_model_routes_by_time(self, model, measured):
        config = QuEEForImageClassification.from_pretrained(model).config
        assert measured["cost_model"] == config.cost_model == "latency"
        assert measured["operating_points"] == config.operating_points
        for point in config.operating_points:
            assert point["num_images"] == 20
            assert point["latency_ms"] > 0
        roles = {role["role"]: role for role in config.record["roles"]}
        assert (roles["operating points"]["source"], roles["operating points"]["num_images"]) == ("test", 20)
        assert "head training" in roles
        card = (model / "README.md").read_text()
        assert "mean ms" in card
        assert "`latency`" in card

    def test_predict_takes_a_limit_in_milliseconds(self, model, measured, root, quee):
        image = root / "test" / "red" / "000.png"
        points = measured["operating_points"]
        limit = max(point["latency_ms"] for point in points)
        result = quee("predict", model, image, "--target-latency-ms", limit, "--json")
        assert result.exit_code == 0, result.output
        best = max(point["accuracy"] for point in points)
        chosen = json.loads(result.stdout)["cost_lambda"]
        assert next(point["accuracy"] for point in points if point["cost_lambda"] == chosen) == best
        result = quee("predict", model, image, "--target-latency-ms", "0")
        assert result.exit_code == 2
        assert "is below the cheapest operating point" in words(result.stderr)

    def test_measured_again_the_points_go(self, model, measured, quee):
        result = quee("profile", model, *QUICK)
        assert "measure them with --data" in words(result.stdout)
        config = QuEEForImageClassification.from_pretrained(model).config
        assert (config.cost_model, config.operating_points) == ("latency", None)

    def test_images_that_the_model_was_made_with_are_refused_before_any_work(self, model, root, quee):
        before = (model / "config.json").read_bytes()
        result = quee("profile", model, *QUICK, "--data", root / "train")
        assert result.exit_code == 2
        assert "holds images that the model was made with" in result.stderr
        assert (model / "config.json").read_bytes() == before


def test_another_directory_gets_the_whole_model(built, tmp_path, quee):
    before = (built / "model" / "config.json").read_bytes()
    result = quee("profile", built / "model", *QUICK, "--output", tmp_path / "timed")
    assert result.exit_code == 0, result.output
    assert (built / "model" / "config.json").read_bytes() == before
    assert QuEEForImageClassification.from_pretrained(tmp_path / "timed").config.profile is not None
    assert (tmp_path / "timed" / "preprocessor_config.json").is_file()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--batch-sizes", "0"], "`batch_sizes` must be a list of whole numbers of at least 1"),
        (["--batch-sizes", "a"], "is not a list of whole numbers"),
        (["--batch-size", "3"], "must be one of"),
        (["--engine", "abacus"], "`engine` must be one of"),
        (["--seconds", "0"], "must be above 0"),
    ],
)
def test_wrong_options_are_refused(built, quee, arguments, message):
    result = quee("profile", built / "model", *arguments)
    assert result.exit_code == 2
    assert message in words(result.stderr)


def test_a_model_on_the_hub_needs_an_output(quee):
    result = quee("profile", "org/name")
    assert result.exit_code == 2
    assert "give --output" in words(result.stderr)


def test_a_limit_in_milliseconds_needs_times(root, built, quee):
    image = root / "test" / "red" / "000.png"
    result = quee("predict", built / "model", image, "--target-latency-ms", "5")
    assert result.exit_code == 2
    assert "needs operating points with measured times; run `quee profile" in words(result.stderr)
    result = quee("predict", built / "model", image, "--target-latency-ms", "-1")
    assert "--target-latency-ms must be at least 0, got -1.0." in words(result.stderr)
