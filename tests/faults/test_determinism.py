"""The same seed, data and machine give the same bytes, wherever and however a build is started."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.builds import build_arguments, write_classifier, write_images

_COMMAND = [sys.executable, "-c", "from quee_hf.cli import main; main()"]


def build(root: Path, folder: Path, output: str, **environment: str) -> dict[str, str]:
    """Build in a process of its own, from a folder of its own, and return the checksums of the model's files."""
    folder.mkdir()
    arguments = build_arguments(root, Path(output))
    settings = {**os.environ, **environment}
    done = subprocess.run(
        [*_COMMAND, *arguments], cwd=folder, env=settings, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    model = folder / output / "model"
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(model.iterdir())}


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("determinism")
    write_classifier(root / "model")
    write_images(root / "train", 96, 0)
    write_images(root / "validation", 80, 1)
    return root


def test_two_builds_are_the_same_byte_for_byte(root, tmp_path):
    first = build(root, tmp_path / "one", "run", PYTHONHASHSEED="1", OMP_NUM_THREADS="1")
    second = build(
        root, tmp_path / "two", "deeper/run", PYTHONHASHSEED="2", OMP_NUM_THREADS="1", TZ="Asia/Tokyo"
    )
    assert first == second
    assert {"config.json", "model.safetensors", "README.md", "preprocessor_config.json"} <= first.keys()
