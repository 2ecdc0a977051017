"""Tests of `quee drift`, and of `quee predict --hold`."""

import json
import shutil

import pytest
from PIL import Image
from tests.builds import CLASSES
from tests.cli.conftest import words

from quee_hf import QuEEForImageClassification


def test_images_like_those_of_validation_are_no_drift(built, root, quee):
    result = quee("drift", built / "model", root / "test", "--window", 20, "--shadow-share", 1, "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert (found["num_images"], found["num_windows"], found["num_drifted"]) == (40, 2, 0)
    assert found["agreement"]["num_images"] == 20
    assert [set(each["shifts"]) for each in found["windows"]] == [{"exit", "error", "confidence"}] * 2
    said = words(quee("drift", built / "model", root / "test", "--window", 20, "--shadow-share", 1).stdout)
    assert "0 of 2 windows differ from validation" in said
    assert "The whole network agrees on" in said


def test_other_images_are(built, quee, tmp_path):
    for number in range(30):
        Image.new("RGB", (32, 32), (250, 250, 10 * (number % 3))).save(tmp_path / f"{number}.png")
    result = quee("drift", built / "model", tmp_path, "--window", 30)
    assert result.exit_code == 0, result.output
    assert "1 of 1 windows differ from validation" in words(result.stdout)


def test_too_few_images_are_said_to_be(built, root, quee):
    result = quee("drift", built / "model", root / "test")
    assert result.exit_code == 0, result.output
    assert "40 images are too few: a window has 500" in words(result.stdout)


def test_a_reference_is_kept_where_there_is_none(built, root, quee, tmp_path):
    folder = shutil.copytree(built / "model", tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    expected = config["record"].pop("drift_reference")
    (folder / "config.json").write_text(json.dumps(config))
    arguments = ("drift", folder, root / "test", "--window", 20)
    result = quee(*arguments)
    assert result.exit_code != 0
    assert "The model has no drift reference" in words(result.stderr)
    result = quee(*arguments, "--reference", root / "test", "--json")
    assert result.exit_code == 0, result.output
    kept = QuEEForImageClassification.from_pretrained(folder).config.record["drift_reference"]
    assert (kept["num_images"], set(kept)) == (40, set(expected))
    result = quee(*arguments, "--reference", root / "train")
    assert result.exit_code != 0
    assert "images that the model was made with" in words(result.stderr)


@pytest.mark.parametrize("rate", [0, 1, 3, "nan"])
def test_a_false_alarm_rate_is_checked_before_anything_is_read(quee, rate):
    result = quee("drift", "nowhere/model", "nothing.png", "--false-alarm-rate", rate)
    assert result.exit_code == 2
    assert f"--false-alarm-rate must be above 0 and below 1, got {float(rate)}" in words(result.stderr)


def test_a_reference_needs_a_directory_to_be_kept_in(root, quee):
    result = quee("drift", "some/model", root / "test", "--reference", root / "test")
    assert result.exit_code == 2
    assert "--reference is kept in the model's directory, which some/model is not" in words(result.stderr)
    assert "--output" not in result.stderr


def test_the_cheapest_lambda_fits_json(built, root, quee):
    result = quee("drift", built / "model", root / "test", "--cost-lambda", "inf", "--window", 30, "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert (found["cost_lambda"], found["num_windows"], found["num_unanswered"]) == ("inf", 1, 0)
    said = words(quee("drift", built / "model", root / "test", "--window", 30).stdout)
    assert "The last 10 images fill no window and were left out" in said


def test_files_that_are_all_unreadable_are_not_called_too_few(built, quee):
    result = quee("drift", built / "model", "nowhere.png")
    assert result.exit_code == 1
    assert "too few" not in words(result.stdout)
    assert "Cannot read image nowhere.png" in words(result.stderr)


@pytest.mark.parametrize("lambda_", [None, 0.2])
def test_hold_moves_lambda(built, root, quee, lambda_):
    points = QuEEForImageClassification.from_pretrained(built / "model").config.operating_points
    costs = [point["cost"] for point in points]
    target = round((min(costs) + max(costs)) / 2, 3)
    files = [root / "test" / name for name in CLASSES]
    arguments = ("predict", built / "model", *files, "--target-cost", target, "--hold", "--batch-size", 4)
    if lambda_ is not None:
        result = quee(*arguments, "--cost-lambda", lambda_)
        assert "Give one of --cost-lambda" in words(result.stderr)
        return
    result = quee(*arguments, "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found["budget"]["num_images"] == 40
    assert found["budget"]["mean"] == pytest.approx(found["mean_cost"])
    said = words(quee(*arguments).stdout)
    assert f"budget {target:g} cost, mean {found['mean_cost']:.4g} (settling), last lambda" in said


def test_hold_needs_a_target(built, root, quee):
    result = quee("predict", built / "model", root / "test", "--hold")
    assert result.exit_code == 2
    assert "--hold needs --target-cost or --target-latency-ms." in words(result.stderr)
