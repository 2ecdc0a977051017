"""Tests of `quee noise`."""

import json

import pytest
from PIL import Image
from tests.cli.conftest import words

from quee_hf import QuEEForImageClassification
from quee_hf.diagnostics.noise_profile import measure_noise


@pytest.fixture
def arguments(root, built, tmp_path):
    return ["noise", built / "model", "--reference", root / "model", "--data", root / "test",
            "--output", tmp_path / "out"]  # fmt: skip


def test_help_has_an_example(quee):
    assert "quee noise quantized --reference google/vit-base" in words(quee("noise", "--help").stdout)


def test_writes_what_it_measured(root, built, tmp_path, quee, arguments):
    from transformers import AutoImageProcessor

    from quee_hf.data import load_image_dataset

    result = quee(*arguments, "--num-images", 12, "--level", 4, "--json")
    assert result.exit_code == 0, result.output
    printed = json.loads(result.stdout)
    out = tmp_path / "out"
    assert {file.name for file in out.iterdir()} == {"noise.json", "noise.md", "noise.png"}
    assert json.loads((out / "noise.json").read_text()) == printed
    model, reference = (
        QuEEForImageClassification.from_pretrained(folder)
        for folder in (built / "model", built / "stages" / "2-heads")
    )
    processor = AutoImageProcessor.from_pretrained(built / "model", backend="pil")
    images = load_image_dataset(root / "test").spread(12).with_processor(processor)
    expected = measure_noise(model, reference, images, level=4)
    assert {name: printed[name] for name in expected} == expected
    assert (printed["method"], printed["exit_blocks"]) == ("repq", [1, 2, 3])
    assert (printed["largest_jump"], printed["least_inr"]) == (2.0, 1.0)
    assert len([line for line in (out / "noise.md").read_text().splitlines() if line.startswith("|")]) == 5
    with Image.open(out / "noise.png") as picture:
        assert picture.width > picture.height > 600


def test_a_quee_model_may_be_the_reference(built, quee, arguments):
    first = json.loads(quee(*arguments, "--json").stdout)
    arguments[3] = built / "stages" / "2-heads"
    second = json.loads(quee(*arguments, "--json").stdout)
    assert first["blocks"] == second["blocks"]
    assert (first["level"], first["num_images"]) == (8, 40)


def test_table_names_every_block_and_exit(tmp_path, quee, arguments):
    result = quee(*arguments)
    assert result.exit_code == 0, result.output
    rows = {line.split()[0]: line for line in result.stdout.splitlines() if line.split()}
    assert all("yes" in rows[block] for block in "123")
    assert "No exit is pathological." in result.stdout
    assert f"Wrote {tmp_path / 'out'}: noise.json, noise.md, noise.png" in result.stdout


def test_limits_decide_and_the_last_exit_stays(tmp_path, quee, arguments):
    result = quee(*arguments, "--min-inr", 1e9, "--max-jump", "inf")
    assert result.exit_code == 0, result.output
    assert "Exits to leave out, after blocks: 1 (inr), 2 (inr)" in result.stdout
    written = json.loads((tmp_path / "out" / "noise.json").read_text())
    assert written["pathological_exits"] == [1, 2]
    assert written["objections"] == {"1": ["inr"], "2": ["inr"], "3": ["inr"]}
    assert (written["largest_jump"], written["least_inr"]) == (None, 1e9)
    assert "Exits to leave out" in (tmp_path / "out" / "noise.md").read_text()


def test_earlier_results_are_replaced_and_other_files_stay(tmp_path, quee, arguments):
    out = tmp_path / "out"
    out.mkdir()
    (out / "notes.txt").write_text("mine")
    (out / "noise.json").write_text("old")
    assert quee(*arguments).exit_code == 0
    assert (out / "notes.txt").read_text() == "mine"
    assert json.loads((out / "noise.json").read_text())["blocks"]
    assert len(list(out.iterdir())) == 4


def test_float_weights_of_its_own_are_a_reference(root, tmp_path, quee):
    quantized = tmp_path / "quantized"
    made = quee("quantize", root / "model", "--images", root / "train", "--output", quantized,
                "--levels", "fp32,8", "--method", "min_max", "--calibration-images", 8)  # fmt: skip
    assert made.exit_code == 0, made.output
    result = quee("noise", quantized, "--data", root / "test", "--output", tmp_path / "out", "--json")
    assert result.exit_code == 0, result.output
    printed = json.loads(result.stdout)
    assert (printed["level"], printed["reference"]) == (8, str(quantized))
    assert printed["pathological_exits"] == []
    assert printed["exit_blocks"] == [3]


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--reference", None, "has no float weights to compare with: name a model by --reference."),
        ("--reference", "{built}/model", "The reference has no float weights: its levels are [8, 4]."),
        ("--reference", "/no/such/model", "/no/such/model does not exist."),
        ("--level", "6", "`level` must be one of the model's levels [8, 4], got 6."),
        ("--level", "9", "A level is a bit-width 2 to 8, 'bf16' or 'fp32', got 9."),
        ("--max-jump", "0.5", "'--max-jump': Input should be greater than or equal to 1."),
        ("--min-inr", "nan", "'--min-inr': Input should be greater than or equal to 0."),
        ("--min-inr", "-1", "'--min-inr': Input should be greater than or equal to 0."),
        ("--num-images", "0", "'--num-images': Input should be greater than or equal to 1."),
        ("--output", "{root}/model/config.json", "is not a directory."),
    ],
)
def test_wrong_options_are_one_line_before_any_work(
    root, built, tmp_path, quee, arguments, option, value, message
):
    arguments += ["--data", tmp_path / "no-images"]  # would be complained of if it were read
    if value is None:
        del arguments[2:4]
    else:
        arguments += [option, value.format(root=root, built=built)]
    result = quee(*arguments)
    assert result.exit_code == 2, result.output
    assert message in " ".join(result.stderr.split())
    assert result.stderr.splitlines()[-1].startswith("quee: error: ")
    assert not (tmp_path / "out").exists()


def test_float_model_is_refused(root, built, tmp_path, quee, arguments):
    arguments[1] = built / "stages" / "2-heads"
    result = quee(*arguments)
    assert result.exit_code == 2
    assert "The model is not quantized: there is no noise to measure." in result.stderr
