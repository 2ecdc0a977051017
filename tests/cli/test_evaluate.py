"""Tests of `quee evaluate`."""

import json
import shutil

import pytest
import torch
from PIL import Image
from transformers import AutoImageProcessor

from quee_hf import QuEEForImageClassification
from quee_hf.data import load_image_dataset


@pytest.fixture(scope="module")
def evaluation(root, built, tmp_path_factory):
    """Return what `quee evaluate` prints and writes, and the picture."""
    from typer.testing import CliRunner

    from quee_hf.cli.app import app

    folder = tmp_path_factory.mktemp("evaluation")
    arguments = ["evaluate", built / "model", "--data", root / "test", "--cost-lambda", "0,0.1,3", "--json"]
    arguments += ["--output", folder / "evaluation.json", "--picture", folder / "evaluation.png"]
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout), folder


def test_file_is_what_is_printed(evaluation):
    printed, folder = evaluation
    assert json.loads((folder / "evaluation.json").read_text()) == printed


def test_picture_is_one(evaluation):
    _, folder = evaluation
    with Image.open(folder / "evaluation.png") as picture:
        assert picture.width > picture.height > 300


def test_points_equal_the_model_run_image_by_image(root, built, evaluation):
    printed, _ = evaluation
    model = QuEEForImageClassification.from_pretrained(built / "model")
    processor = AutoImageProcessor.from_pretrained(built / "model", backend="pil")
    images = load_image_dataset(root / "test")
    items = [images[i] for i in range(len(images))]
    pixels = processor([item["image"] for item in items], return_tensors="pt")["pixel_values"]
    # The folders are sorted by name, the model's classes are not.
    labels = torch.tensor([model.config.label2id[images.class_names[item["label"]]] for item in items])
    assert [point["cost_lambda"] for point in printed["points"]] == [0, 0.1, 3]
    for point in printed["points"]:
        with torch.inference_mode():
            out = model(pixels, cost_lambda=point["cost_lambda"])
        assert point["accuracy"] == pytest.approx(float((out.logits.argmax(-1) == labels).double().mean()))
        assert point["cost"] == pytest.approx(float(out.cost.double().mean()), abs=1e-6)  # six decimals
        shares = torch.bincount(out.exit_index, minlength=3) / len(labels)
        assert point["exit_shares"] == pytest.approx(shares.tolist())
        assert point["predicted_error"] == pytest.approx(float(out.error_probability.mean()), abs=2e-6)
        assert point["actual_error"] == pytest.approx(1 - point["accuracy"])


def test_static_paths_equal_forced_ones(root, built, evaluation):
    printed, _ = evaluation
    assert [row["path"] for row in printed["uniform_paths"]] == [[8, 8, 8], [4, 4, 4]]
    assert [row["cost"] for row in printed["uniform_paths"]] == [1.0, 0.5]
    assert [row["exit_block"] for row in printed["exits"]] == [1, 2, 3]
    assert printed["exits"][-1] == printed["uniform_paths"][0]


def test_says_what_was_measured(root, evaluation):
    printed, _ = evaluation
    assert printed["data"]["num_images"] == 40
    assert len(printed["data"]["fingerprint"]) == 64
    assert set(printed["versions"]) == {"quee_hf", "torch", "transformers"}
    assert printed["cost_model"] == "bitops"
    assert len(printed["gates"]) == 2
    low, high = printed["area_under_curve"]["difference_interval"]
    assert low <= printed["area_under_curve"]["difference"] <= high


def test_limit_spreads_over_all_classes(root, built, quee):
    result = quee("evaluate", built / "model", "--data", root / "test", "--limit", 12, "--json")
    assert json.loads(result.stdout)["data"]["num_images"] == 12


def test_table_names_every_lambda(root, built, quee):
    result = quee(
        "evaluate", built / "model", "--data", root / "test", "--limit", 8, "--cost-lambda", "0.25,0.7"
    )
    assert result.exit_code == 0, result.output
    assert "0.25" in result.stdout
    assert "0.7" in result.stdout
    assert "Mean accuracy over budgets" in result.stdout


def test_writes_a_file_and_a_picture_without_being_asked(root, built, quee, tmp_path):
    quee("evaluate", built / "model", "--data", root / "test", "--cost-lambda", "0,0.1", "--limit", 5)
    assert {"evaluation.json", "evaluation.png"} <= {path.name for path in tmp_path.iterdir()}


def test_a_picture_of_no_kind_is_refused_before_any_work(root, built, quee, tmp_path):
    result = quee("evaluate", built / "model", "--data", root / "test", "--picture", tmp_path / "a.xyz")
    assert result.exit_code == 2
    assert "must end in one of .png, .svg, .pdf" in result.stderr


class TestRecord:
    def test_points_are_kept_and_shown(self, root, built, tmp_path, quee):
        model = shutil.copytree(built / "model", tmp_path / "model")
        result = quee("evaluate", model, "--data", root / "test", "--cost-lambda", "0.1", "--record")
        assert result.exit_code == 0, result.output
        test = json.loads((model / "config.json").read_text())["record"]["measured"]["test"]
        assert (test["data"], test["num_images"]) == ("test", 40)
        assert [point["cost_lambda"] for point in test["points"]] == [0.1]
        assert "40 images of test" in (model / "README.md").read_text()
        # The weights are as they were, and fit.
        QuEEForImageClassification.from_pretrained(model)

    def test_images_that_the_model_was_made_with_are_no_test(self, root, built, tmp_path, quee):
        model = shutil.copytree(built / "model", tmp_path / "model")
        before = (model / "config.json").read_bytes()
        for part, role in (("train", "head training"), ("validation", "gate training")):
            result = quee("evaluate", model, "--data", root / part, "--record")
            assert result.exit_code == 2
            assert f"{part} holds images that the model was made with" in result.stderr
            assert role in result.stderr
        assert (model / "config.json").read_bytes() == before

    def test_needs_a_directory(self, root, quee):
        result = quee("evaluate", "org/name", "--data", root / "test", "--record")
        assert result.exit_code == 2
        assert "--record writes to the model's directory" in result.stderr
