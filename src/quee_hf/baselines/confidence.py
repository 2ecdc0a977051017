"""Leaving at the first confident exit: the simplest routing. All segments run at the most exact level."""

import math
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from quee_hf.baselines.sweep import (
    Fit,
    GateData,
    Method,
    Sweep,
    geometric_shares,
    leave_at_first,
)
from quee_hf.execution.path_outputs import PathOutputs
from quee_hf.routing.router import Router

Score = Callable[[Tensor], Tensor]

# Denser towards 1, where most probabilities of a trained classifier are; above 1 nothing leaves early.
DEFAULT_THRESHOLDS = (
    *(0.0, 0.2, 0.3, 0.4, 0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.875, 0.9, 0.925, 0.95, 0.96, 0.97),
    *(0.98, 0.985, 0.99, 0.995, 0.998, 0.999, 0.9999, 1.1),
)


def largest_probability(probabilities: Tensor) -> Tensor:
    """Map `(..., labels)` to the largest, `(...)`."""
    return probabilities.amax(dim=-1)


def margin(probabilities: Tensor) -> Tensor:
    """Map `(..., labels)` to the largest less the second largest, `(...)`."""
    first, second = probabilities.topk(2, dim=-1).values.unbind(dim=-1)
    return first - second


def certainty(probabilities: Tensor) -> Tensor:
    """Map `(..., labels)` to one less the entropy, relative to that of the uniform distribution, `(...)`.

    Source:
        Teerapittayanon et al. 2016 (BranchyNet, arXiv:1709.01686). Differs: one less the entropy, so that
        large is sure.
    """
    entropy = torch.special.entr(probabilities).sum(dim=-1)
    relative: Tensor = 1 - entropy / math.log(probabilities.shape[-1])
    return relative


def threshold_exits(
    router: Router,
    outputs: PathOutputs,
    thresholds: Sequence[float] = DEFAULT_THRESHOLDS,
    score: Score = largest_probability,
) -> Sweep:
    """Let every image leave at the first exit whose score reaches a threshold.

    One threshold holds for all exits; an image that reaches it nowhere leaves at the last.

    Args:
        router: Of the model that made the outputs.
        outputs: Of all its paths.
        thresholds: Above 1 nothing leaves early.
        score: Of an exit's class probabilities, at most 1.

    Raises:
        ValueError: If there are no thresholds or no images.

    Source:
        The baseline "Thresholding" of Regol et al. 2024 (QuEE, arXiv:2406.14404), §5.4.
    """
    if not len(thresholds) or not len(outputs):
        raise ValueError(f"There must be thresholds and images, got {len(thresholds)} and {len(outputs)}.")
    scores = _scores(router, outputs, score)
    is_reached = scores >= torch.tensor(thresholds, dtype=scores.dtype)[:, None, None]
    return leave_at_first(is_reached, router, outputs)


def by_threshold(score: Score) -> Fit:
    """Return the baseline of `threshold_exits`, which has nothing to learn."""

    def fit(data: GateData) -> Method:
        return partial(threshold_exits, data.router, score=score)

    return fit


def by_budget(data: GateData) -> Method:
    """Choose a threshold for each exit, so that given shares of the images leave there.

    Among the images still inside, the surest leave; what share of all leaves where is `geometric_shares`.

    Source:
        The budgeted batch setting of Huang et al. 2018 (MSDNet, arXiv:1703.09844).
    """
    scores = _scores(data.router, data.training, largest_probability)
    thresholds = torch.stack([_quantile_thresholds(scores, row) for row in geometric_shares(scores.shape[1])])

    def method(outputs: PathOutputs) -> Sweep:
        found = _scores(data.router, outputs, largest_probability)
        return leave_at_first(found >= thresholds[:, None], data.router, outputs)

    return method


def _quantile_thresholds(scores: Tensor, shares: Tensor) -> Tensor:
    """Return one threshold for each exit, `(exits,)`, float32; the last exit's is not asked."""
    thresholds = torch.full((scores.shape[1],), torch.inf)
    is_inside = torch.ones(len(scores), dtype=torch.bool)
    for position in range(scores.shape[1] - 1):
        count = round(float(shares[position]) * len(scores))
        inside = scores[is_inside, position]
        if count and len(inside):
            thresholds[position] = inside.topk(min(count, len(inside))).values[-1]
        is_inside &= scores[:, position] < thresholds[position]
    return thresholds


def _scores(router: Router, outputs: PathOutputs, score: Score) -> Tensor:
    """Return each exit's score, `(images, exits)`."""
    return score(outputs.logits[:, router.tree.exact_nodes].softmax(dim=-1))
