"""Images that are no numbers: what a network says of them must not pass for an answer.

A NaN spoils a float network from there to its end. Kernels for integers make some integer of it, and what
follows looks like any other number.
"""

import numpy as np
import torch
from torch import Tensor


def are_finite(pixel_values: Tensor) -> Tensor:
    """Return which images hold neither NaN nor infinity, `(batch,)`, bool, without waiting for a device.

    Args:
        pixel_values: `(batch, ...)`. What sums up to more than float32 holds counts as infinite, too.
    """
    pixel_values = pixel_values.detach().flatten(1)
    if pixel_values.device.type == "cpu" and pixel_values.dtype == torch.float32:
        # One thread's work: those of PyTorch would keep those of an engine from running.
        with np.errstate(invalid="ignore", over="ignore"):
            return torch.from_numpy(np.isfinite(pixel_values.numpy().sum(axis=1)))
    return pixel_values.sum(dim=1, dtype=torch.float32).isfinite()


def where_finite(outputs: Tensor, pixel_values: Tensor) -> Tensor:
    """Return what a network says, `(batch, ...)`, with NaN for images that are not finite."""
    finite = are_finite(pixel_values).reshape(-1, *[1] * (outputs.ndim - 1))
    return outputs.where(finite, torch.nan)


def check_finite(pixel_values: Tensor, first: int = 0) -> None:
    """Refuse images that hold NaN or infinity.

    Args:
        pixel_values: `(batch, ...)`.
        first: Position of the first of them in their data set.

    Raises:
        ValueError: If there are any; the message says where.
    """
    finite = are_finite(pixel_values)
    if not bool(finite.all()):
        position = first + int((~finite).nonzero()[0])
        raise ValueError(f"The pixel values of image {position}, counted from 0, hold NaN or infinity.")
