"""Soft splits: how T2T-ViT cuts an image, and then a grid of tokens, into windows that overlap. No torch."""

from typing import NamedTuple


class SoftSplit(NamedTuple):
    """Square windows over a grid, in steps smaller than they are; outside of the grid are zeros."""

    kernel_size: int
    stride: int
    padding: int

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """Return how many windows there are, down and across, on a grid of `height` by `width`."""
        rows, columns = (
            (side + 2 * self.padding - self.kernel_size) // self.stride + 1 for side in (height, width)
        )
        return rows, columns


# Yuan et al. 2021 (arXiv:2101.11986), §4.1; the same in every size of the model.
SOFT_SPLITS = (SoftSplit(7, 4, 2), SoftSplit(3, 2, 1), SoftSplit(3, 2, 1))
SMALLEST_IMAGE = 3  # pixels; of fewer, the first split has no window


def token_grids(height: int, width: int) -> list[tuple[int, int]]:
    """Return the grid of tokens after each soft split of an image.

    Example:
        >>> token_grids(224, 224)
        [(56, 56), (28, 28), (14, 14)]
    """
    grids = []
    for split in SOFT_SPLITS:
        height, width = split.grid(height, width)
        grids.append((height, width))
    return grids
