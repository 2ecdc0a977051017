"""Views of images: cropped and mirrored copies, so that heads do not learn single images by heart."""

import torch
from torch import Tensor
from torch.nn import functional

_LEAST_SIDE = 0.6  # of a crop, relative to the image


def random_views(pixel_values: Tensor, random: torch.Generator) -> Tensor:
    """Return each image cropped at random, scaled to its size again, and half of them mirrored.

    Args:
        pixel_values: `(batch, channels, height, width)`.
        random: On the CPU.

    Returns:
        The same shape.
    """
    count = len(pixel_values)
    side = _LEAST_SIDE + (1 - _LEAST_SIDE) * torch.rand(count, generator=random)
    shift = (1 - side)[:, None] * (2 * torch.rand(count, 2, generator=random) - 1)
    mirror = 1 - 2 * (torch.rand(count, generator=random) < 0.5).float()
    maps = torch.zeros(count, 2, 3)
    maps[:, 0, 0], maps[:, 1, 1], maps[:, :, 2] = side * mirror, side, shift
    grid = functional.affine_grid(maps, list(pixel_values.shape), align_corners=False)
    views = functional.grid_sample(
        pixel_values, grid.to(pixel_values), padding_mode="border", align_corners=False
    )
    return views
