"""Memory for tokens that is used again: new pages of memory cost more than what a kernel writes to them."""

import math
import sys
import threading
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_SMALLEST = 2**15  # numbers; below it allocators use memory again themselves
_MOST_KEPT = 16
_NOT_USED = 3  # references to an array: the list's, the loop's, and the call's that counts them


class _Kept(threading.local):
    def __init__(self) -> None:
        self.arrays: list[NDArray[np.float32]] = []


_kept = _Kept()


def empty(shape: Sequence[int]) -> Tensor:
    """Return a float32 tensor on the CPU whose numbers are not set.

    Each thread keeps a few large pieces of memory. One is given out again when no tensor of it is left, so
    tensors may be kept as long as any others.
    """
    size = math.prod(shape)
    if size < _SMALLEST:
        return torch.empty(*shape)
    array = _unused(size)
    if array is None:
        array = np.empty(size, np.float32)
        _keep(array)
    return torch.from_numpy(array[:size].reshape(shape))


def _unused(size: int) -> NDArray[np.float32] | None:
    """Return kept memory that is large enough, and that no tensor shares."""
    for array in _kept.arrays:
        if array.size >= size and sys.getrefcount(array) == _NOT_USED:
            return array
    return None


def _keep(array: NDArray[np.float32]) -> None:
    """Remember memory, in place of the smallest if there is much already."""
    arrays = _kept.arrays
    arrays.append(array)
    arrays.sort(key=lambda kept: kept.size)  # the smallest that suffices is found first
    if len(arrays) > _MOST_KEPT:
        del arrays[0]
