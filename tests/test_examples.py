"""The examples run, as a user would run them."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.hub.loopback import loopback_hub

EXAMPLES = Path(__file__).parents[1] / "examples"
SCRIPTS = sorted(path.name for path in EXAMPLES.glob("[a-z0-9]*.py"))


def run(script: str, *arguments: str, folder: Path, **environment: str) -> str:
    command = [sys.executable, "-W", "error::FutureWarning", str(EXAMPLES / script), *arguments]
    settings = {**os.environ, **environment}
    done = subprocess.run(command, cwd=folder, env=settings, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def converted(tmp_path_factory):
    """Where `01_convert.py` was run, and what it printed."""
    folder = tmp_path_factory.mktemp("examples")
    return folder, run("01_convert.py", folder=folder)


def test_convert(converted):
    folder, printed = converted
    assert printed.count("cost_lambda ") > 10
    assert (folder / "examples-output" / "run" / "model" / "README.md").exists()


def test_train_gates(converted):
    printed = run("02_train_gates.py", folder=converted[0])
    assert "Loss of the best epoch" in printed
    assert (converted[0] / "examples-output" / "own-gates" / "model.safetensors").exists()


def test_zero_shot_clip(tmp_path):
    printed = run("03_zero_shot_clip.py", folder=tmp_path)
    difference = float(printed.splitlines()[0].split()[-1].rstrip("."))
    assert difference < 1e-4  # logits of up to 100, float32


def test_serve(converted):
    printed = run("04_serve.py", folder=converted[0])
    assert "'exit_block'" in printed.splitlines()[-1]


def test_datasets_map(converted):
    printed = run("05_datasets_map.py", folder=converted[0], HF_HOME=str(converted[0]))
    assert printed.startswith("297 images: accuracy ")


def test_ray_batch_inference(converted):
    printed = run("ray_batch_inference.py", folder=converted[0], RAY_USAGE_STATS_ENABLED="0")
    assert printed.startswith("297 images, 297 answers: 297 as in one process\n")


def test_push(converted):
    folder = converted[0]
    assert "## Operating points" in run("06_push.py", folder=folder)
    with loopback_hub() as hub:
        printed = run("06_push.py", "org/digits", folder=folder, **hub.environment(folder))
        assert f"Pushed: {hub.url}/org/digits/commit/" in printed
        assert "'routing'" in printed
        assert hub.repositories["org/digits"].is_private


def test_python_api(tmp_path):
    printed = run("python_api.py", folder=tmp_path)
    assert "path                  [8, 4, 4]" in printed
    assert printed.count("out after block") == 5 + 4  # five paths, four images


def test_quickstart_tiny(tmp_path):
    printed = run("quickstart.py", "--tiny", folder=tmp_path)
    assert printed.count("cost_lambda = ") == 8
    assert printed.count("always ") == 3
    assert printed.rstrip().splitlines()[-1].startswith("Next, ")
    output = tmp_path / "quickstart-output"
    assert sorted(path.name for path in output.iterdir()) == [
        "accuracy_cost.png",
        "classifier",
        "digit.png",
        "easy_and_hard.png",
        "images",
        "model",
    ]
    for picture in output.glob("*.png"):
        assert picture.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_example_is_short_and_starts_with_how_to_run_it(script):
    lines = (EXAMPLES / script).read_text().splitlines()
    assert f"`python examples/{script}" in lines[0]
    assert len(lines) <= 80 or script == "quickstart.py"
