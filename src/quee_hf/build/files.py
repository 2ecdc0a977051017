"""Files of a build: written in one step, and told apart by their content."""

import hashlib
import json
import os
from pathlib import Path

_READ_SIZE = 1 << 20
UNFINISHED = ".building-"  # in the name of whatever is not complete


def hash_file(path: Path) -> str:
    """Return the SHA-256 of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_READ_SIZE):
            digest.update(chunk)
    return digest.hexdigest()


def write_json(path: Path, content: object) -> None:
    """Write a JSON file in one step.

    Raises:
        ValueError: If a number is not finite.
    """
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def write_text(path: Path, content: str) -> None:
    """Write a text file in one step."""
    temporary = path.with_name(f".{path.name}{UNFINISHED}{os.getpid()}")
    temporary.write_text(content, encoding="utf-8")
    os.replace(temporary, path)
