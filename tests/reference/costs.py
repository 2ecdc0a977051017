"""QuEE Eq. (17), block by block."""

from collections.abc import Sequence
from fractions import Fraction


def bitops_cost(
    path_bits: Sequence[int], blocks_per_segment: Sequence[int], block_flops: int, most_bits: int
) -> Fraction:
    """Sum FLOPs x bits over the blocks that run, relative to all blocks at the most bits."""
    run = 0
    for bits, num_blocks in zip(path_bits, blocks_per_segment, strict=False):
        for _ in range(num_blocks):
            run += block_flops * bits
    return Fraction(run, sum(blocks_per_segment) * block_flops * most_bits)
