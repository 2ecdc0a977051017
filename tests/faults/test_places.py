"""Disks that are full, and places that cannot be written: nothing half-written, and a clear error."""

import subprocess
import sys
from pathlib import Path

import pytest
from tests.tiny import routable

from quee_hf import QuEEForImageClassification

_SAVE = """
import resource, signal, sys
from quee_hf import QuEEForImageClassification
model = QuEEForImageClassification.from_pretrained(sys.argv[1])
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
for target in sys.argv[1:]:
    try:
        model.save_pretrained(target)
    except OSError as error:
        assert "Cannot write" in str(error) and "File too large" in str(error) and target in str(error), error
    else:
        raise AssertionError("saved")
"""


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_file_that_cannot_be_written_leaves_what_was_there(tmp_path):
    """As on a full disk; `benchmarks/faults.py` fills a real one."""
    routable(levels=[8, 4]).save_pretrained(tmp_path / "model")
    before = contents(tmp_path / "model")
    command = [sys.executable, "-c", _SAVE, str(tmp_path / "model"), str(tmp_path / "new")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert contents(tmp_path / "model") == before
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    QuEEForImageClassification.from_pretrained(tmp_path / "model")


@pytest.mark.parametrize("target", ["/proc/model", "/proc/a/b"])
def test_a_place_that_cannot_be_written_is_named(target):
    with pytest.raises(OSError, match="/proc"):
        routable(levels=[8]).save_pretrained(target)
