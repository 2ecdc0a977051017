"""Which paths are worth choosing from, by exactness and cost alone. Pure functions."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from quee_hf.paths import Path, PathTree


def undominated(paths: Sequence[Path], costs: Sequence[float]) -> NDArray[np.bool_]:
    """Tell which paths no other path beats.

    A path is dominated if another one that ends at the same exit is at least as exact in each segment and not
    dearer. Of paths with one exit, the most exact is never dominated.

    Args:
        paths: Level indices, 0 the most exact; each path once.
        costs: Of each, in any unit; not rounded, so that equal ones are equal.

    Returns:
        `(paths,)`.

    Example:
        >>> undominated([(0,), (0, 0), (0, 1), (0, 2)], [1.0, 2.0, 2.0, 1.5]).tolist()
        [True, True, False, True]
    """
    kept = np.ones(len(paths), dtype=bool)
    price = np.array(costs, dtype=np.float64)
    for length in {len(path) for path in paths}:
        nodes = np.array([node for node, path in enumerate(paths) if len(path) == length])
        levels = np.array([paths[node] for node in nodes])  # (same exit, segments)
        for node, own in zip(nodes, levels, strict=True):
            beats = (levels <= own).all(axis=1) & (price[nodes] <= price[node]) & (nodes != node)
            kept[node] = not beats.any()
    return kept


def worth_choosing(tree: PathTree, costs: Sequence[float]) -> NDArray[np.bool_]:
    """Tell which paths a router should choose from: the undominated, and their prefixes.

    With the prefixes, an image that has come along such a path can always leave where it stands. They are
    undominated themselves unless the tree is a sample of the allowed paths.

    Args:
        tree: The paths.
        costs: As `undominated` takes them.
    """
    kept = undominated(tree.paths, costs)
    for node in kept.nonzero()[0]:
        kept[tree.ancestors[node]] = True
    return kept
