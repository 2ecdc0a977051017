"""`ImageReader`: pixel values as a model's image processor makes them, with Pillow and NumPy alone."""

import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from quee_hf.deployment.description import read_fields
from quee_hf.images import load_rgb

Source = str | pathlib.Path | bytes | Image.Image


class ImageReader:
    """Read images.

    Args:
        preprocessing: "size", `{"height", "width"}` or `{"shortest_edge"}`, with "resample", Pillow's number
            of a filter; "crop_size", `{"height", "width"}`, cut from the centre; "rescale_factor"; and
            "mean" and "std", one for each channel. A step that is `None` is left out.

    Raises:
        ValueError: If a size is of another kind.
    """

    def __init__(self, preprocessing: Mapping[str, Any]) -> None:
        self._steps = dict(preprocessing)
        for name, allowed in (
            ("size", ({"height", "width"}, {"shortest_edge"})),
            ("crop_size", ({"height", "width"},)),
        ):
            size = self._steps[name]
            if size is not None and set(size) not in allowed:
                raise ValueError(f"`{name}` must have {' or '.join(map(str, allowed))}, got {size}.")

    @classmethod
    def from_folder(cls, folder: str | pathlib.Path) -> "ImageReader":
        """Return what reads images for an exported model.

        Raises:
            ValueError: If its image processor does what no reader does, or its `router.json` is damaged.
        """
        described = read_fields(pathlib.Path(folder))
        if described["preprocessing"] is None:
            raise ValueError(f"{folder} does not say how images become pixel values: make these yourself.")
        return cls(described["preprocessing"])

    def __call__(self, images: Source | Sequence[Source]) -> NDArray[np.float32]:
        """Return the pixel values of an image or several, `(batch, 3, height, width)`.

        Args:
            images: Paths, the bytes of files, or images of Pillow. Turned upright, and converted to 8-bit
                RGB.

        Raises:
            ValueError: If there are none.
            BadImageError: If one cannot be read.
        """
        single = isinstance(images, (str, pathlib.Path, bytes, Image.Image))
        sources: Sequence[Any] = [images] if single else list(images)  # type: ignore[arg-type]
        if not sources:
            raise ValueError("There are no images to read.")
        return np.stack([self._read(load_rgb(source)) for source in sources])

    def _read(self, image: Image.Image) -> NDArray[np.float32]:
        steps = self._steps
        if steps["size"] is not None:
            height, width = _resized(image, steps["size"])
            image = image.resize((width, height), resample=steps["resample"])
        pixels = np.asarray(image)
        if steps["crop_size"] is not None:
            pixels = _centre(pixels, steps["crop_size"]["height"], steps["crop_size"]["width"])
        values: NDArray[np.float32] = pixels.astype(np.float32)
        if steps["rescale_factor"] is not None:
            values = (pixels.astype(np.float64) * steps["rescale_factor"]).astype(np.float32)
        if steps["mean"] is not None:
            mean, std = (np.array(steps[name], np.float32) for name in ("mean", "std"))
            values = (values - mean) / std
        return np.ascontiguousarray(values.transpose(2, 0, 1))


def _resized(image: Image.Image, size: Mapping[str, int]) -> tuple[int, int]:
    """Return the height and width to which an image is resized."""
    if "height" in size:
        return size["height"], size["width"]
    short, (width, height) = size["shortest_edge"], image.size
    long = int(short * max(width, height) / min(width, height))
    return (long, short) if width <= height else (short, long)


def _centre(pixels: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    """Cut `(height, width, 3)` from the centre; what the image lacks is black."""
    missing = [
        max(wanted - there, 0) for wanted, there in zip((height, width), pixels.shape[:2], strict=True)
    ]
    before = [math.ceil(count / 2) for count in missing]
    ends = [(first, count - first) for first, count in zip(before, missing, strict=True)]
    padded = np.pad(pixels, [*ends, (0, 0)])
    # An odd difference is rounded as if nothing had been added.
    top, left = (
        (there - wanted) // 2 + first
        for there, wanted, first in zip(pixels.shape[:2], (height, width), before, strict=True)
    )
    return padded[top : top + height, left : left + width]
