"""Image files: of every kind that cameras, scanners and mischief make, and cut off or changed at random."""

import io
import struct
import zlib
from collections.abc import Callable, Iterator
from random import Random

import numpy as np
from PIL import Image
from tests.faults.judging import Attack, Harm

from quee_hf.images import load_rgb

KINDS = ("PNG", "JPEG", "WEBP", "GIF", "TIFF", "BMP", "PPM")
_ORIENTATION = 0x0112
_TURNED = 6  # what a camera held upright writes


def _noise(width: int, height: int, seed: int = 0) -> Image.Image:
    random = np.random.default_rng(seed)
    return Image.fromarray(random.integers(0, 256, (height, width, 3), dtype=np.uint8))


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    """Return the bytes of an image file."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def random_damage(count: int, seed: int) -> Iterator[Attack]:
    """Yield files of every kind, cut off somewhere, and with bytes changed, so many times each."""
    random = Random(seed)
    for kind in KINDS:
        whole = encoded(_noise(40, 30), kind)
        for _ in range(count):
            yield Attack(f"{kind}, cut off somewhere", _load(whole[: random.randrange(len(whole))]))
            damaged = bytearray(whole)
            for _ in range(3):
                damaged[random.randrange(len(whole))] = random.randrange(256)
            yield Attack(f"{kind}, three bytes changed", _load(bytes(damaged)))


def _load(content: bytes) -> Callable[[], str]:
    def run() -> str:
        if load_rgb(content).mode != "RGB":
            raise Harm("no RGB image")
        return "an image, as far as the format tells"

    return run


def _sized(content: bytes, size: tuple[int, int], said: str) -> Callable[[], str]:
    def run() -> str:
        found = load_rgb(content)
        if (found.mode, found.size) != ("RGB", size):
            raise Harm(f"{found.mode}, {found.size}")
        return said

    return run


def _png_bomb() -> bytes:
    """Return 50,000 x 50,000 pixels of black in a file of some kilobytes."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return (
            struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
        )

    header = struct.pack(">IIBBBBB", 50_000, 50_000, 1, 0, 0, 0, 0)
    rows = zlib.compress(bytes(6251 * 1000))
    signature = b"\x89PNG\r\n\x1a\n"
    return signature + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def _text_bomb() -> bytes:
    """Return a small PNG with a comment that unpacks to 100 MB."""
    whole = encoded(_noise(4, 4), "PNG")
    content = b"Comment\x00\x00" + zlib.compress(bytes(100_000_000), 9)
    chunk = struct.pack(">I", len(content)) + b"zTXt" + content
    return whole[:33] + chunk + struct.pack(">I", zlib.crc32(b"zTXt" + content)) + whole[33:]


def _animated(kind: str) -> bytes:
    frames = [Image.new("RGB", (8, 6), color) for color in ("red", "green", "blue")]
    return encoded(frames[0], kind, save_all=True, append_images=frames[1:])


def _turned(kind: str) -> bytes:
    exif = Image.Exif()
    exif[_ORIENTATION] = _TURNED
    return encoded(_noise(8, 6), kind, exif=exif)


def crafted() -> Iterator[Attack]:
    """Yield what cameras, scanners and mischief make."""
    upright, first = "an image, turned upright", "its first picture"
    deep = Image.fromarray(np.arange(48, dtype=np.uint16).reshape(6, 8) * 1000)
    yield Attack("PNG of 50,000 x 50,000 pixels in 7 kB", _load(_png_bomb()))
    yield Attack("PNG with a comment of 100 MB", _load(_text_bomb()))
    for kind, width, height in (("PNG", 20_000, 3), ("JPEG", 3, 20_000), ("PNG", 1, 1), ("GIF", 1, 1)):
        content = encoded(_noise(width, height), kind)
        yield Attack(f"{kind} of {width} x {height} pixels", _sized(content, (width, height), "an image"))
    large = encoded(Image.new("1", (20_000, 20_000)), "PNG")
    yield Attack("PNG of 20,000 x 20,000 pixels", _load(large))
    for kind in ("JPEG", "TIFF"):
        cmyk = encoded(_noise(8, 6).convert("CMYK"), kind)
        yield Attack(f"{kind} in CMYK", _sized(cmyk, (8, 6), "an image, converted"))
    for kind in ("JPEG", "PNG", "WEBP", "TIFF"):
        yield Attack(f"{kind} turned by EXIF", _sized(_turned(kind), (6, 8), upright))
    for kind in ("GIF", "WEBP", "PNG", "TIFF"):
        yield Attack(f"{kind} of several pictures", _sized(_animated(kind), (8, 6), first))
    for kind in ("PNG", "TIFF"):
        yield Attack(f"{kind} of 16 bits", _sized(encoded(deep, kind), (8, 6), "an image, scaled to 8 bits"))
    for mode in ("P", "LA", "RGBA", "1", "L"):
        content = encoded(_noise(8, 6).convert(mode), "PNG")
        yield Attack(f"PNG in mode {mode}", _sized(content, (8, 6), "an image"))
    for name, content in (("nothing", b""), ("text", b"hello"), ("an HTML page", b"<html></html>" * 50)):
        yield Attack(f"{name} instead of an image", _load(content))
