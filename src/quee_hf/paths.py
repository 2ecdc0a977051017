"""Paths: which level each segment runs at, and where the network is left. No tensors.

A path is a tuple of level indices, one per segment run; its length is the exit it ends at. A set of paths
that holds every prefix of its members is a tree whose nodes are the paths themselves.
"""

import itertools
import random
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from math import comb

Path = tuple[int, ...]


@dataclass(frozen=True)
class PathRules:
    """Which paths are allowed.

    Args:
        num_exits: Exits of the network.
        num_levels: Levels a segment may run at; index 0 is the most exact.
        is_monotone: Whether levels may only become less exact along a path.
        is_first_highest: Whether the first segment always runs at level index 0.
    """

    num_exits: int
    num_levels: int
    is_monotone: bool = True
    is_first_highest: bool = True

    def count(self, length: int) -> int:
        """Number of allowed paths that end at exit `length`."""
        free = length - self.is_first_highest
        if self.is_monotone:
            return comb(free + self.num_levels - 1, free)
        return int(self.num_levels**free)

    def enumerate(self) -> list[Path]:
        """List all allowed paths, shortest first, then by level index.

        Example:
            >>> PathRules(num_exits=2, num_levels=2).enumerate()
            [(0,), (0, 0), (0, 1)]

        Source:
            Regol et al. 2024 (arXiv:2406.14404), Eq. (6), §5.1 and §5.2.
        """
        return [path for length in range(1, self.num_exits + 1) for path in self._of_length(length)]

    def _of_length(self, length: int) -> Iterator[Path]:
        head = (0,) * self.is_first_highest
        free, levels = length - self.is_first_highest, range(self.num_levels)
        tails: Iterable[Path]
        if self.is_monotone:
            tails = itertools.combinations_with_replacement(levels, free)
        else:
            tails = itertools.product(levels, repeat=free)
        return (head + tail for tail in tails)

    def _draw(self, rng: random.Random) -> Path:
        """Draw one allowed path uniformly, without listing them."""
        lengths = range(1, self.num_exits + 1)
        length = rng.choices(lengths, weights=[self.count(length) for length in lengths])[0]
        free = length - self.is_first_highest
        if self.is_monotone:
            # Stars and bars: a multiset of levels is a choice of `free` places out of `free + levels - 1`.
            places = sorted(rng.sample(range(free + self.num_levels - 1), free))
            tail = tuple(place - i for i, place in enumerate(places))
        else:
            tail = tuple(rng.randrange(self.num_levels) for _ in range(free))
        return (0,) * self.is_first_highest + tail

    def select(self, max_paths: int, seed: int) -> list[Path]:
        """Return all allowed paths, or a random prefix-closed subset of at most `max_paths` of them.

        The full path at level index 0 is always among them.

        Args:
            max_paths: At least `num_exits`.
            seed: Of the draw; the same seed gives the same paths.

        Source:
            Regol et al. 2024 (arXiv:2406.14404), §5.2. Differs: closed under prefixes, so that "exit now" is
            always a candidate.
        """
        total = sum(self.count(length) for length in range(1, self.num_exits + 1))
        if total <= max_paths:
            return self.enumerate()
        rng = random.Random(seed)
        chosen = set(prefixes((0,) * self.num_exits))
        # A draw that no longer fits is dropped; after many such draws the set is as full as it gets.
        for _ in range(50 * max_paths):
            new = set(prefixes(self._draw(rng))) - chosen
            if len(chosen) + len(new) <= max_paths:
                chosen |= new
        return sorted(chosen, key=lambda path: (len(path), path))


def prefixes(path: Path) -> list[Path]:
    """Return the path's non-empty prefixes, shortest first, itself included."""
    return [path[:length] for length in range(1, len(path) + 1)]


@dataclass(frozen=True)
class PathTree:
    """A prefix-closed set of paths, as a tree. Node `i` is path `i`.

    Args:
        paths: Shortest first.

    Raises:
        ValueError: If they are not in order, or a prefix of a path is missing.

    Example:
        >>> tree = PathTree(((0,), (0, 0), (0, 1)))
        >>> tree.parents, tree.children(0), tree.descendants(0)
        ([-1, 0, 0], [1, 2], [0, 1, 2])
    """

    paths: tuple[Path, ...]

    def __post_init__(self) -> None:
        """Check that the set is ordered and closed under prefixes."""
        known = set(self.paths)
        if [len(path) for path in self.paths] != sorted(len(path) for path in self.paths):
            raise ValueError("Paths must be given shortest first.")
        for path in self.paths:
            if len(path) > 1 and path[:-1] not in known:
                raise ValueError(f"Path {path} is present, but its prefix {path[:-1]} is not.")

    @cached_property
    def index(self) -> dict[Path, int]:
        """Node of each path."""
        return {path: node for node, path in enumerate(self.paths)}

    @cached_property
    def parents(self) -> list[int]:
        """Node of each path's longest proper prefix, or -1."""
        return [self.index[path[:-1]] if len(path) > 1 else -1 for path in self.paths]

    @cached_property
    def exact_nodes(self) -> list[int]:
        """Nodes of the path that runs every segment at the most exact level, one for each exit."""
        return [self.index[(0,) * depth] for depth in range(1, len(self.paths[-1]) + 1)]

    @cached_property
    def ancestors(self) -> list[list[int]]:
        """Nodes of each path's prefixes, shortest first, its own last."""
        rows: list[list[int]] = []
        for node, parent in enumerate(self.parents):
            rows.append([*(rows[parent] if parent >= 0 else ()), node])
        return rows

    @cached_property
    def _children(self) -> dict[int, list[int]]:
        found: dict[int, list[int]] = {node: [] for node in range(-1, len(self.paths))}
        for node, parent in enumerate(self.parents):
            found[parent].append(node)
        return found

    def children(self, node: int) -> list[int]:
        """Nodes one segment further; `-1` gives the roots."""
        return self._children[node]

    def descendants(self, node: int) -> list[int]:
        """Nodes that can still be reached from `node`, itself included; `-1` gives all."""
        if node == -1:
            return list(range(len(self.paths)))
        found, pending = [], [node]
        while pending:
            found.append(pending.pop())
            pending += self._children[found[-1]]
        return sorted(found)

    @cached_property
    def _lengths(self) -> list[int]:
        return [len(path) for path in self.paths]

    def at_depth(self, depth: int) -> list[int]:
        """Nodes of the paths that end at exit `depth`."""
        return list(range(self.first_at_depth(depth), self.first_at_depth(depth + 1)))

    def first_at_depth(self, depth: int) -> int:
        """First node whose path ends at exit `depth` or later; all later nodes do, too."""
        return bisect_left(self._lengths, depth)
