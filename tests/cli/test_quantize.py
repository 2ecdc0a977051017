"""Tests of `quee quantize`."""

import json

import pytest
from PIL import Image
from tests.cli.conftest import words

from quee_hf import QuEEForImageClassification


@pytest.fixture
def arguments(root, tmp_path):
    """Return a command line that is quick."""
    return ["quantize", root / "model", "--images", root / "train", "--output", tmp_path / "out",
            "--levels", "8,4", "--method", "min_max", "--calibration-images", 8]  # fmt: skip


def test_help_has_an_example_and_the_methods_that_there_are(quee):
    from quee_hf.ptq import PTQ_METHODS

    result = quee("quantize", "--help")
    assert result.exit_code == 0
    assert "quee quantize google/vit-base-patch16-224 --images photos/train" in words(result.stdout)
    assert all(method in result.stdout for method in PTQ_METHODS)


def test_model_can_be_used_by_predict(root, tmp_path, quee, arguments):
    result = quee(*arguments)
    assert result.exit_code == 0, result.output
    assert {file.name for file in (tmp_path / "out").iterdir()} == {
        "config.json", "model.safetensors", "preprocessor_config.json", "README.md",
        "configuration_quee.py", "modeling_quee.py",
    }  # fmt: skip
    predicted = quee("predict", tmp_path / "out", root / "test" / "red" / "000.png", "--json")
    (image,) = json.loads(predicted.stdout)["images"]
    assert image["predictions"][0]["label"] == "red"
    assert image["path"] == [8]


def test_table_has_a_row_for_each_level(root, tmp_path, quee, arguments):
    result = quee(*arguments, "--data", root / "validation", "--limit", 40)
    assert result.exit_code == 0, result.output
    rows = {line.split()[0]: line for line in result.stdout.splitlines() if line.split()}
    assert rows["8"].count("dB") == rows["4"].count("dB") == 2
    assert "yes" in rows["8"]
    assert "%" in rows["float"]
    assert "min_max, calibrated on 8 images; accuracy on 40 images" in result.stdout
    assert f"quee predict {tmp_path / 'out'} IMAGE.jpg" in result.stdout
    assert f"quee build --model {root / 'model'} --exits 1,2 --levels 8,4 --train" in result.stdout


def test_without_labelled_images_there_is_no_accuracy(quee, arguments):
    result = quee(*arguments)
    assert "%" not in result.stdout
    assert "accuracy on" not in result.stdout


def test_json_is_all_there_is_on_stdout_and_what_is_written(root, tmp_path, quee, arguments):
    result = quee(*arguments, "--data", root / "test", "--report", "--json")
    assert result.exit_code == 0, result.output
    printed = json.loads(result.stdout)
    assert printed.pop("output") == str(tmp_path / "out")
    assert json.loads((tmp_path / "out" / "quantization.json").read_text()) == printed
    with Image.open(tmp_path / "out" / "quantization.png") as picture:
        assert picture.width > picture.height > 300
    assert "Reading and checking" in result.stderr


def test_levels_are_chosen_and_the_others_shown(root, tmp_path, quee, arguments):
    arguments[arguments.index("--levels") + 1] = "auto"
    result = quee(*arguments, "--data", root / "validation", "--keep-within", 0.05, "--max-drop", 0)
    assert result.exit_code == 0, result.output
    levels = QuEEForImageClassification.from_pretrained(tmp_path / "out").config.level_list
    assert f"Chosen by accuracy: {','.join(map(str, levels))}" in result.stdout
    for bits in (8, 7, 6, 5, 4, 3):
        (line,) = (line for line in result.stdout.splitlines() if line.split()[:1] == [str(bits)])
        assert ("yes" if bits in levels else "no") in line.split()


def test_every_option_reaches_the_model(root, tmp_path, quee, arguments):
    arguments[arguments.index("--method") + 1] = "repq"
    arguments += ["--option", "ridge=0.01", "--option", "log=true", "--smoothing", "0.5", "--seed", 3]
    arguments += ["--weight-sharing", "nested", "--keep", "3.fc2=8", "--keep", "*.scores=fp32"]
    result = quee(*arguments)
    assert result.exit_code == 0, result.output
    scheme = QuEEForImageClassification.from_pretrained(tmp_path / "out").config.scheme
    assert (scheme.options["ridge"], scheme.options["log"]) == (0.01, True)
    assert scheme.options["smoothing"]["1.qkv"] == 0.5
    assert scheme.weight_sharing == "nested"
    assert scheme.kept == {"3.fc2": 8, "*.scores": "fp32"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--levels", "8,9"], "A level is a bit-width 2 to 8, 'bf16' or 'fp32', got 9."),
        (["--levels", "auto"], "`levels` 'auto' needs labelled images"),
        (["--method", "magic"], "`method` must be one of"),
        (["--option", "ridge"], "'ridge' is not of the form ridge=0.01"),
        (["--option", "ridge=1"], "'min_max' has no option ['ridge']"),
        (["--keep", "9.fc2=8"], "There are 3 blocks, but an exception names '9.fc2'."),
        (["--keep", "1.fc2=8", "--keep", "1.fc2=7"], "'1.fc2=7' names something twice"),
        (["--keep", "1.fc3=8"], "the product one of"),
        (["--smoothing", "hard"], "`smoothing` must be None, 'search' or a number from 0 to 1, got 'hard'."),
        (["--data", "/no/such/images"], "`data`: /no/such/images does not exist."),
        (["--max-drop", "2", "--data", "/no/such/images"], "`max_drop` must be from 0 to 1, got 2.0."),
        (["--class-embeddings", "x"], "`class_embeddings` is for CLIP models"),
        (["--device", "toaster"], "`device`: 'toaster' cannot be used here."),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_options_are_one_line_and_nothing_is_written(tmp_path, quee, arguments, options, message):
    result = quee(*arguments, *options)
    assert result.exit_code == 2, result.output
    last_line = result.stderr.splitlines()[-1]
    assert last_line.startswith("quee: error: ")
    assert message in last_line
    assert not (tmp_path / "out").exists()


def test_quantized_model_is_refused(built, quee, arguments):
    result = quee("quantize", built / "model", *arguments[2:])
    assert result.exit_code == 2
    assert "is quantized already; start from its float model." in result.stderr


def test_float_stage_of_a_build_can_be_quantized(built, tmp_path, quee, arguments):
    result = quee("quantize", built / "stages" / "2-heads", *arguments[2:])
    assert result.exit_code == 0, result.output
    model = QuEEForImageClassification.from_pretrained(tmp_path / "out")
    assert (list(model.config.exit_blocks), model.config.level_list) == ([1, 2, 3], [8, 4])
    assert "path=[4, 4, 4]" in result.stdout
    assert "quee build" not in result.stdout


def test_interrupted_run_says_that_nothing_was_written(tmp_path, quee, arguments, monkeypatch):
    def interrupt(*_args, **_kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("quee_hf.build.quantization.calibrate", interrupt)
    result = quee(*arguments)
    assert result.exit_code == 130
    assert f"Nothing was written to {tmp_path / 'out'}." in result.stderr
    assert not (tmp_path / "out").exists()


def test_images_in_bad_files_can_be_left_out(root, tmp_path, quee, arguments):
    folder = tmp_path / "images"
    for name in ("red", "green"):
        (folder / name).mkdir(parents=True)
        Image.new("RGB", (32, 32), name).save(folder / name / "a.png")
    (folder / "red" / "bad.png").write_bytes(b"no image")
    arguments[arguments.index("--images") + 1] = folder
    result = quee(*arguments)
    assert result.exit_code == 2
    assert "--skip-bad" in result.stderr
    result = quee(*arguments, "--skip-bad")
    assert result.exit_code == 0, result.output
    assert f"Left out: Cannot read image {folder / 'red' / 'bad.png'}" in result.stderr
