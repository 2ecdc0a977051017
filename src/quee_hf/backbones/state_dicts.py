"""State dicts in files that other libraries wrote; no code in a file is run."""

import argparse
import pickle
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from quee_hf.errors import IncompatibleCheckpointError

_PARALLEL = "module."  # what distributed training puts before every name


def read_state_dict(file: Path, entries: Sequence[str] = ("state_dict",)) -> dict[str, Tensor]:
    """Read the weights in a checkpoint.

    Args:
        file: A safetensors file, or one that `torch.save` wrote, of which tensors and plain values are read.
        entries: Where the weights may be in a training checkpoint; the first that is there is taken, and
            without any the whole file is the state dict.

    Returns:
        Tensors by name, without the "module." of distributed training.

    Raises:
        ValueError: If there is no such file.
        IncompatibleCheckpointError: If it cannot be read, or holds anything but tensors with names.
    """
    if not file.is_file():
        raise ValueError(f"{file} is not a file.")
    content = _load(file)
    for entry in entries:
        if isinstance(content, Mapping) and isinstance(content.get(entry), Mapping):
            content = content[entry]
            break
    if not isinstance(content, Mapping) or not content:
        raise IncompatibleCheckpointError(f"{file} holds no state dict: tensors, each with a name.")
    if wrong := [name for name, value in content.items() if not isinstance(value, Tensor)]:
        raise IncompatibleCheckpointError(f"{file} holds no state dict: {wrong[0]!r} is no tensor.")
    is_parallel = all(name.startswith(_PARALLEL) for name in content)
    return {name.removeprefix(_PARALLEL) if is_parallel else name: each for name, each in content.items()}


def _load(file: Path) -> Any:
    try:
        if file.suffix == ".safetensors":
            return load_file(file)
        # Training writes its options beside the weights, some as a namespace of plain values.
        with warnings.catch_warnings(), torch.serialization.safe_globals([argparse.Namespace]):
            warnings.simplefilter("ignore", UserWarning)  # of what it cannot read, which the error says, too
            return torch.load(file, map_location="cpu", weights_only=True)
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, LookupError, EOFError, OSError) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise IncompatibleCheckpointError(
            f"{file} cannot be read without running code that it may hold, or is damaged: {reason} Save its"
            " `state_dict()` with safetensors or `torch.save`, where it was made."
        ) from error
