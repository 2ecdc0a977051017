"""Tests of `ImageReader` against the image processors of transformers."""

import numpy as np
import pytest
from PIL import Image
from transformers import BitImageProcessorPil, CLIPImageProcessorPil, ViTImageProcessorPil

from quee_hf import BadImageError
from quee_hf.deployment.description import EXPORT_FORMAT, Description, GraphNames, write_description
from quee_hf.deployment.export import describe_processor
from quee_hf.deployment.image_reader import ImageReader

SIZES = [(40, 70), (71, 33), (28, 28), (9, 5), (300, 200), (29, 28)]


def picture(height, width, seed=0):
    random = np.random.default_rng(seed)
    return Image.fromarray(random.integers(0, 256, (height, width, 3), dtype=np.uint8))


@pytest.mark.parametrize(
    "processor",
    [
        ViTImageProcessorPil(size={"height": 28, "width": 28}),
        BitImageProcessorPil(size={"height": 28, "width": 28}, do_center_crop=False),
        BitImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 28, "width": 28}),
        CLIPImageProcessorPil(size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28}),
        CLIPImageProcessorPil(do_resize=False, crop_size={"height": 28, "width": 28}),
        CLIPImageProcessorPil(do_resize=False, crop_size={"height": 28, "width": 28}, do_rescale=False),
        ViTImageProcessorPil(size={"height": 28, "width": 28}, do_normalize=False, resample=0),
        ViTImageProcessorPil(size={"height": 28, "width": 28}, rescale_factor=1 / 127, resample=3),
    ],
    ids=lambda processor: type(processor).__name__,
)
def test_equals_a_processor(processor):
    read = ImageReader(describe_processor(processor, [3, 28, 28]))
    for size in SIZES:
        image = picture(*size)
        expected = np.asarray(processor(images=[image], return_tensors="np")["pixel_values"])
        found = read(image)
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
    ("processor", "message"),
    [
        (ViTImageProcessorPil(size={"longest_edge": 28, "shortest_edge": 20}), "sizes of another kind"),
        (ViTImageProcessorPil(size={"height": 30, "width": 30}), r"makes images of \(3, 30, 30\)"),
        (
            ViTImageProcessorPil(
                size={"height": 28, "width": 28}, do_pad=True, pad_size={"height": 40, "width": 40}
            ),
            "does more",
        ),
    ],
    ids=["sizes", "shape", "padding"],
)
def test_a_processor_that_does_more_is_not_described(processor, message):
    with pytest.warns(UserWarning, match=message):
        assert describe_processor(processor, [3, 28, 28]) is None


@pytest.fixture
def read():
    return ImageReader(
        describe_processor(ViTImageProcessorPil(size={"height": 28, "width": 28}), [3, 28, 28])
    )


def test_reads_files_bytes_and_several(read, tmp_path):
    image = picture(40, 70)
    image.save(tmp_path / "image.png")
    expected = read(image)
    content = (tmp_path / "image.png").read_bytes()
    for source in (tmp_path / "image.png", str(tmp_path / "image.png"), content):
        np.testing.assert_array_equal(read(source), expected)
    several = read([image, content, picture(28, 28)])
    assert several.shape == (3, 3, 28, 28)
    np.testing.assert_array_equal(several[1:2], expected)


def test_grey_and_turned_images_are_rgb_and_upright(read):
    image = picture(40, 70)
    np.testing.assert_array_equal(read(image.convert("L")), read(image.convert("L").convert("RGB")))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise
    turned = image.transpose(Image.Transpose.ROTATE_90)
    turned.getexif()[0x0112] = 6
    np.testing.assert_array_equal(read(turned), read(image))


def test_what_is_no_image_is_named(read, tmp_path):
    (tmp_path / "notes.png").write_text("nothing")
    with pytest.raises(BadImageError, match=r"notes.png"):
        read(tmp_path / "notes.png")


def test_a_folder_that_says_nothing_is_refused(tmp_path):
    nothing = Description(*[None] * len(Description._fields))
    names = GraphNames("embedding.onnx", [], [], [])
    write_description(tmp_path, nothing._replace(format_version=EXPORT_FORMAT, graphs=names))
    with pytest.raises(ValueError, match="does not say how images become pixel values"):
        ImageReader.from_folder(tmp_path)
