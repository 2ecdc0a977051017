"""`Router`: the decision at one gate, for images that may stand at different nodes of the path tree."""

from typing import NamedTuple

import torch
from torch import Tensor

from quee_hf.paths import PathTree
from quee_hf.routing.policy import choose_paths

ROOT = -1


class Decision(NamedTuple):
    """What a gate decided for each image."""

    next_node: Tensor  # (batch,), int64; the image's own node if it is to leave here
    error: Tensor  # (batch,), float32; predicted error of the path the gate aims for


class Router:
    """Decide at each gate whether an image leaves, or at which level it goes on.

    Args:
        tree: The paths that gates score.
        costs: `(paths,)`, float32, as `quee_hf.routing.costs.path_costs` gives them.
    """

    def __init__(self, tree: PathTree, costs: Tensor) -> None:
        self.tree = tree
        self.costs = costs
        longest = len(tree.paths[-1])
        # One row per path, level indices and then -1 for segments that do not run.
        rows = [[*path, *[-1] * (longest - len(path))] for path in tree.paths]
        self.path_rows = torch.tensor(rows, dtype=torch.int16)
        # Row i, column d: the node of path i's prefix of d + 1 segments, or its own if it is shorter.
        passed = [[*row, *[row[-1]] * (longest - len(row))] for row in tree.ancestors]
        self._passed = torch.tensor(passed)
        self._exact_child = torch.tensor(  # the last entry, index -1, stands for the root
            [(tree.children(node) or [node])[0] for node in (*range(len(tree.paths)), ROOT)]
        )
        self._first = [tree.first_at_depth(depth) for depth in range(longest + 1)]

    def to(self, device: torch.device) -> "Router":
        """Move the tables to a device, in place."""
        if self.costs.device != device:
            self.costs, self.path_rows = self.costs.to(device), self.path_rows.to(device)
            self._passed, self._exact_child = self._passed.to(device), self._exact_child.to(device)
        return self

    def reachable(self, depth: int, node: Tensor) -> Tensor:
        """Which paths of at least `depth` segments can still be taken: `(len(node), paths)`, bool."""
        if not depth:
            return torch.ones(len(node), len(self.tree.paths), dtype=torch.bool, device=node.device)
        return self._passed[self._first[depth] :, depth - 1] == node[:, None]

    def owners(self, depth: int) -> Tensor:
        """Return where each path of at least `depth` segments passes among the nodes of that depth.

        Returns:
            `(paths,)`, int64, positions in `tree.at_depth(depth)`.
        """
        return self._passed[self._first[depth] :, depth - 1] - self._first[depth]

    def exact_child(self, node: Tensor) -> Tensor:
        """Return the nodes one segment further at the most exact level that the paths allow."""
        return self._exact_child[node]

    def only_child(self, node: int) -> int | None:
        """Return the next node if there is nothing to decide at `node`, else `None`."""
        children = self.tree.children(node)
        return children[0] if node == ROOT and len(children) == 1 else None

    def decide(self, depth: int, node: Tensor, errors: Tensor, cost_lambda: Tensor) -> Decision:
        """Take one step towards the path with the lowest expected loss.

        Args:
            depth: Segments run so far; all images stand at this depth.
            node: `(batch,)`, int64, each image's node; `ROOT` before the first segment.
            errors: `(batch, paths of at least this depth)`, predicted error probabilities.
            cost_lambda: `(batch,)`, float32.
        """
        first = self._first[depth]
        chosen = choose_paths(errors, self.costs[first:], cost_lambda, self.reachable(depth, node))
        error = errors.gather(1, chosen[:, None]).squeeze(1)
        return Decision(self._passed[chosen + first, depth], error)
