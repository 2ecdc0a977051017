"""Leaving at the first confident exit: the simplest routing, as a reference for gates. Pure functions."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from quee_hf.execution.path_outputs import PathOutputs
from quee_hf.paths import PathTree
from quee_hf.routing.router import Router

# Denser towards 1, where most probabilities of a trained classifier are; above 1 nothing leaves early.
DEFAULT_THRESHOLDS = (
    *(0.0, 0.2, 0.3, 0.4, 0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.875, 0.9, 0.925, 0.95, 0.96, 0.97),
    *(0.98, 0.985, 0.99, 0.995, 0.998, 0.999, 0.9999, 1.1),
)


class Thresholded(NamedTuple):
    """What each threshold gives each image."""

    is_correct: Tensor  # (thresholds, images), bool
    cost: Tensor  # (thresholds, images), float32, relative to the dearest path


def threshold_exits(
    router: Router, outputs: PathOutputs, thresholds: Sequence[float] = DEFAULT_THRESHOLDS
) -> Thresholded:
    """Let every image leave at the first exit whose largest class probability reaches a threshold.

    All segments run at the most exact level, so the exits are those of `exact_nodes`. One threshold
    holds for all exits; an image that reaches it nowhere leaves at the last. Gates are not asked.

    Args:
        router: Of the model that made the outputs.
        outputs: Of all its paths.
        thresholds: Probabilities; above 1 nothing leaves early.

    Raises:
        ValueError: If there are no thresholds or no images.

    Source:
        The baseline "Thresholding" of Regol et al. 2024 (QuEE, arXiv:2406.14404), §5.4.
    """
    if not len(thresholds) or not len(outputs):
        raise ValueError(f"There must be thresholds and images, got {len(thresholds)} and {len(outputs)}.")
    nodes = torch.tensor(exact_nodes(router.tree))
    confidence = outputs.logits[:, nodes].softmax(dim=-1).amax(dim=-1)  # (images, exits)
    is_reached = confidence >= torch.tensor(thresholds, dtype=confidence.dtype)[:, None, None]
    is_reached[..., -1] = True
    chosen = nodes[is_reached.int().argmax(dim=-1)]  # argmax takes the first of equals
    is_wrong = outputs.is_wrong.T.gather(0, chosen)
    return Thresholded(~is_wrong, router.costs.cpu()[chosen])


def exact_nodes(tree: PathTree) -> list[int]:
    """Return the nodes of the path that runs every segment at the most exact level, one for each exit."""
    return [tree.index[(0,) * depth] for depth in range(1, len(tree.paths[-1]) + 1)]
