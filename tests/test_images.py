"""Tests of `quee_hf.images`: every mode, every orientation, and files broken in every way."""

import contextlib
import io
import struct

import numpy as np
import pytest
from PIL import Image, ImageOps

from quee_hf.errors import BadImageError
from quee_hf.images import load_rgb, to_rgb

ORIENTATION = 0x0112
EIGHT_BIT_MODES = ["1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "HSV"]
ALL_MODES = [*EIGHT_BIT_MODES, "La", "RGBa", "LAB", "I", "F", "I;16", "I;16L", "I;16B", "I;16N"]


@pytest.fixture
def picture() -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (4, 6, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def encoded(image: Image.Image, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def grey_levels(image: Image.Image) -> list[int]:
    red, green, blue = (np.asarray(channel) for channel in image.split())
    assert (red == green).all()
    assert (green == blue).all()
    return red.ravel().tolist()


@pytest.mark.parametrize("mode", ALL_MODES)
class TestEveryMode:
    def test_becomes_rgb_of_the_same_size(self, mode):
        image = to_rgb(Image.new(mode, (6, 4)))
        assert (image.mode, image.size) == ("RGB", (6, 4))

    def test_second_conversion_changes_nothing(self, mode):
        once = to_rgb(Image.new(mode, (6, 4)))
        assert to_rgb(once).tobytes() == once.tobytes()

    def test_argument_is_not_changed(self, mode):
        image = Image.new(mode, (6, 4))
        before = (image.mode, image.tobytes(), dict(image.info))
        to_rgb(image).paste((9, 9, 9), (0, 0, 6, 4))
        assert (image.mode, image.tobytes(), dict(image.info)) == before


@pytest.mark.parametrize("mode", EIGHT_BIT_MODES)
def test_eight_bit_modes_equal_stock_conversion(picture, mode):
    image = picture.convert("P").convert("PA") if mode == "PA" else picture.convert(mode)
    assert to_rgb(image).tobytes() == image.convert("RGB").tobytes()


def test_transparent_pixels_keep_their_colour(picture):
    picture.putalpha(Image.new("L", picture.size, 0))
    assert to_rgb(picture).tobytes() == picture.convert("RGB").tobytes()
    assert np.asarray(to_rgb(picture)).any()


@pytest.mark.parametrize("transparency", [2, bytes([0, 128, 255, 255])], ids=["index", "alpha-per-entry"])
def test_palette_with_transparency_keeps_colours_without_a_warning(transparency):
    image = Image.new("P", (4, 1))
    image.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90, 1, 2, 3])
    image.putdata([0, 1, 2, 3])
    stored = Image.open(io.BytesIO(encoded(image, "PNG", transparency=transparency)))
    converted = to_rgb(stored)
    assert np.asarray(converted)[0].tolist() == [[10, 20, 30], [40, 50, 60], [70, 80, 90], [1, 2, 3]]
    assert "transparency" not in converted.info
    assert "transparency" in stored.info


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_a_transparent_colour_leaves_no_trace(picture, mode):
    image = picture.convert(mode)
    image.info["transparency"] = image.getpixel((0, 0))
    assert to_rgb(image).tobytes() == image.convert("RGB").tobytes()
    assert "transparency" not in to_rgb(image).info


class TestMoreThanEightBits:
    @pytest.mark.parametrize("kind", [None, "PNG", "TIFF"])
    def test_sixteen_bits_use_the_whole_range(self, kind):
        image = Image.fromarray(np.array([[0, 257, 32768, 65535]], dtype=np.uint16))
        if kind:
            image = Image.open(io.BytesIO(encoded(image, kind)))
        assert image.mode == "I;16"
        # 65535 / 255 = 257; 32768 / 257 = 127.5019, which rounds to 128
        assert grey_levels(to_rgb(image)) == [0, 1, 128, 255]

    def test_big_endian_is_read_as_such(self):
        values = np.array([0, 257, 32768, 65535], dtype=">u2")
        image = Image.frombytes("I;16B", (4, 1), values.tobytes())
        assert grey_levels(to_rgb(image)) == [0, 1, 128, 255]

    @pytest.mark.parametrize(
        ("values", "expected"),
        [
            ([0, 100, 255], [0, 100, 255]),  # fits 8 bits: kept
            ([0, 257, 65535], [0, 1, 255]),  # fits 16 bits: divided by 257
            (
                [0, 65536, 131072],
                [0, 128, 255],
            ),  # anything else: stretched; the middle is 127.5, which rounds to even
            ([-10, 0, 10], [0, 128, 255]),
            ([-7, -7, -7], [0, 0, 0]),
        ],
        ids=["8-bit", "16-bit", "wider", "negative", "constant"],
    )
    def test_integers_by_hand(self, values, expected):
        image = Image.fromarray(np.array([values], dtype=np.int32))
        assert image.mode == "I"
        assert grey_levels(to_rgb(image)) == expected

    @pytest.mark.parametrize(
        ("values", "expected"),
        [
            ([0.0, 0.2, 1.0], [0, 51, 255]),
            ([0.0, 100.4, 255.0], [0, 100, 255]),
            ([0.0, 257.0, 65535.0], [0, 1, 255]),
            ([-1.0, 0.0, 1.0], [0, 128, 255]),
            ([float("nan"), 0.2, float("inf")], [0, 51, 255]),
            ([float("nan")] * 3, [0, 0, 0]),
        ],
        ids=["unit", "8-bit", "16-bit", "negative", "not-finite", "all-nan"],
    )
    def test_floats_by_hand(self, values, expected):
        image = Image.fromarray(np.array([values], dtype=np.float32))
        assert image.mode == "F"
        assert grey_levels(to_rgb(image)) == expected

    def test_order_of_brightness_is_kept(self):
        values = np.random.default_rng(1).integers(-(2**31), 2**31 - 1, 50, dtype=np.int64).astype(np.int32)
        levels = np.array(grey_levels(to_rgb(Image.fromarray(values[None]))))
        assert (np.diff(levels[np.argsort(values)]) >= 0).all()
        assert (levels.min(), levels.max()) == (0, 255)


class TestOrientation:
    @pytest.mark.parametrize("orientation", range(1, 9))
    @pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP"])
    def test_stored_rotation_is_undone(self, picture, orientation, kind):
        # The stored pixels are the picture turned back, so that applying the tag gives the picture again.
        turns = {
            1: None,
            2: Image.Transpose.FLIP_LEFT_RIGHT,
            3: Image.Transpose.ROTATE_180,
            4: Image.Transpose.FLIP_TOP_BOTTOM,
            5: Image.Transpose.TRANSPOSE,
            6: Image.Transpose.ROTATE_90,
            7: Image.Transpose.TRANSVERSE,
            8: Image.Transpose.ROTATE_270,
        }
        turn = turns[orientation]
        stored = picture if turn is None else picture.transpose(turn)
        exif = Image.Exif()
        exif[ORIENTATION] = orientation
        options = {"lossless": True} if kind == "WEBP" else {}
        loaded = load_rgb(encoded(stored, kind, exif=exif, **options))
        assert loaded.tobytes() == picture.tobytes()
        assert loaded.size == picture.size
        assert to_rgb(loaded).tobytes() == loaded.tobytes()  # the tag is gone

    def test_equals_what_stock_transformers_does(self, picture):
        exif = Image.Exif()
        exif[ORIENTATION] = 6
        data = encoded(picture, "JPEG", exif=exif)
        stock = ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB")
        assert load_rgb(data).tobytes() == stock.tobytes()

    @pytest.mark.parametrize("mode", ["1", "L", "P", "CMYK", "I", "F", "I;16", "I;16B"])
    def test_applies_to_every_mode(self, mode):
        exif = Image.Exif()
        exif[ORIENTATION] = 6
        image = Image.new(mode, (6, 4))
        image.info["exif"] = exif.tobytes()
        assert to_rgb(image).size == (4, 6)

    def test_a_broken_exif_block_is_ignored(self, picture):
        picture.info["exif"] = b"Exif\x00\x00not a TIFF header"
        assert to_rgb(picture).tobytes() == picture.tobytes()


class TestLoad:
    def test_path_string_bytes_and_image_agree(self, picture, tmp_path):
        path = tmp_path / "picture.png"
        picture.save(path)
        for source in (path, str(path), path.read_bytes(), picture, Image.open(path)):
            assert load_rgb(source).tobytes() == picture.tobytes()

    @pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "TIFF", "BMP"])
    def test_truncated_file_is_named(self, tmp_path, kind):
        pixels = np.random.default_rng(2).integers(0, 256, (40, 40, 3), dtype=np.uint8)
        data = encoded(Image.fromarray(pixels), kind)
        path = tmp_path / f"half.{kind.lower()}"
        path.write_bytes(data[: len(data) // 2])
        with pytest.raises(BadImageError, match=rf"Cannot read image .*half\.{kind.lower()}: .+"):
            load_rgb(path)

    @pytest.mark.parametrize(
        "data", [b"", b"hello", b"\x89PNG\r\n\x1a\n"], ids=["empty", "text", "header-only"]
    )
    def test_what_is_no_image_is_named_without_a_memory_address(self, data):
        with pytest.raises(BadImageError, match=r"Cannot read image cat\.png: (?!.*0x)"):
            load_rgb(data, name="cat.png")

    def test_missing_file_says_so(self, tmp_path):
        with pytest.raises(BadImageError, match=r"nowhere\.png: No such file or directory"):
            load_rgb(tmp_path / "nowhere.png")

    def test_an_image_without_pixels_is_refused(self):
        with pytest.raises(BadImageError, match=r"it has no pixels, its size is \(0, 5\)"):
            load_rgb(Image.new("RGB", (0, 5)), name="x")

    def test_a_program_is_not_run(self, picture):
        with pytest.raises(BadImageError, match="EPS is a program, which is not run"):
            load_rgb(encoded(picture, "EPS"))

    def test_folder_is_refused(self, tmp_path):
        with pytest.raises(BadImageError, match="Cannot read image"):
            load_rgb(tmp_path)

    def test_lazily_opened_image_is_named_by_its_file(self, tmp_path, picture):
        path = tmp_path / "lazy.png"
        path.write_bytes(encoded(picture.resize((64, 64)), "PNG")[:-200])
        with Image.open(path) as image, pytest.raises(BadImageError, match=r"lazy\.png"):
            to_rgb(image)

    def test_bomb_is_refused_by_its_header(self, picture):
        data = bytearray(encoded(picture, "BMP"))
        data[18:26] = struct.pack("<ii", 30_000, 30_000)
        with pytest.raises(BadImageError, match="exceeds limit"):
            load_rgb(bytes(data))

    @pytest.mark.filterwarnings(
        "ignore"
    )  # Pillow may warn about damaged files; the claim here is about errors
    @pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "TIFF", "BMP", "PPM"])
    def test_random_damage_gives_an_image_or_bad_image_error(self, picture, kind):
        data = encoded(picture, kind)
        rng = np.random.default_rng(3)
        for _ in range(200):
            damaged = bytearray(data)
            for position in rng.integers(0, len(data), 3):
                damaged[position] = rng.integers(0, 256)
            with contextlib.suppress(BadImageError):  # any other error fails the test
                assert load_rgb(bytes(damaged)).mode == "RGB"
