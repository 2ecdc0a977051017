"""CIFAR-10 images as they are, and noised, darkened and blurred: what streams of benchmarks are made of."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageEnhance, ImageFilter

from quee_hf.data import LabelledImages

Shift = Callable[[Image.Image, np.random.Generator], Image.Image]


def _noised(image: Image.Image, random: np.random.Generator, *, sigma: float) -> Image.Image:
    pixels = np.asarray(image, dtype=np.float64)
    return Image.fromarray((pixels + random.normal(0, sigma, pixels.shape)).clip(0, 255).astype(np.uint8))


def _blurred(image: Image.Image, _: np.random.Generator, *, radius: float) -> Image.Image:
    return image.filter(ImageFilter.GaussianBlur(radius))


def _darkened(image: Image.Image, _: np.random.Generator, *, factor: float) -> Image.Image:
    return ImageEnhance.Brightness(image).enhance(factor)


SHIFTS: dict[str, Shift] = {
    "clean": lambda image, _: image,
    "noised": partial(_noised, sigma=25),
    "darkened": partial(_darkened, factor=0.35),
    "blurred": partial(_blurred, radius=1.0),
}
MILD_SHIFTS: dict[str, Shift] = {
    "slightly noised": partial(_noised, sigma=8),
    "slightly darkened": partial(_darkened, factor=0.7),
    "slightly blurred": partial(_blurred, radius=0.5),
}


def pixels_of(images: LabelledImages, processor: Any, shift: Shift) -> torch.Tensor:
    """Return what a model takes of shifted images, `(images, channels, height, width)`."""
    random = np.random.default_rng(0)
    shifted = (shift(images[row]["image"].convert("RGB"), random) for row in range(len(images)))
    return torch.stack([processor(images=each, return_tensors="pt")["pixel_values"][0] for each in shifted])
