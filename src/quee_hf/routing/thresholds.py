"""Leaving at the first exit whose score reaches the exit's threshold, and how thresholds are chosen."""

import torch
from torch import Tensor

from quee_hf.routing.router import Decision, Router

_NUM_CANDIDATES = 25  # thresholds tried for each exit: quantiles of its scores, and never
_MOST_ROUNDS = 20


def decide_by_threshold(router: Router, node: Tensor, right: Tensor, threshold: Tensor) -> Decision:
    """Leave, or go on at the most exact level.

    Args:
        router: The paths.
        node: `(batch,)`, int64, each image's node.
        right: `(batch,)`, predicted probability that the exit there is right.
        threshold: `(batch,)`, what it must reach to leave.
    """
    return Decision(torch.where(right >= threshold, node, router.exact_child(node)), 1 - right)


def enter(router: Router, node: Tensor) -> Decision:
    """Run the first segment at the most exact level, where nothing is known that could decide."""
    return Decision(router.exact_child(node), torch.full(node.shape, torch.nan, device=node.device))


def search_thresholds(scores: Tensor, is_right: Tensor, costs: Tensor, cost_lambda: float) -> Tensor:
    """Choose one threshold for each exit, together, for the best trade of accuracy and cost.

        maximise    accuracy - cost_lambda * mean cost

    Coordinate descent over a grid of 25 candidates for each exit, from "nothing leaves", until a round
    changes nothing. A budget is met by trying lambdas: the most accurate of them whose cost is within it.

    Args:
        scores: `(images, exits - 1)`, in [0, 1]: how sure each exit is to be right.
        is_right: `(images, exits)`, bool.
        costs: `(exits,)`, of leaving there.
        cost_lambda: Accuracy worth giving up to save the full cost.

    Returns:
        `(exits - 1,)`, float32; infinity where nothing should leave.

    Source:
        Layer-adaptive confidence thresholding of LRA-EE (arXiv:2605.26415), §4.4, which leaves the search
        open. Differs: a grid of quantiles, and lambda in place of a budget of FLOPs.
    """
    gains = is_right.double() - cost_lambda * costs.double()  # (images, exits)
    quantiles = torch.linspace(0, 1, _NUM_CANDIDATES - 1, dtype=torch.float64)
    candidates = torch.cat(
        [scores.double().quantile(quantiles, dim=0), torch.full((1, scores.shape[1]), torch.inf)]
    ).float()
    chosen = candidates[-1].clone()
    for _ in range(_MOST_ROUNDS):
        before = chosen.clone()
        for position in reversed(range(scores.shape[1])):
            chosen[position] = _best_candidate(scores, gains, chosen, candidates[:, position], position)
        if torch.equal(before, chosen):
            break
    return chosen


def _best_candidate(
    scores: Tensor, gains: Tensor, chosen: Tensor, candidates: Tensor, position: int
) -> Tensor:
    """Return the best threshold of one exit, the others being what they are; of equals the highest."""
    arrives = (scores[:, :position] < chosen[:position]).all(dim=1)
    later = torch.cat(
        [scores[:, position + 1 :] >= chosen[position + 1 :], torch.ones(len(scores), 1).bool()], 1
    )
    rest = gains[:, position + 1 :].gather(1, later.int().argmax(dim=1, keepdim=True)).squeeze(1)
    leaves = scores[arrives, position, None] >= candidates  # (images that arrive, candidates)
    values = torch.where(leaves, gains[arrives, position, None], rest[arrives, None]).sum(dim=0)
    best = len(candidates) - 1 - values.flip(0).argmax()
    return candidates[best]
