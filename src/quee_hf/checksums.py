"""Checksums of model files: what the Hub names them by, and what weights carry in their own header."""

import hashlib
import json
import os
import re
import struct
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from mmap import ACCESS_READ, mmap
from pathlib import Path

from huggingface_hub import try_to_load_from_cache
from huggingface_hub.errors import HFValidationError

from quee_hf.errors import IncompatibleCheckpointError

_PROCESSOR_FILES = ("preprocessor_config.json", "processor_config.json")
# What the Hub names files by: SHA-256 of large ones, git's SHA-1 of others.
_SHA256, _GIT_SHA1 = re.compile(r"[0-9a-f]{64}"), re.compile(r"[0-9a-f]{40}")
# How checksums stand in the header of weights: the file's own, which is that of the file with zeros in its
# place, and that of the file before it, which ties the files of one save together; the first has zeros.
_SEAL, _AFTER, _BLANK = b'"quee_sha256":"', b'"quee_after":"', b"0" * 64
_SIZE = struct.Struct("<Q")  # of the header, with which a safetensors file begins
_ALIGNMENT = 8  # bytes, of tensors
_READ_SIZE = 1 << 20


@contextmanager
def checked_files(files: Sequence[str]) -> Iterator[None]:
    """Compare files of weights with their checksums, while the block runs.

    Those in the Hub's cache have one in their name, and so has the config beside them; one that differs is
    removed, so that it is fetched anew. Others have one in their header, if quee_hf wrote them; what another
    tool has written since has none, and is not compared. Files of one model must be of one save.

    Raises:
        IncompatibleCheckpointError: At the end of the block, if a file differs.
    """
    downloads = [*map(Path, files), *sorted({Path(file).with_name("config.json") for file in files})]
    with ThreadPoolExecutor() as pool:
        digests = [pool.submit(_wrong_digest, file) for file in downloads]
        seals = [pool.submit(_is_broken, Path(file)) for file in files]
        try:
            yield
        finally:
            for file, digest in zip(downloads, digests, strict=True):
                _refuse(file, digest.result())
        _refuse_broken(files, seals)
        _refuse_mixed(files)


def seal_weights(files: Iterable[Path]) -> None:
    """Write checksums into the headers of the safetensors files of one model, each in one step.

    Each has its own, and that of the file before it.
    """
    before = _BLANK
    for file in sorted(files):
        before = _seal(file, before)


def _seal(file: Path, before: bytes) -> bytes:
    """Write into a file's header its checksum, and that of the file before it; return its own."""
    temporary = file.with_name(f".{file.name}.sealing-{os.getpid()}")
    with file.open("rb") as weights, temporary.open("wb") as sealed:
        (size,) = _SIZE.unpack(weights.read(_SIZE.size))
        header = json.loads(weights.read(size))
        seals = {
            _SEAL.split(b'"')[1].decode(): _BLANK.decode(),
            _AFTER.split(b'"')[1].decode(): before.decode(),
        }
        metadata = {**header.pop("__metadata__", {}), **seals}
        text = json.dumps({"__metadata__": metadata, **header}, separators=(",", ":")).encode()
        text += b" " * (-len(text) % _ALIGNMENT)
        start = _SIZE.pack(len(text)) + text
        digest = hashlib.sha256(start)
        sealed.write(start)
        while piece := weights.read(_READ_SIZE):
            digest.update(piece)
            sealed.write(piece)
        sealed.seek(start.index(_SEAL) + len(_SEAL))
        sealed.write(digest.hexdigest().encode())
    os.replace(temporary, file)
    return digest.hexdigest().encode()


def check_processor(folder: Path) -> None:
    """Compare the config of the image processor beside a model's weights as `checked_files` does."""
    for name in _PROCESSOR_FILES:
        check_download(folder / name)


def check_cached_config(source: str | os.PathLike[str], **hub_options: object) -> None:
    """Compare the config of a model on the Hub, if the cache holds it, as `checked_files` does."""
    where = {name: str(hub_options[name]) for name in ("cache_dir", "revision") if hub_options.get(name)}
    with suppress(HFValidationError):  # a directory
        if isinstance(file := try_to_load_from_cache(str(source), "config.json", **where), str):
            check_download(Path(file))


def check_download(file: Path) -> None:
    """Compare a file in the Hub's cache as `checked_files` does."""
    _refuse(file, _wrong_digest(file))


def _refuse(file: Path, digest: str | None) -> None:
    """Remove a file whose checksum is wrong, and say so."""
    if digest is None:
        return
    expected = file.resolve().name
    for damaged in (file.resolve(), file):
        with suppress(OSError):  # a cache that is read-only, or that another process has tidied up
            damaged.unlink()
    raise IncompatibleCheckpointError(
        f"{file.name} is not the file that the Hub says it is: it was damaged on its way or changed since"
        f" (checksum {digest[:12]}..., expected {expected[:12]}...). Load the model again to fetch it anew;"
        " if this message comes again, delete it from the cache yourself."
    ) from None


def _wrong_digest(file: Path) -> str | None:
    """Return the checksum of a file in the Hub's cache if it is not the one that it should have."""
    blob = file.resolve()
    if blob.parent.name != "blobs" or not blob.is_file():
        return None
    if _SHA256.fullmatch(blob.name):
        digest = _sha256(blob)
    elif _GIT_SHA1.fullmatch(blob.name):
        content = blob.read_bytes()
        digest = hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()
    else:
        return None
    return None if digest == blob.name else digest


def _sha256(file: Path) -> str:
    if file.stat().st_size == 0:  # cannot be mapped
        return hashlib.sha256().hexdigest()
    # In one call, which lets other threads run: `file_digest` would ask for the interpreter at every piece.
    with file.open("rb") as opened, mmap(opened.fileno(), 0, access=ACCESS_READ) as content:
        return hashlib.sha256(content).hexdigest()


def _is_broken(file: Path) -> bool:
    """Tell whether weights have a checksum in their header that is not theirs, or lost theirs alone."""
    if _SHA256.fullmatch(file.resolve().name):
        return False  # the Hub's own covers it
    try:
        with file.open("rb") as opened, mmap(opened.fileno(), 0, access=ACCESS_READ) as content:
            header = _header(content)
            place = header.find(_SEAL)
            if place < 0:
                return _AFTER in header
            place += len(_SEAL)
            digest = hashlib.sha256(content[:place] + _BLANK)
            with memoryview(content) as view, view[place + len(_BLANK) :] as rest:
                digest.update(rest)
            return digest.hexdigest().encode() != content[place : place + len(_BLANK)]
    except (OSError, ValueError, struct.error):  # missing, empty or too short: whoever reads it will say so
        return False


def _header(content: mmap) -> bytes:
    """Return what stands before the tensors of a safetensors file."""
    (size,) = _SIZE.unpack(content[: _SIZE.size])
    return content[: min(_SIZE.size + size, len(content))]


def _checksums(file: str) -> list[bytes]:
    """Return the checksums in a file's header, empty if not there: its own, and that of the file before."""
    try:
        with Path(file).open("rb") as opened, mmap(opened.fileno(), 0, access=ACCESS_READ) as content:
            header = _header(content)
    except (OSError, ValueError, struct.error):
        return [b"", b""]
    return [header.partition(key)[2][: len(_BLANK)] for key in (_SEAL, _AFTER)]


def _refuse_mixed(files: Sequence[str]) -> None:
    """Raise `IncompatibleCheckpointError` if one of the files that name each other is of another save."""
    before, checksums = _BLANK, {file: _checksums(file) for file in sorted(files)}
    is_tied = any(after for _, after in checksums.values())
    for file, (own, after) in checksums.items():
        if is_tied and after != before:
            raise IncompatibleCheckpointError(
                f"The weights beside {file} are not of one save: it does not follow the files before it. Copy"
                " all of them anew from one place, or save the model again. (A tool that writes one of them"
                " must write all.)"
            )
        before = own


def _refuse_broken(files: Sequence[str], seals: Sequence[Future[bool]]) -> None:
    for file, is_broken in zip(files, seals, strict=True):
        if is_broken.result():
            raise IncompatibleCheckpointError(
                f"{file} is damaged: it does not have the checksum that was written into it when it was"
                " saved. Copy it anew from where it is whole, or build the model again. (A tool that changes"
                " tensors must not keep the metadata `quee_sha256` and `quee_after`.)"
            )
