"""What a path costs, relative to the dearest path. Pure functions on plain lists and tensors."""

from collections.abc import Sequence

import torch
from torch import Tensor

from quee_hf.levels import Level
from quee_hf.paths import Path


def bitops_table(
    segment_flops: Sequence[float], segment_bits: Sequence[Sequence[float]]
) -> list[list[float]]:
    """Cost of each segment at each level, in FLOPs x bits.

    Args:
        segment_flops: FLOPs of each segment.
        segment_bits: Mean bits per operation of each segment at each level.

    Source:
        Regol et al. 2024 (arXiv:2406.14404), §5.3.
    """
    return [[flops * bits for bits in row] for flops, row in zip(segment_flops, segment_bits, strict=True)]


def flops_table(segment_flops: Sequence[float], levels: Sequence[Level]) -> list[list[float]]:
    """Cost of each segment at each level in FLOPs, which do not depend on the level."""
    return [[float(flops)] * len(levels) for flops in segment_flops]


def path_cost(path: Path, table: Sequence[Sequence[float]]) -> float:
    """Return a path's cost relative to the whole network at its dearest levels, in (0, 1].

        c = sum of the segments' costs / sum over all segments of the dearest level's cost

    Example:
        >>> path_cost((0, 1), [[8.0, 4.0], [8.0, 4.0]])
        0.75

    Source:
        Regol et al. 2024 (arXiv:2406.14404), Eq. (17).
    """
    return sum(row[level] for row, level in zip(table, path, strict=False)) / sum(max(row) for row in table)


def path_costs(paths: Sequence[Path], table: Sequence[Sequence[float]]) -> Tensor:
    """Return `path_cost` of several paths, `(paths,)` float32."""
    return torch.tensor([path_cost(path, table) for path in paths], dtype=torch.float32)
