"""Decisions at gates, for images that may stand at different nodes of the path tree. NumPy only.

What is deployed without PyTorch decides by these very lines: `quee_hf.deployment` copies them.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from quee_hf.paths import PathTree
from quee_hf.routing.policy import Floats, Indices, first_best

ROOT = -1


class Decision(NamedTuple):
    """What a gate decided for each image."""

    next_node: Indices  # (batch,); the image's own node if it is to leave here
    error: Floats  # (batch,); predicted error of the path the gate aims for


class _Options(NamedTuple):
    """The paths that may be chosen at one depth, the cheapest first."""

    columns: Indices  # of what a gate there predicts
    costs: Floats
    before: Indices | None  # the node that each passes at this depth, where images stand; none at the root
    after: Indices  # and one segment further


class PathPolicy:
    """Decide at each gate whether an image leaves, or at which level it goes on.

    Args:
        tree: The paths that gates score.
        costs: `(paths,)`, as `quee_hf.routing.costs.path_cost` gives them.
        choices: `(paths,)`, which of them may be chosen, each with all its prefixes, as
            `quee_hf.routing.dominance.worth_choosing` tells it; all if not given.
    """

    def __init__(self, tree: PathTree, costs: Floats, choices: NDArray[np.bool_] | None = None) -> None:
        self.tree = tree
        self.choices = np.ones(len(tree.paths), dtype=bool) if choices is None else choices
        longest = len(tree.paths[-1])
        # One row per path, level indices and then -1 for segments that do not run.
        self.path_rows = np.array([[*path, *[-1] * (longest - len(path))] for path in tree.paths], np.int16)
        self.last_levels = np.array([path[-1] for path in tree.paths])  # of each path's last segment
        # Row i, column d: the node of path i's prefix of d + 1 segments, or its own if it is shorter.
        self._passed = np.array([[*row, *[row[-1]] * (longest - len(row))] for row in tree.ancestors])
        self._exact_child = np.array(  # the last entry, index -1, stands for the root
            [(self._children(node) or [node])[0] for node in (*range(len(tree.paths)), ROOT)]
        )
        self._first = [tree.first_at_depth(depth) for depth in range(longest + 1)]
        self._options = [self._options_at(depth, costs) for depth in range(longest)]

    def _options_at(self, depth: int, costs: Floats) -> _Options:
        first = self._first[depth]
        nodes = self.choices.nonzero()[0]
        nodes = nodes[nodes >= first]
        nodes = nodes[costs[nodes].argsort(kind="stable")]
        before = self._passed[nodes, depth - 1] if depth else None
        return _Options(nodes - first, costs[nodes], before, self._passed[nodes, depth])

    def _children(self, node: int) -> list[int]:
        return [child for child in self.tree.children(node) if self.choices[child]]

    def reachable(self, depth: int, node: Indices) -> NDArray[np.bool_]:
        """Which paths of at least `depth` segments can still be chosen: `(len(node), paths)`."""
        choices = self.choices[self._first[depth] :]
        if not depth:
            return np.tile(choices, (len(node), 1))
        found: NDArray[np.bool_] = (self._passed[self._first[depth] :, depth - 1] == node[:, None]) & choices
        return found

    def owners(self, depth: int) -> Indices:
        """Return where each path of at least `depth` segments passes among the nodes of that depth.

        Returns:
            `(paths,)`, positions in `tree.at_depth(depth)`.
        """
        found: Indices = self._passed[self._first[depth] :, depth - 1] - self._first[depth]
        return found

    def exact_child(self, node: Indices) -> Indices:
        """Return the nodes one segment further at the most exact level that the paths allow."""
        found: Indices = self._exact_child[node]
        return found

    def only_child(self, node: int) -> int | None:
        """Return the next node if there is nothing to decide at `node`, else `None`."""
        children = self._children(node)
        return children[0] if node == ROOT and len(children) == 1 else None

    def decide(self, depth: int, node: Indices, errors: Floats, cost_lambda: Floats) -> Decision:
        """Take one step towards the path with the lowest expected loss.

        Args:
            depth: Segments run so far; all images stand at this depth.
            node: `(batch,)`, each image's node; `ROOT` before the first segment.
            errors: `(batch, paths of at least this depth)`, predicted error probabilities.
            cost_lambda: `(batch,)`.
        """
        columns, costs, before, after = self._options[depth]
        errors = errors[:, columns]
        reachable = None if before is None else before == node[:, None]
        chosen = first_best(errors, costs, cost_lambda, reachable)
        return Decision(after[chosen], errors[np.arange(len(node)), chosen])


def decide_by_threshold(policy: PathPolicy, node: Indices, right: Floats, threshold: Floats) -> Decision:
    """Leave, or go on at the most exact level.

    Args:
        policy: The paths.
        node: `(batch,)`, each image's node.
        right: `(batch,)`, predicted probability that the exit there is right.
        threshold: `(batch,)`, what it must reach to leave.
    """
    return Decision(np.where(right >= threshold, node, policy.exact_child(node)), 1 - right)


def enter(policy: PathPolicy, node: Indices) -> Decision:
    """Run the first segment at the most exact level, where nothing is known that could decide."""
    return Decision(policy.exact_child(node), np.full(node.shape, np.nan, np.float32))
