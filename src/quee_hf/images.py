"""Turn whatever a user calls a picture into an 8-bit RGB image, the right way up."""

import base64
import io
import os
import struct
import zlib
from pathlib import Path

import numpy as np
from huggingface_hub.utils import httpx  # type: ignore[attr-defined]  # exported by a module `__getattr__`
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from quee_hf.errors import BadImageError

IMAGE_SUFFIXES = frozenset(
    {".avif", ".bmp", ".gif", ".jp2", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}
)
# What Pillow's decoders and its EXIF reader raise on damaged files; found by damaging files of 11 formats.
_DECODE_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    LookupError,
    ArithmeticError,
    RuntimeError,
    EOFError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)
# Modes without a direct way to RGB in Pillow, and the mode to pass through.
_DETOURS = {"La": "LA", "RGBa": "RGBA"}
_PROGRAMS = ("EPS",)  # Pillow has them run by an interpreter of PostScript
_WHITE_LEVELS = (255.0, 65535.0)
_MAX_SHOWN_CHARACTERS = 80  # of a source in a message: a base64 image has thousands


def image_files(folder: Path) -> list[Path]:
    """Return the image files in a folder, at any depth, sorted; by their suffixes."""
    return sorted(
        path for path in folder.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file()
    )


def to_rgb(image: Image.Image) -> Image.Image:
    """Return a new 8-bit RGB image that shows what a viewer of `image` would see.

    The EXIF orientation is applied; a broken EXIF block is ignored. Transparency is dropped, not blended, as
    by `image.convert("RGB")` and therefore stock transformers; colour profiles are not applied. Images with
    more than 8 bits per channel are scaled, where Pillow would clip:

    - 16 bits (`I;16`, `I;16B`, ...): 65535 becomes 255.
    - 32-bit integers (`I`): the mode does not say which number is white, so the pixels decide. If all are
      within 0..255 they are 8 bits and kept, within 0..65535 they are 16 bits; any other range is stretched
      from its own minimum (black) to its own maximum (white).
    - Floats (`F`): as `I`, but if all are within 0..1, then 1.0 is white. NaN becomes black.

    Args:
        image: Any mode; not changed.

    Returns:
        Mode `RGB`, without transparency information. Converting twice changes nothing.

    Raises:
        BadImageError: If the pixels of a lazily opened image cannot be decoded, or its mode is unknown.
    """
    try:
        return _decoded(image)
    except _DECODE_ERRORS as error:
        raise BadImageError(_complaint(_name_of(image), error)) from error


def load_rgb(source: str | Path | bytes | Image.Image, *, name: str | None = None) -> Image.Image:
    """Decode an image completely and return it as `to_rgb` does.

    Args:
        source: Path of a file, the bytes of one, or an image, which may be opened but not loaded yet.
        name: What to call the image in an error; its path if not given.

    Returns:
        Mode `RGB`, holding its pixels: no file stays open.

    Raises:
        BadImageError: If the file is missing, truncated or not an image. The message names it and says why.
    """
    try:
        if isinstance(source, Image.Image):
            return _decoded(source)
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as image:
            return _decoded(image)
    except _DECODE_ERRORS as error:
        raise BadImageError(_complaint(name or _name_of(source), error)) from error


def fetch_rgb(source: str | Path | Image.Image, timeout: float | None = None) -> Image.Image:
    """Return the RGB image in a file, at a URL, in base64, or given.

    Args:
        source: A path, an address, base64 (with or without "data:image/...;base64,"), or an image.
        timeout: Of a download, in seconds; `None` waits forever.

    Raises:
        BadImageError: If it cannot be read.
    """
    if isinstance(source, str) and source.startswith(("http://", "https://")):
        return load_rgb(_download(source, timeout), name=source)
    if not isinstance(source, str) or os.path.isfile(source):
        return load_rgb(source)
    encoded = source.partition(",")[2] if source.startswith("data:image/") else source
    try:
        return load_rgb(base64.b64decode("".join(encoded.split()), validate=True))
    except ValueError as error:  # not base64, or not of an image
        is_long = len(source) > _MAX_SHOWN_CHARACTERS
        shown = f"{source[:_MAX_SHOWN_CHARACTERS]}..." if is_long else source
        raise BadImageError(f"Cannot read image {shown}: no such file, and no image in base64.") from error


def _decoded(image: Image.Image) -> Image.Image:
    """Do what `to_rgb` promises, raising what Pillow raises."""
    if image.format in _PROGRAMS:
        raise ValueError(f"{image.format} is a program, which is not run")
    image.load()
    if 0 in image.size:
        raise ValueError(f"it has no pixels, its size is {image.size}")
    upright = _upright(image)
    upright.info.pop("transparency", None)  # a leftover makes Pillow warn, and means nothing in RGB
    if upright.mode == "RGB":
        return upright
    if upright.mode in ("I", "F") or upright.mode.startswith("I;16"):
        upright = _eight_bit_grey(upright)
    if upright.mode in _DETOURS:
        upright = upright.convert(_DETOURS[upright.mode])
    return upright.convert("RGB")


def _upright(image: Image.Image) -> Image.Image:
    """Return a copy turned as its EXIF orientation says."""
    try:
        return ImageOps.exif_transpose(image)
    except _DECODE_ERRORS:  # the pixels are loaded by now, so only the EXIF block can be at fault
        return image.copy()


def _eight_bit_grey(image: Image.Image) -> Image.Image:
    """Scale one channel of 16 or 32 bits to 8 bits."""
    values = np.asarray(image).astype(np.float64)
    black, white = _range_of(values, image.mode)
    values = np.nan_to_num(values, nan=black, posinf=white, neginf=black)
    scaled = np.rint((values - black) * (255.0 / (white - black)))
    return Image.fromarray(scaled.astype(np.uint8))


def _range_of(values: NDArray[np.float64], mode: str) -> tuple[float, float]:
    """Return the values of black and of white, which differ."""
    if mode.startswith("I;16"):
        return 0.0, 65535.0
    finite = values[np.isfinite(values)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)
    for white in (1.0, *_WHITE_LEVELS) if mode == "F" else _WHITE_LEVELS:
        if low >= 0 and high <= white:
            return 0.0, white
    return low, high if high > low else low + 1.0  # one single value: black


def _name_of(source: str | Path | bytes | Image.Image) -> str:
    """Return the file an image comes from, or a description."""
    if isinstance(source, Image.Image):
        return str(getattr(source, "filename", "") or f"({source.mode}, {source.width} x {source.height})")
    return f"({len(source)} bytes)" if isinstance(source, bytes) else str(source)


def _complaint(name: str, error: BaseException) -> str:
    """Return one sentence naming the image and the cause."""
    if isinstance(error, UnidentifiedImageError):
        cause = "it is not an image, or of an unknown format"  # Pillow's text holds a memory address
    else:
        cause = (isinstance(error, OSError) and error.strerror) or str(error) or type(error).__name__
    return f"Cannot read image {name}: {str(cause).rstrip('.')}."


def _download(url: str, timeout: float | None) -> bytes:
    """Return what a URL holds."""
    try:
        response = httpx.get(url, timeout=timeout, follow_redirects=True)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise BadImageError(f"Cannot read image {url}: {error}.") from error
    if not response.is_success:
        raise BadImageError(f"Cannot read image {url}: the server answered {response.status_code}.")
    return response.content
