"""What a way of routing gives each image, over a sweep of its settings; and what it may learn from."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from quee_hf.execution.path_outputs import PathOutputs
from quee_hf.levels import Level
from quee_hf.routing.router import Router


class Sweep(NamedTuple):
    """What each setting gives each image."""

    is_correct: Tensor  # (settings, images), bool
    cost: Tensor  # (settings, images), float32, relative to the dearest path
    node: Tensor  # (settings, images), int32: which path was taken; whose, the maker of the sweep knows


class GateData(NamedTuple):
    """What a baseline may learn from.

    Args:
        router: The paths and their costs.
        levels: From most to least exact.
        training: Outputs of images that the backbone has not been trained on.
        stopping: Of others, to stop by.
        seed: Of all random choices.
    """

    router: Router
    levels: list[Level]
    training: PathOutputs
    stopping: PathOutputs
    seed: int


Method = Callable[[PathOutputs], Sweep]
Fit = Callable[[GateData], Method]


def leave_at(nodes: Tensor, outputs: PathOutputs, costs: Tensor) -> Sweep:
    """Let images leave at given nodes of the path tree.

    Args:
        nodes: `(settings, images)`, int64.
        outputs: Of all paths.
        costs: `(paths,)`.
    """
    is_wrong = outputs.is_wrong.T.gather(0, nodes)
    return Sweep(~is_wrong, costs.cpu()[nodes], nodes.int())


def leave_at_first(is_reached: Tensor, router: Router, outputs: PathOutputs) -> Sweep:
    """Let each image leave at the first exit where it may, or at the last; all at the most exact level.

    Args:
        is_reached: `(settings, images, exits)`, bool: where it may.
        router: The paths and their costs.
        outputs: Of all paths.
    """
    may_leave = is_reached.clone()
    may_leave[..., -1] = True
    exits = may_leave.int().argmax(dim=-1)  # argmax takes the first of equals
    return leave_at(torch.tensor(router.tree.exact_nodes)[exits], outputs, router.costs)


def geometric_shares(num_exits: int) -> Tensor:
    """Return shares of images to leave at each exit, from nearly all at the first to nearly all at the last.

        share(exit k) ~ (p / 20)^k    for p = 1..39

    Returns:
        `(39, exits)`, float64; rows sum to 1.

    Source:
        The budgeted batch setting of Huang et al. 2018 (MSDNet, arXiv:1703.09844), as its public code has it.
    """
    ratios = torch.arange(1, 40, dtype=torch.float64)[:, None] / 20
    shares = ratios ** torch.arange(1, num_exits + 1)
    return shares / shares.sum(dim=1, keepdim=True)
