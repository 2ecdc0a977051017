"""Builds that are killed, run out of disk, meet each other, or may not write; all by the command line."""

import contextlib
import hashlib
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from assets import ASSETS
from tests.builds import run as run_verb
from tests.builds import start_verb, write_classifier
from tests.faults.judging import Verdict

from quee_hf.data import load_image_dataset

TIMES, SEED = 20, 0
_MOST_SECONDS = 300
_SIZES = {"train": 160, "validation": 120}
# What is not the same in two builds: the lock holds a process id, records say how long a stage took.
_OTHER, _CLOCK = ".lock", re.compile(rb'"seconds": [\d.]+')
OUTCOME_SAME = "completed, every file the same, byte for byte"


def prepare(root: Path) -> list[str]:
    """Write a tiny classifier and real images of four classes, and return the command that builds of them."""
    for name, source in (("train", "train-00"), ("validation", "validation")):
        images = load_image_dataset(str(ASSETS / "cifar10" / f"{source}.parquet"))
        names = images.class_names or []
        chosen = [row for row in range(len(images)) if images.labels[row] < 4][: _SIZES[name]]
        for row in chosen:
            item = images[row]
            file = root / name / names[item["label"]] / f"{row:05}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            item["image"].save(file)
    classes = sorted(path.name for path in (root / "train").iterdir())
    write_classifier(root / "model", classes)
    return [
        *(sys.executable, "-c", "from quee_hf.cli import main; main()", "build"),
        *("--model", str(root / "model"), "--train", str(root / "train")),
        *("--validation", str(root / "validation"), "--exits", "1,2", "--levels", "8,4"),
        *("--calibration-images", "8", "--head-epochs", "6", "--gate-epochs", "6", "--output"),
    ]


def files(run: Path) -> dict[str, str]:
    """Return the checksum of every file of a build, but for what says how long it took."""
    return {
        str(path.relative_to(run)): hashlib.sha256(_CLOCK.sub(b"", path.read_bytes())).hexdigest()
        for path in sorted(run.rglob("*"))
        if path.is_file() and path.name != _OTHER
    }


def start(command: list[str], **options: Any) -> subprocess.Popen[str]:
    """Start a command, all of whose output can be read together."""
    settings = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen(command, **{**settings, **options})


def finish(process: subprocess.Popen[str], timeout: float = _MOST_SECONDS) -> tuple[int, str]:
    """Wait for a process, and return its exit code and what it said; a hang is killed, and is an error."""
    try:
        said, _ = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        process.kill()
        said, _ = process.communicate()
        return 124, said
    return process.returncode, said


def last_line(said: str) -> str:
    """Return the last line that a command said, which is its error if it has failed."""
    return next(reversed([line for line in said.splitlines() if line.strip()]), "")


def _whole(root: Path, command: list[str]) -> tuple[list[str], float]:
    """Build without interruption, and return the command's arguments and how long it took."""
    arguments, log = command[command.index("build") :], root / "log"
    seconds = []
    for name in ("whole", "again"):  # the first is slower: the server of processes starts
        began = time.monotonic()
        if run_verb([*arguments, str(root / name)], log):
            raise RuntimeError(log.read_text())
        seconds.append(time.monotonic() - began)
    return arguments, seconds[-1]


def killed(root: Path, command: list[str], times: int = TIMES) -> Iterator[Verdict]:
    """Kill builds, and the builds that continue them, at random moments; then let them end.

    Each runs in a process that has imported everything, so that moments are those of building.
    """
    arguments, seconds = _whole(root, command)
    log = root / "log"
    expected, chance = files(root / "whole"), random.Random(SEED)
    for number in range(times):
        target = root / f"killed-{number}"
        # Every other one is killed again when it continues.
        count = 1 + number % 2
        reached = [_kill([*arguments, str(target)], target, chance, seconds) for _ in range(count)]
        code = run_verb([*arguments, str(target)], log)
        is_same = not code and files(target) == expected
        outcome = OUTCOME_SAME if is_same else f"harm: exit code {code}, {last_line(log.read_text())[:120]}"
        kind = "`quee build` killed (kill -9)" + (", and again when it continued" if count > 1 else "")
        yield Verdict(kind, outcome, not is_same)
        print(f"{number + 1}: killed after {reached}: {outcome}", file=sys.stderr, flush=True)
        shutil.rmtree(target)


def _kill(arguments: list[str], run: Path, chance: random.Random, seconds: float) -> str:
    """Kill a build at a moment that any is as likely as any other, and say how far it had come."""
    process, moment = start_verb(arguments, run.with_suffix(".log")), chance.uniform(0, seconds)
    process.join(moment)
    if not process.is_alive():  # it was faster this time: once more, from the beginning
        shutil.rmtree(run)
        return _kill(arguments, run, chance, 0.9 * moment)
    process.kill()
    process.join()
    stages = [path for path in (run / "stages").glob("[0-9]*") if (path / "done.json").exists()]
    return f"{moment:.1f} of {seconds:.1f} s ({len(stages)} stages)"


def met(root: Path, command: list[str]) -> Iterator[Verdict]:
    """Start a second build in the directory of one that is at work."""
    arguments, target = command[command.index("build") :], root / "met"
    first = start_verb([*arguments, str(target)], root / "first.log")
    while first.is_alive() and not (target / "stages" / "1-convert").exists():
        time.sleep(0.01)
    code, said = run_verb([*arguments, str(target)], root / "log"), (root / "log").read_text()
    first.join()
    is_refused = code == 2 and f"Another build is at work in {target} (process {first.pid})" in said
    is_whole = first.exitcode == 0 and files(target) == files(root / "whole")
    outcome = "the second refuses and names the first's process; the first ends as ever"
    is_harm = not (is_refused and is_whole)
    if is_harm:
        outcome = f"harm: {code} {last_line(said)[:100]}; {first.exitcode}"
    yield Verdict("a second build in the directory of a running one", outcome, is_harm)


@contextlib.contextmanager
def small_disk(folder: Path, size: str) -> Iterator[bool]:
    """Mount a small disk there if that is allowed; say whether it is."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    is_mounted = subprocess.run(mount, capture_output=True, check=False).returncode == 0
    try:
        yield is_mounted
    finally:
        if is_mounted:
            subprocess.run(["umount", str(folder)], check=True)


def _limited(size: int) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)


def full(root: Path, command: list[str]) -> Iterator[Verdict]:
    """Let a build run out of disk in several stages, and end when there is room again."""
    expected = files(root / "whole")
    for size in ("300k", "1200k", "2600k", "4200k"):
        with small_disk(root / f"disk-{size}", size) as is_mounted:
            target = root / f"disk-{size}" / "run"
            limit = None if is_mounted else lambda: _limited(500_000)
            code, said = finish(start([*command, str(target)], preexec_fn=limit))
            is_said = code == 1 and ("No space left" in said or "File too large" in said)
            if is_mounted:
                grow = ["mount", "-o", "remount,size=64m", str(target.parent)]
                subprocess.run(grow, check=True)
            code, after = finish(start([*command, str(target)]))
            is_same = code == 0 and files(target) == expected
        how = (
            "on a disk that is too small" if is_mounted else "that may write small files only (RLIMIT_FSIZE)"
        )
        outcome = f"stops, naming the cause; with room again {OUTCOME_SAME}"
        if not (is_said and is_same):
            outcome = f"harm: {last_line(said)[:100]}; then {code} {last_line(after)[:100]}"
        yield Verdict(f"`quee build` {how}", outcome, not (is_said and is_same))


def unwritable(root: Path, command: list[str]) -> Iterator[Verdict]:
    """Give verbs places that cannot be written: targets, and the caches of libraries."""
    python, model = command[:3], root / "whole" / "model"
    before = files(model)
    image = str(next((root / "validation").rglob("*.png")))
    with small_disk(root / "sealed", "64m") as is_mounted:
        sealed = root / "sealed" if is_mounted else Path("/proc")
        if is_mounted:
            shutil.copytree(root / "whole", sealed / "run")
            shutil.copytree(model, sealed / "model")
            subprocess.run(["mount", "-o", "remount,ro", str(sealed)], check=True)
            yield _refused(
                "`quee build` continued where nothing can be written", [*command, str(sealed / "run")]
            )
            measure = ["profile", str(sealed / "model"), "--max-seconds", "1"]
            yield _refused("`quee profile` of a model that cannot be written", [*python, *measure])
            can_read = [*python, "predict", str(sealed / "model"), image]
            yield _works("`quee predict` with a model that cannot be written", can_read, {})
        yield _refused("`quee build` to where nothing can be written", [*command, str(sealed / "new")])
        export = [*python, "export", str(model), "--onnx", str(sealed / "onnx")]
        yield _refused("`quee export` to where nothing can be written", export)
        cache = str(sealed / "cache")
        caches = dict.fromkeys(
            ("HF_HOME", "HF_HUB_CACHE", "MPLCONFIGDIR", "XDG_CACHE_HOME", "TORCH_HOME"), cache
        )
        caches["HOME"] = cache
        kind = "caches of all libraries (`HF_HOME`, `MPLCONFIGDIR`, `HOME`, ...) that cannot be written:"
        yield _works(f"{kind} `quee predict`", [*python, "predict", str(model), image], caches)
        target = root / "without-caches"
        found = _works(f"{kind} `quee build`", [*command, str(target)], caches)
        if not found.is_harm and files(target) != files(root / "whole"):
            found = found._replace(outcome="harm: another model", is_harm=True)
        yield found
    if files(model) != before:
        yield Verdict("what was there before", "harm: it changed", is_harm=True)


def _refused(kind: str, command: list[str]) -> Verdict:
    code, said = finish(start(command))
    error = last_line(said)
    is_fine = code in (1, 2) and error.startswith("quee: error: ") and "Traceback" not in said
    outcome = "refused in one line that names place and cause" if is_fine else f"harm: {code} {error[:150]}"
    return Verdict(kind, outcome, not is_fine)


def _works(kind: str, command: list[str], environment: Mapping[str, str]) -> Verdict:
    code, said = finish(start(command, env={**os.environ, **environment}))
    outcome = "works as ever" if code == 0 else f"harm: {code} {last_line(said)[:150]}"
    return Verdict(kind, outcome, code != 0)


def kills() -> Iterator[Verdict]:
    """Kill builds."""
    with tempfile.TemporaryDirectory() as folder:
        yield from killed(Path(folder), prepare(Path(folder)))


def places() -> Iterator[Verdict]:
    """Let builds meet, and give verbs places that are full or cannot be written."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        command = prepare(root)
        _whole(root, command)
        yield from met(root, command)
        yield from full(root, command)
        yield from unwritable(root, command)
