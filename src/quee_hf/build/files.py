"""Files of a build: written in one step, and told apart by their content."""

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from quee_hf.checkpoints import UNFINISHED

_READ_SIZE = 1 << 20


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


def cached_tensors(path: Path, key: str, make: Callable[[], Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Read tensors that an earlier call wrote with the same key, or make and write them in one step."""
    # Where it is not there, or damaged, it is made anew.
    with suppress(OSError, SafetensorError), safe_open(path, framework="pt") as file:
        if (file.metadata() or {}).get("key") == key:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
    tensors = {name: tensor.contiguous() for name, tensor in make().items()}
    temporary = path.with_name(f".{path.name}{UNFINISHED}")  # what an interrupted call left is written over
    save_file(tensors, temporary, metadata={"key": key})
    os.replace(temporary, path)
    return tensors
