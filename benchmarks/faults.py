"""What quee_hf does when things go wrong, done to it: kills, full disks, damaged files, images and pixels.

Run: `python benchmarks/faults.py [--only SECTION ...]`, on Linux; `QUEE_ASSETS` names real images. Each
section runs in a process of its own. Small disks are mounted where that is allowed; elsewhere the size of
files is limited. Writes `benchmarks/results/faults.json` and `docs/results/faults.md`, and fails if anything
did harm: a crash, a hang, an error that is not clear, or a wrong answer that looks like a right one.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))
os.environ.setdefault("OMP_NUM_THREADS", "1")  # before anything imports PyTorch
os.environ.setdefault("HF_HUB_OFFLINE", "1")

from _faults_report import write_page  # noqa: E402
from _timing import RESULTS, write_result  # noqa: E402
from tests.faults.judging import Verdict  # noqa: E402

MOST_SECONDS = 3600  # for a section


# Their modules import PyTorch, which only the process of a section needs.
SECTIONS = {
    "kills": ("Builds that are killed", "_faults_builds", "kills"),
    "places": ("Places that are taken, full, or cannot be written", "_faults_builds", "places"),
    "weights": ("Files of weights", "_faults_files", "of_weights"),
    "jsons": ("Configs and other JSON", "_faults_files", "of_jsons"),
    "images": ("Images", "_faults_files", "of_images"),
    "pixels": ("Pixel values that are no numbers", "_faults_files", "of_pixels"),
    "code": ("Code in repositories", "_faults_files", "of_code"),
}


def _verdicts(name: str) -> Iterator[Verdict]:
    _, module, function = SECTIONS[name]
    found: Iterator[Verdict] = getattr(import_module(module), function)()
    return found


def _count(verdicts: Iterator[Verdict]) -> dict[str, dict[str, int]]:
    """Return how often each outcome came of each kind of attack."""
    counted: dict[str, Counter[str]] = {}
    for verdict in verdicts:
        counted.setdefault(verdict.kind, Counter())[verdict.outcome] += 1
        if verdict.is_harm:
            print(f"HARM: {verdict}", file=sys.stderr, flush=True)
    return {kind: dict(outcomes) for kind, outcomes in counted.items()}


def _run_section(name: str) -> dict[str, dict[str, int]]:
    """Run a section in a process of its own; one that crashes or hangs is itself a result."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "counted.json"
        command = [sys.executable, __file__, "--into", str(file), "--only", name]
        try:
            done = subprocess.run(command, timeout=MOST_SECONDS, check=False)
        except subprocess.TimeoutExpired:
            return {"the section": {f"harm: not done after {MOST_SECONDS} s": 1}}
        if done.returncode or not file.exists():
            return {"the section": {f"harm: its process ended with {done.returncode}": 1}}
        counted: dict[str, dict[str, int]] = json.loads(file.read_text())
        return counted


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--only", nargs="+", choices=SECTIONS, default=list(SECTIONS), help="Others stay as they are."
    )
    parser.add_argument("--into", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.into is not None:
        (name,) = arguments.only
        arguments.into.write_text(json.dumps(_count(_verdicts(name))))
        return
    stored = RESULTS / "faults.json"
    before: dict[str, Any] = json.loads(stored.read_text())["sections"] if stored.exists() else {}
    found = {name: _run_section(name) for name in arguments.only}
    sections = {name: found.get(name, before.get(name)) for name in SECTIONS if name in {**before, **found}}
    titles = {name: title for name, (title, *_) in SECTIONS.items()}
    write_result("faults", {"titles": titles, "sections": sections})
    write_page(json.loads(stored.read_text()), ROOT / "docs" / "results" / "faults.md")
    if harm := [
        outcome
        for each in sections.values()
        for kind in each.values()
        for outcome in kind
        if "harm" in outcome
    ]:
        sys.exit(f"{len(harm)} kinds of harm: {harm}")


if __name__ == "__main__":
    main()
