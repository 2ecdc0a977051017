"""`quantize`: give a model its integer levels."""

from collections.abc import Sized
from typing import Any, cast

import torch
from torch import Tensor
from torch.utils.data import Dataset

from quee_hf.levels import is_integer_level
from quee_hf.modeling import QuEEForImageClassification
from quee_hf.ptq import PTQ_METHODS
from quee_hf.quantization.linear import MultiLevelLinear


def quantize(
    model: QuEEForImageClassification,
    calibration_images: Dataset[Any] | Tensor,
    *,
    method: str = "mse",
    num_images: int = 128,
    batch_size: int = 32,
) -> None:
    """Quantize a model's trunk at all its integer levels, in place.

    Patch embedding, norms, heads and gates stay float. Float weights are dropped if no level needs them.

    Args:
        model: With float weights.
        calibration_images: Items `{"pixel_values": (channels, height, width)}`, or the pixel values
            themselves, `(images, channels, height, width)`. They set ranges and nothing else; labels are not
            used.
        method: One of `quee_hf.ptq.PTQ_METHODS`.
        num_images: How many images to use, evenly spread over those given.
        batch_size: Images per batch.

    Raises:
        ValueError: If the method is unknown, there are no images or no integer levels, the model is already
            quantized, or an activation is not finite.
    """
    config = model.config
    levels = [int(level) for level in config.level_list if is_integer_level(level)]
    if method not in PTQ_METHODS:
        raise ValueError(f"`method` must be one of {sorted(PTQ_METHODS)}, got {method!r}.")
    if not levels:
        raise ValueError(f"The model has no integer level to quantize to: `levels` is {config.level_list}.")
    if config.quantization is not None:
        raise ValueError("The model is already quantized; start from the float model.")
    images = _pick_images(calibration_images, num_images).to(model.device)
    PTQ_METHODS[method](model.trunk, images.split(batch_size), levels)
    config.quantization = {"method": method, "num_images": len(images)}
    if len(levels) == len(config.level_list):
        for module in model.trunk.modules():
            if isinstance(module, MultiLevelLinear):
                module.drop_float_weight()


def _pick_images(images: Dataset[Any] | Tensor, num_images: int) -> Tensor:
    size = len(cast(Sized, images))
    if num_images < 1 or size < 1:
        raise ValueError(
            f"`num_images` must be at least 1 and there must be images, got {num_images} of {size}."
        )
    picked = torch.linspace(0, size - 1, min(num_images, size)).round().long().tolist()
    return torch.stack(
        [images[i] if isinstance(images, Tensor) else images[i]["pixel_values"] for i in picked]
    )
