"""`Router`: the decisions at gates, and the costs that they go by."""

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from quee_hf.paths import PathTree
from quee_hf.routing.decisions import ROOT, Decision, PathPolicy

__all__ = ["ROOT", "Decision", "Router"]


class Router(PathPolicy):
    """A `PathPolicy` with the costs of its paths.

    Args:
        tree: The paths that gates score.
        costs: `(paths,)`, float32, as `quee_hf.routing.costs.path_costs` gives them.
        choices: As `PathPolicy` takes them.
    """

    def __init__(self, tree: PathTree, costs: Tensor, choices: NDArray[np.bool_] | None = None) -> None:
        super().__init__(tree, costs.numpy(), choices)
        self.costs = costs
