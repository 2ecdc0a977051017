"""One tiny build that the tests of all verbs share; it must not be changed."""

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from tests.builds import build_arguments, run, write_classifier, write_images
from typer.testing import CliRunner, Result

from quee_hf.cli.app import app

Quee = Callable[..., Result]


@pytest.fixture(scope="session")
def root(tmp_path_factory) -> Path:
    """Hold a classifier in `model`, and images in `train`, `validation` and `test`."""
    root = tmp_path_factory.mktemp("quee")
    write_classifier(root / "model")
    for seed, (name, count) in enumerate((("train", 160), ("validation", 120), ("test", 40))):
        write_images(root / name, count, seed)
    return root


@pytest.fixture(scope="session")
def built(root) -> Path:
    """Run one build without interruption and return its directory."""
    output = root / "built"
    log = root / "built.log"
    assert run(build_arguments(root, output), log) == 0, log.read_text()
    return output


@pytest.fixture
def quee() -> Quee:
    """Run a verb in this process: `quee("predict", model, image)`."""

    def run_verb(*arguments: object) -> Result:
        return CliRunner().invoke(app, [str(argument) for argument in arguments])

    return run_verb


def words(text: str) -> str:
    """Undo the wrapping of lines."""
    return " ".join(text.split())


def with_option(arguments: Sequence[str], option: str, value: object) -> list[str]:
    """Return a command line with another value for one option."""
    changed = list(arguments)
    changed[changed.index(option) + 1] = str(value)
    return changed


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path, monkeypatch):
    """`quee evaluate` writes its results to the current folder."""
    monkeypatch.chdir(tmp_path)
