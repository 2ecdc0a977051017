"""Tests of the command as a whole: help, version, one-line errors, light imports."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.builds import build_arguments, write_images
from tests.cli.conftest import words

import quee_hf


@pytest.mark.parametrize("verb", [[], ["build"], ["evaluate"], ["predict"]])
def test_help_has_an_example(quee, verb):
    result = quee(*verb, "--help")
    assert result.exit_code == 0
    assert "Example" in result.stdout
    assert f"quee {' '.join(verb) or 'build'} " in words(result.stdout)


def test_without_a_verb_help_is_shown(quee):
    result = quee()
    assert result.exit_code == 2
    assert "Usage" in result.output
    assert "error" not in result.stderr


def test_version(quee):
    result = quee("--version")
    assert result.exit_code == 0
    assert result.stdout.startswith("quee ")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["bild"], "No such command 'bild'. Did you mean 'build'?"),
        (["predict"], "Missing argument 'model'. Try 'quee predict --help'."),
        (["predict", "nowhere", "a.png"], "nowhere does not exist."),
        (["build", "--exit", "1"], "No such option"),
        (["evaluate", "nowhere", "--data", "x", "--cost-lambda", "a"], "'a' is not a list of numbers"),
        (["evaluate", "nowhere", "--data", "x", "--match-labels", "luck"], "'luck' is not one of"),
    ],
)
def test_wrong_usage_is_one_line_on_stderr(quee, arguments, message):
    result = quee(*arguments)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr.startswith("quee: error: ")
    assert result.stderr.count("\n") == 1
    assert message in result.stderr


def test_failure_has_another_code(quee, monkeypatch):
    monkeypatch.setattr("quee_hf.cli.predict.expand", lambda _: 1 / 0)
    result = quee("predict", "model", "a.png")
    assert result.exit_code == 1
    assert result.stderr == "quee: error: ZeroDivisionError: division by zero (--debug shows where)\n"


def test_debug_shows_the_traceback(quee, monkeypatch):
    monkeypatch.setattr("quee_hf.cli.predict.expand", lambda _: 1 / 0)
    result = quee("predict", "model", "a.png", "--debug")
    assert result.exit_code == 1
    assert "Traceback" in result.stderr


def test_interrupted_build_says_how_to_go_on(root, tmp_path, quee, monkeypatch):
    def interrupt(*_args, **_kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("quee_hf.build.build", interrupt)
    result = quee(*build_arguments(root, tmp_path / "run"))
    assert result.exit_code == 130
    assert "The same command continues from the last finished stage." in result.stderr


def test_modules_of_the_command_import_nothing_heavy():
    """Without what `import quee_hf` itself brings."""
    source = Path(quee_hf.__file__).parent
    code = (
        "import sys, types; package = types.ModuleType('quee_hf'); package.__path__ = [sys.argv.pop()]\n"
        "sys.modules['quee_hf'] = package\n"
        "from quee_hf.cli.app import app\n"
        "try: app(['build', '--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'transformers', 'numpy', 'sklearn', 'matplotlib', 'datasets'} & set(sys.modules)\n"
        "sys.exit(repr(heavy) if heavy else 0)\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    finished = subprocess.run(
        [sys.executable, "-c", code, source], capture_output=True, text=True, env=environment
    )
    assert finished.returncode == 0, finished.stderr


class TestWrongBuilds:
    """Whatever is wrong is said in one line, before any stage runs."""

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"model": "/no/such/model"}, "`model`: /no/such/model does not exist."),
            ({"train": "/no/such/images"}, "`train`: /no/such/images does not exist."),
            ({"validation": "/no/such.parquet"}, "`validation`: /no/such.parquet does not exist."),
            ({"exits": "1,7"}, "`exits` must be blocks 1 to 3"),
            ({"exits": "0,1"}, "`exits` must be blocks 1 to 3"),
            ({"exits": "3"}, "`exits` must be at least one block before the last and the last, 3"),
            ({"exits": "a"}, "'a' is not a list of whole numbers such as 4,6,8"),
            ({"levels": "4,8"}, "`levels` must go from most to least exact without repeats, got [4, 8]."),
            ({"levels": "8,9"}, "A level is a bit-width 2 to 8, 'bf16' or 'fp32', got 9."),
            ({"levels": "8,fp8"}, "A level is a bit-width 2 to 8, 'bf16' or 'fp32', got 'fp8'."),
            ({"ptq": "magic"}, "`ptq` must be one of"),
            (
                {"max_paths": 2},
                "`max_paths` must be at least the number of exits, 3, and at most 10000, got 2.",
            ),
            ({"gate_fraction": 1}, "`gate_fraction` must be between 0 and 1, got 1.0."),
            ({"gate_fraction": 0.999}, "too few to divide into"),
            ({"max_accuracy_drop": -1}, "`max_accuracy_drop` must be from 0 to 1, got -1.0."),
            ({"head_epochs": 0}, "`head_epochs` must be at least 1, got 0."),
            ({"num_clusters": 5}, "`num_clusters` has a meaning with `gate_targets` 'cluster' only."),
            (
                {"num_clusters": 99, "gate_targets": "cluster"},
                "`num_clusters` is 99, but there are 34 images.",
            ),
            ({"class_embeddings": "x"}, "`class_embeddings` is for CLIP models"),
            ({"logit_scale": 1}, "`logit_scale` is for CLIP models"),
            ({"device": "toaster"}, "`device`: 'toaster' cannot be used here."),
        ],
        ids=lambda value: " ".join(f"{k}={v}" for k, v in value.items()) if isinstance(value, dict) else "",
    )
    def test_option(self, root, tmp_path, quee, options, message):
        result = quee(*build_arguments(root, tmp_path / "run", **options))
        self.check(result, message, tmp_path / "run")

    @staticmethod
    def check(result, message, output):
        assert result.exit_code == 2, result.output
        last_line = result.stderr.splitlines()[-1]
        assert last_line.startswith("quee: error: ")
        assert message in last_line
        assert not (output / "stages" / "1-convert").exists()

    def test_output_is_a_file(self, root, tmp_path, quee):
        (tmp_path / "file").write_text("")
        result = quee(*build_arguments(root, tmp_path / "file"))
        self.check(result, "is a file; name a directory.", tmp_path / "run")

    def test_output_holds_other_files(self, root, tmp_path, quee):
        (tmp_path / "photo.jpg").write_text("")
        result = quee(*build_arguments(root, tmp_path))
        self.check(result, "holds other files and no recipe.yaml", tmp_path)

    def test_classes_of_the_data_differ(self, root, tmp_path, quee):
        data = write_images(tmp_path / "data", 60, 5, ("red", "green", "violet"))
        result = quee(*build_arguments(root, tmp_path / "run", validation=data))
        self.check(result, "the dataset has 3 (green, red, violet)", tmp_path / "run")
        assert "the model has 4 (red, green, blue, grey)" in result.stderr

    def test_validation_images_are_training_images(self, root, tmp_path, quee):
        result = quee(*build_arguments(root, tmp_path / "run", validation=root / "train"))
        self.check(result, "160 of 160 validation images are training images, too", tmp_path / "run")

    def test_bad_image_is_named(self, root, tmp_path, quee):
        data = write_images(tmp_path / "data", 60, 5)
        (data / "red" / "bad.png").write_bytes(b"no image")
        result = quee(*build_arguments(root, tmp_path / "run", validation=data))
        self.check(result, f"Cannot read image {data / 'red' / 'bad.png'}", tmp_path / "run")
        assert "--skip-bad" in result.stderr

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            ('["red", "green"]', "2 class names, but the model has 4 classes."),
            ('{"classes": 3}', "holds neither a list of names nor an object with such a list in 'classes'"),
            ("[", "as JSON"),
        ],
    )
    def test_class_names(self, root, tmp_path, quee, content, message):
        file = tmp_path / "names.json"
        file.write_text(content)
        result = quee(*build_arguments(root, tmp_path / "run", class_names=file))
        self.check(result, message, tmp_path / "run")

    def test_model_is_a_quee_model_already(self, root, built, tmp_path, quee):
        result = quee(*build_arguments(root, tmp_path / "run", model=built / "model"))
        self.check(result, "is a QuEE model already", tmp_path / "run")
