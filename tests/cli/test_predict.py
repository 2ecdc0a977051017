"""Tests of `quee predict`."""

import json
import os
import subprocess
import sys

import pytest
from tests.cli.conftest import words

from quee_hf import QuEEForImageClassification


@pytest.fixture
def mixed(root, tmp_path):
    """Return a folder with two images, one of them deeper, a broken image and a text."""
    (tmp_path / "deeper").mkdir()
    for source, target in (("red/000.png", "a.png"), ("green/001.png", "deeper/b.PNG")):
        (tmp_path / target).write_bytes((root / "test" / source).read_bytes())
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8 no image")
    (tmp_path / "notes.txt").write_text("not an image either")
    return tmp_path


def predict(quee, *arguments):
    result = quee("predict", *arguments, "--json")
    return result, json.loads(result.stdout)


def test_equals_the_model(root, built, quee):
    model = QuEEForImageClassification.from_pretrained(built / "model")
    result, printed = predict(
        quee, built / "model", root / "test" / "red", "--cost-lambda", "0.05", "--top-k", 2
    )
    assert result.exit_code == 0
    assert len(printed["images"]) == 10
    assert printed["cost_lambda"] == 0.05
    for image in printed["images"]:
        scores = [prediction["score"] for prediction in image["predictions"]]
        assert len(scores) == 2
        assert scores == sorted(scores, reverse=True)
        assert image["exit_block"] == model.config.exit_blocks[len(image["path"]) - 1]
        assert 0 <= image["error_probability"] <= 1
    costs = [image["cost"] for image in printed["images"]]
    assert printed["mean_cost"] == pytest.approx(sum(costs) / len(costs))


def test_an_engine_gives_nearly_the_same(root, built, quee):
    arguments = (built / "model", root / "test" / "red", "--path", "8,8,8")
    exact, near = (
        predict(quee, *arguments, "--engine", engine)[1]["images"] for engine in ("torch", "openvino")
    )
    for expected, found in zip(exact, near, strict=True):
        assert found["path"] == expected["path"]
        score, exact_score = (one["predictions"][0]["score"] for one in (found, expected))
        assert score == pytest.approx(exact_score, abs=0.05)


def test_an_unknown_engine_is_refused(root, built, quee):
    result = quee("predict", built / "model", root / "test" / "red", "--engine", "cuda")
    assert result.exit_code == 2
    assert "`engine` must be one of" in words(result.stderr)


def test_a_path_can_be_forced(root, built, quee):
    model = QuEEForImageClassification.from_pretrained(built / "model")
    level = model.level_list[-1]
    first = f"{model.level_list[0]},{level}"
    result, printed = predict(quee, built / "model", root / "test" / "red", "--path", first)
    assert result.exit_code == 0
    assert {tuple(image["path"]) for image in printed["images"]} == {(model.level_list[0], level)}
    assert printed["path"] == [model.level_list[0], level]
    assert (
        f"path {first.replace(',', '-')}"
        in quee("predict", built / "model", root / "test" / "red", "--path", first).stdout
    )


@pytest.mark.parametrize("path", ["7,7", "8,x", ""])
def test_impossible_paths_are_refused(root, built, quee, path):
    result = quee("predict", built / "model", root / "test" / "red", "--path", path)
    assert result.exit_code == 2
    assert result.stderr.count("\n") >= 1


def test_batch_size_changes_nothing_but_rounding(root, built, quee):
    first, second = (
        predict(quee, built / "model", root / "test" / "red", "--cost-lambda", 0.05, "--batch-size", size)[1]
        for size in (3, 32)
    )
    for one, other in zip(first["images"], second["images"], strict=True):
        assert one["path"] == other["path"]
        # Sums of a few dozen float32 products in another order.
        assert one["predictions"][0]["score"] == pytest.approx(other["predictions"][0]["score"], abs=1e-4)


def test_infinite_lambda_is_the_cheapest_path(root, built, quee):
    _, printed = predict(quee, built / "model", root / "test" / "red" / "000.png", "--cost-lambda", "inf")
    assert printed["cost_lambda"] == "inf"
    assert printed["images"][0]["path"] == [8]


def test_target_cost_takes_an_operating_point(root, built, quee):
    points = QuEEForImageClassification.from_pretrained(built / "model").config.operating_points
    _, printed = predict(quee, built / "model", root / "test" / "red" / "000.png", "--target-cost", 0.7)
    chosen = next(point for point in points if point["cost_lambda"] == printed["cost_lambda"])
    assert chosen["cost"] <= 0.7


def test_unreadable_images_are_named_and_counted(mixed, built, quee):
    result, printed = predict(quee, built / "model", mixed, mixed / "missing.png")
    assert result.exit_code == 1
    assert [image["image"] for image in printed["images"]] == [
        str(mixed / "a.png"),
        str(mixed / "deeper/b.PNG"),
    ]
    assert {bad["image"] for bad in printed["unreadable"]} == {
        str(mixed / "broken.jpg"),
        str(mixed / "missing.png"),
    }
    said = words(result.stderr)
    assert f"Cannot read image {mixed / 'broken.jpg'}" in said
    assert "2 of 4 images could not be read." in said


def test_skip_bad_forgives(mixed, built, quee):
    result, printed = predict(quee, built / "model", mixed, "--skip-bad")
    assert result.exit_code == 0
    assert len(printed["unreadable"]) == 1
    assert "1 of 3 images could not be read." in words(result.stderr)


def test_table_shows_label_route_and_cost(root, built, quee):
    result = quee("predict", built / "model", root / "test" / "red" / "000.png", "--cost-lambda", "0")
    assert result.exit_code == 0, result.output
    assert any(color in result.stdout for color in ("red", "green", "blue", "grey"))
    assert "mean cost" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--cost-lambda", "-1"], "--cost-lambda must be at least 0, got -1.0."),
        (["--cost-lambda", "nan"], "--cost-lambda must be at least 0, got nan."),
        (["--target-cost", "2"], "--target-cost must be from 0 to 1, got 2.0."),
        (
            ["--cost-lambda", "1", "--target-cost", "1"],
            "Give one of --cost-lambda, --target-cost, --target-latency-ms and --path.",
        ),
        (["--target-cost", "0.01"], "is below the cheapest operating point"),
        (["--device", "toaster"], "'toaster' cannot be used here"),
    ],
)
def test_wrong_options_are_refused(root, built, quee, arguments, message):
    result = quee("predict", built / "model", root / "test" / "red" / "000.png", *arguments)
    assert result.exit_code == 2
    assert message in words(result.stderr)


def test_directory_without_images_is_refused(built, tmp_path, quee):
    result = quee("predict", built / "model", tmp_path)
    assert result.exit_code == 2
    assert f"There are no images in {tmp_path}." in words(result.stderr)


def test_as_a_command(root, built):
    """In an interpreter of its own, stdout holds the JSON and nothing else."""
    code = "from quee_hf.cli import main; main()"
    finished = subprocess.run(
        [sys.executable, "-c", code, "predict", built / "model", root / "test" / "red" / "000.png", "--json"],
        capture_output=True,
        text=True,
        check=True,
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
            "OMP_NUM_THREADS": "1",
        },
    )
    assert len(json.loads(finished.stdout)["images"]) == 1
