"""Model files: written whole or not at all, and checked before they are loaded."""

import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import is_offline_mode
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME, cached_file
from transformers.utils.hub import get_checkpoint_shard_files

from quee_hf.checksums import check_download
from quee_hf.errors import IncompatibleCheckpointError

_FLOATS = {torch.float32, torch.float16, torch.bfloat16}
_KINDS = _FLOATS | {torch.uint8, torch.int32, torch.int64, torch.bool}
_SMALL = 2**14  # elements
WEIGHT_FILE = re.compile(r"model(-\d{5}-of-\d{5})?\.safetensors(\.index\.json)?")
_NOT_FINITE = "holds NaN or infinity"
# In the names of directories and files that are not complete, and of directories that step aside.
UNFINISHED, REPLACED = ".building-", ".replaced-"
# Options of `from_pretrained` that say where files are, and are needed to find them again.
HUB_OPTIONS = ("cache_dir", "force_download", "local_files_only", "proxies", "revision", "subfolder", "token")


@contextmanager
def atomic_directory(target: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary directory; when the block ends well, its files replace those in `target`.

    A new `target` appears in one step. Into an existing one, files are moved one by one, `config.json` last,
    when the weights of an earlier save are gone; other files stay. If the block fails, `target` is as it was.

    Raises:
        NotADirectoryError: If `target` exists and is not a directory.
        OSError: If the disk is full, or `target` cannot be written.
    """
    target = Path(target)
    if target.exists() and not target.is_dir():
        raise NotADirectoryError(f"{target} exists and is not a directory.")
    target.parent.mkdir(parents=True, exist_ok=True)
    # Files can only be moved within one file system, and an existing target may be a mounted one.
    parent = target if target.exists() else target.parent
    staging = Path(tempfile.mkdtemp(prefix=f".{target.name}.saving-", dir=parent))
    try:
        with _saying_where(target):
            yield staging
        # Temporary directories, and what safetensors writes, are private; a saved model need not be.
        mask = _umask()
        staging.chmod(0o777 & ~mask)
        for path in staging.rglob("*"):
            path.chmod((0o777 if path.is_dir() else 0o666) & ~mask)
        if not target.exists():
            staging.rename(target)
        else:
            _replace_files(staging, target)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


@contextmanager
def replaced_directory(target: Path) -> Iterator[Path]:
    """Yield a temporary directory; when the block ends well, it takes the place of `target` and its files.

    Raises:
        OSError: If the disk is full, or `target` cannot be written.
    """
    staging = Path(tempfile.mkdtemp(prefix=f".{target.name}{UNFINISHED}", dir=target.parent))
    staging.chmod(0o777 & ~_umask())  # `mkdtemp` makes private directories
    try:
        with _saying_where(target):
            yield staging
        if target.exists():
            # No rename replaces a directory that is not empty, so the old one steps aside.
            aside = Path(tempfile.mkdtemp(prefix=f".{target.name}{REPLACED}", dir=target.parent))
            target.rename(aside)
            staging.rename(target)
            shutil.rmtree(aside, ignore_errors=True)
        else:
            staging.rename(target)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


@contextmanager
def _saying_where(target: Path) -> Iterator[None]:
    """Turn what safetensors says of a file that cannot be written into an `OSError` that names the target."""
    try:
        yield
    except SafetensorError as error:
        if not str(error).startswith("Error while serializing"):
            raise
        raise OSError(f"Cannot write {target}: {error}") from error


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _replace_files(staging: Path, target: Path) -> None:
    new = {path.name for path in staging.iterdir()}
    for name in new - {"config.json"}:
        os.replace(staging / name, target / name)
    if any(name.endswith(".safetensors") for name in new):
        for path in target.iterdir():
            if WEIGHT_FILE.fullmatch(path.name) and path.name not in new:
                path.unlink()
    # Last: until it is replaced, whatever is loaded belongs to no newer config.
    if "config.json" in new:
        os.replace(staging / "config.json", target / "config.json")


def check_savable(tensors: Mapping[str, Tensor]) -> None:
    """Raise `ValueError` if a tensor could not be loaded again: float64, or not finite."""
    for name, tensor in tensors.items():
        if tensor.dtype not in _KINDS:
            raise ValueError(f"{name} is {tensor.dtype}, which cannot be loaded again; save float32 or less.")
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            raise ValueError(f"{name} holds NaN or infinity; the model is not saved.")


def weight_files(source: str | os.PathLike[str], **hub_options: Any) -> list[str]:
    """Return the local paths of a model's safetensors files, from a directory or the Hub's cache.

    Raises:
        IncompatibleCheckpointError: If there are none.
    """
    options = {**hub_options, "_raise_exceptions_for_missing_entries": False}
    single = cached_file(source, SAFE_WEIGHTS_NAME, **options)
    if single is not None:
        return [single]
    index = cached_file(source, SAFE_WEIGHTS_INDEX_NAME, **options)
    if index is None:
        if not Path(source).is_dir() and (is_offline_mode() or hub_options.get("local_files_only")):
            raise IncompatibleCheckpointError(
                f"The cache has no {SAFE_WEIGHTS_NAME} of {source}, and nothing may be fetched:"
                " HF_HUB_OFFLINE or `local_files_only` is set."
            )
        raise IncompatibleCheckpointError(
            f"{source} has no {SAFE_WEIGHTS_NAME}. QuEE models are loaded from safetensors only."
        )
    check_download(Path(index))
    try:
        files, _ = get_checkpoint_shard_files(str(source), index, **hub_options)
    except (
        OSError,
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
    ) as error:  # damaged JSON can be anything
        raise IncompatibleCheckpointError(
            f"{source}: the shards listed in {index} are incomplete: {error}"
        ) from error
    return list(files)


def read_weights(files: Iterable[str], expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Read the tensors of safetensors files, and compare them with those that a model needs.

    Args:
        files: Paths of safetensors files.
        expected: The model's state dict; on the meta device is enough.

    Returns:
        The tensors, by name, in the kinds of float that the model needs.

    Raises:
        IncompatibleCheckpointError: If a file is damaged, or a tensor is missing, unexpected, misshapen, of a
            wrong kind, or not finite. The message names the first few of each.
    """
    weights: dict[str, Tensor] = {}
    for file in files:
        try:
            weights |= load_file(file)
        except (SafetensorError, OSError) as error:
            raise IncompatibleCheckpointError(f"{file} is damaged or incomplete: {error}") from error
    shared = sorted(expected.keys() & weights.keys())
    problems = {
        "missing": sorted(expected.keys() - weights.keys()),
        "unexpected": sorted(weights.keys() - expected.keys()),
        "unusable": _unusable({key: (weights[key], expected[key]) for key in shared}),
    }
    if any(problems.values()):
        parts = [f"{len(names)} {kind}: {_few(names)}" for kind, names in problems.items() if names]
        raise IncompatibleCheckpointError("The weights do not fit the config. " + "; ".join(parts) + ".")
    return {name: tensor.to(expected[name].dtype) for name, tensor in weights.items()}


def _unusable(pairs: Mapping[str, tuple[Tensor, Tensor]]) -> list[str]:
    """Describe the tensors that are not what is expected."""
    problems, small = [], {}
    for key, (found, wanted) in pairs.items():
        if problem := _misfit(found, wanted):
            problems.append(f"{key} {problem}")
        elif not wanted.is_floating_point():
            continue
        elif found.numel() < _SMALL:
            small[key] = found
        elif not found.isfinite().all():
            problems.append(f"{key} {_NOT_FINITE}")
    return problems + [f"{key} {_NOT_FINITE}" for key in _not_finite(small)]


def _misfit(found: Tensor, expected: Tensor) -> str:
    if found.shape != expected.shape:
        return f"has shape {tuple(found.shape)}, needs {tuple(expected.shape)}"
    if found.dtype != expected.dtype and not {found.dtype, expected.dtype} <= _FLOATS:
        return f"is {found.dtype}, needs {expected.dtype}"
    return ""


def _not_finite(tensors: Mapping[str, Tensor]) -> list[str]:
    """Return the names of float tensors that hold NaN or infinity.

    A quantized model has hundreds of small ones: together they take one look.
    """
    if not tensors or torch.cat([values.flatten().float() for values in tensors.values()]).isfinite().all():
        return []
    return [key for key, values in tensors.items() if not values.isfinite().all()]


def _few(names: list[str]) -> str:
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
