"""Paths by brute force."""

import itertools


def allowed_paths(
    num_exits: int, num_levels: int, *, is_monotone: bool, is_first_highest: bool
) -> set[tuple[int, ...]]:
    """Make every tuple of level indices, and keep those that break no rule."""
    kept = set()
    for length in range(1, num_exits + 1):
        for path in itertools.product(range(num_levels), repeat=length):
            becomes_more_exact = any(later < earlier for earlier, later in itertools.pairwise(path))
            if is_monotone and becomes_more_exact:
                continue
            if is_first_highest and path[0] != 0:
                continue
            kept.add(path)
    return kept
