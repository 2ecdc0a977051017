"""`RunDirectory`: where a build keeps its stages. What is there is complete, whenever the build is killed."""

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from quee_hf.build.files import hash_file, write_json
from quee_hf.checkpoints import REPLACED, UNFINISHED, replaced_directory
from quee_hf.errors import QuEEError
from quee_hf.processes import check_alone
from quee_hf.saved_config import DAMAGE
from quee_hf.values import is_number, without

_DONE = "done.json"
_RECIPE = "recipe.yaml"


def _checksum(done: dict[str, Any]) -> str:
    """Return the SHA-256 of what a stage's record says beside it, but for the time it took, which varies."""
    said = without(without(done, "checksum"), "seconds")
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()


class RunDirectory:
    """A directory with the stages of one build, the model it made, and its report.

    Every directory in it is written under another name and renamed when it is complete.

    Args:
        root: Made if it does not exist.

    Raises:
        QuEEError: If it is a file, or a directory with something else in it.
    """

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self.root = Path(root)
        self.stages = self.root / "stages"
        if self.root.exists() and not self.root.is_dir():
            raise QuEEError(f"`output`: {root} is a file; name a directory.")
        is_run = (self.root / _RECIPE).exists() or self.stages.exists() or (self.root / ".lock").exists()
        if self.root.is_dir() and not is_run and any(self.root.iterdir()):
            raise QuEEError(
                f"`output`: {root} holds other files and no {_RECIPE}; name a new or an empty directory."
            )

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other builds out while the block lasts, and tidy up what a killed one left.

        Raises:
            QuEEError: If another build is at work here, or this process is one of several that would build.
        """
        check_alone("A build")
        self.stages.mkdir(parents=True, exist_ok=True)
        with (self.root / ".lock").open("a+") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                lock.seek(0)
                raise QuEEError(
                    f"Another build is at work in {self.root} (process {lock.read().strip() or 'unknown'})."
                ) from error
            lock.truncate(0)
            lock.write(str(os.getpid()))
            lock.flush()
            self._tidy_up()
            yield  # the lock goes with the file, or with the process

    def stage(self, name: str) -> Path:
        """Return where a stage is, if it is complete."""
        return self.stages / name

    def read_done(self, name: str) -> dict[str, Any] | None:
        """Return a stage's `done.json`; `None` if the stage is missing, damaged or incomplete."""
        folder = self.stage(name)
        try:
            done: dict[str, Any] = json.loads((folder / _DONE).read_text(encoding="utf-8"))
            is_said = done["checksum"] == _checksum(done) and is_number(done.get("seconds", 0.0))
            is_intact = is_said and all(
                hash_file(folder / file) == digest for file, digest in done["files"].items()
            )
        except (OSError, *DAMAGE):
            return None
        return done if is_intact else None

    @contextmanager
    def building(self, name: str) -> Iterator[Path]:
        """Yield an empty directory for a stage, which replaces the stage when the block ends well."""
        with replaced_directory(self.stages / name) as staging:
            yield staging

    @staticmethod
    def write_done(folder: Path, done: dict[str, Any]) -> None:
        """Describe a stage's files and mark it complete."""
        paths = [path for path in sorted(folder.iterdir()) if path.is_file() and path.name != _DONE]
        files = {path.name: hash_file(path) for path in paths}
        described = {**done, "files": files}
        write_json(folder / _DONE, {**described, "checksum": _checksum(described)})

    def publish(self, name: str, files: dict[str, str]) -> bool:
        """Make `RUN/model` of a stage's files, and tell whether anything had to be done.

        Args:
            name: The stage.
            files: Name and SHA-256 of each file to publish.
        """
        target = self.root / "model"
        try:
            present = {path.name: hash_file(path) for path in target.iterdir()}
        except OSError:  # missing, or not as a build leaves it
            present = {}
        if present == files:
            return False
        with replaced_directory(target) as staging:
            for file in files:
                shutil.copyfile(self.stage(name) / file, staging / file)
        return True

    def _tidy_up(self) -> None:
        for folder in (self.root, self.stages):
            for leftover in folder.glob(f".*{REPLACED}*"):
                # Killed between the two renames of `replaced_directory`: the old one is still valid.
                original = folder / leftover.name[1:].split(REPLACED)[0]
                if not original.exists():
                    leftover.rename(original)
            for leftover in (*folder.glob(f".*{UNFINISHED}*"), *folder.glob(f".*{REPLACED}*")):
                if leftover.is_dir():
                    shutil.rmtree(leftover, ignore_errors=True)
                else:
                    leftover.unlink()
