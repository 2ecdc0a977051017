"""The examples run, as a user would run them."""

import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"


def run(script: str, *arguments: str, folder: Path) -> str:
    command = [sys.executable, "-W", "error::FutureWarning", str(EXAMPLES / script), *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


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
        "easy_and_hard.png",
        "model",
    ]
    for picture in output.glob("*.png"):
        assert picture.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("script", sorted(path.name for path in EXAMPLES.glob("*.py")))
def test_every_example_starts_with_how_to_run_it(script):
    assert f"`python examples/{script}`" in (EXAMPLES / script).read_text().splitlines()[0]
