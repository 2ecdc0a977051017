"""Thresholds by which images leave at the first exit that is sure enough, and how they are chosen."""

from collections.abc import Sequence

import torch
from torch import Tensor

_NUM_CANDIDATES = 25  # thresholds tried for each exit: quantiles of its scores, and never
_MOST_ROUNDS = 20
_ROUNDING = 1e-6  # costs are float32
_STARTING_LAMBDAS = (0.0, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.2, 1.5, 2.0)


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
    candidates = _candidates(scores)
    chosen = candidates[-1].clone()
    for _ in range(_MOST_ROUNDS):
        before = chosen.clone()
        for position in reversed(range(scores.shape[1])):
            chosen[position] = _best_candidate(scores, gains, chosen, candidates[:, position], position)
        if torch.equal(before, chosen):
            break
    return chosen


def search_thresholds_within(
    scores: Tensor, is_right: Tensor, costs: Tensor, budgets: Sequence[float]
) -> Tensor:
    """Choose thresholds for the best accuracy within each of several budgets.

        maximise    accuracy    where    mean cost <= budget

    Lambdas reach only settings that no mixture of others beats, and leave holes between them. Here, from the
    thresholds of the budget before, and from those that lambdas give on either side of the budget, thresholds
    are lowered where that loses least accuracy for the cost it saves, until the budget is met; then each is
    moved to the most accurate candidate that keeps it.

    Args:
        scores: As `search_thresholds` takes them.
        is_right: The same.
        costs: The same.
        budgets: Descending; the last at least what leaving at the first exit costs.

    Returns:
        `(budgets, exits - 1)`, float32.

    Raises:
        ValueError: If a budget is below the first exit's cost, or they do not descend.

    Source:
        Layer-adaptive confidence thresholding of LRA-EE (arXiv:2605.26415), §4.4, which leaves the search
        open. Differs: a grid of quantiles.
    """
    if list(budgets) != sorted(budgets, reverse=True) or budgets[-1] < float(costs[0]) - _ROUNDING:
        raise ValueError(
            f"Budgets must descend to the first exit's cost, {float(costs[0]):g}, or above: {list(budgets)}."
        )
    values = torch.stack([is_right.double(), costs.double().expand(is_right.shape)], dim=-1)
    candidates = _candidates(scores)
    by_lambda = [search_thresholds(scores, is_right, costs, value) for value in _STARTING_LAMBDAS]
    found, chosen = [], candidates[-1]
    for budget in budgets:
        limit = budget + _ROUNDING
        starts = [chosen, *_neighbours(scores, values, by_lambda, limit)]
        tried = [_fit_budget(scores, values, start, candidates, limit) for start in starts]
        chosen = max(tried, key=lambda each: float(_outcome(scores, values, each)[0]))
        found.append(chosen)
    return torch.stack(found)


def _neighbours(scores: Tensor, values: Tensor, known: Sequence[Tensor], budget: float) -> Sequence[Tensor]:
    """Return the most accurate of known thresholds within a budget, and the cheapest of those beyond it."""
    outcomes = [_outcome(scores, values, each).tolist() for each in known]
    within = [index for index, (_, cost) in enumerate(outcomes) if cost <= budget]
    beyond = [index for index, (_, cost) in enumerate(outcomes) if cost > budget]
    nearest = sorted(within, key=lambda index: -outcomes[index][0])[:1]
    nearest += sorted(beyond, key=lambda index: outcomes[index][1])[:1]
    return [known[index] for index in nearest]


def _fit_budget(scores: Tensor, values: Tensor, start: Tensor, candidates: Tensor, budget: float) -> Tensor:
    """Lower thresholds until the budget is met, then move each to the best candidate within it."""
    chosen = start.clone()
    while (now := _outcome(scores, values, chosen))[1] > budget:
        lost, saved = (now - _all_outcomes(scores, values, chosen, candidates)).unbind(dim=-1)
        # What meets the budget in one step: the most accurate; else the least loss for what is saved.
        meets = saved >= now[1] - budget
        price = torch.where(meets, lost - 2, lost / saved) if meets.any() else lost / saved
        best = torch.where(saved > _ROUNDING, price, torch.inf).argmin()
        candidate, position = divmod(int(best), scores.shape[1])
        chosen[position] = candidates[candidate, position]
    for _ in range(_MOST_ROUNDS):
        before = chosen.clone()
        for position in reversed(range(scores.shape[1])):
            right, cost = _outcomes(scores, values, chosen, candidates[:, position], position).unbind(dim=-1)
            allowed = torch.where(cost <= budget, right, -torch.inf)
            if allowed.max() > _outcome(scores, values, chosen)[0] + _ROUNDING:
                chosen[position] = candidates[allowed.argmax(), position]
        if torch.equal(before, chosen):
            break
    return chosen


def _outcome(scores: Tensor, values: Tensor, chosen: Tensor) -> Tensor:
    """Return accuracy and mean cost with some thresholds, `(2,)` float64."""
    ends = torch.ones(len(scores), 1, dtype=torch.bool)
    exits = torch.cat([scores >= chosen, ends], dim=1).int().argmax(dim=1)
    return values[torch.arange(len(scores)), exits].mean(dim=0)


def _all_outcomes(scores: Tensor, values: Tensor, chosen: Tensor, candidates: Tensor) -> Tensor:
    """Return what changing one threshold gives, `(candidates, exits - 1, 2)`."""
    positions = range(scores.shape[1])
    return torch.stack([_outcomes(scores, values, chosen, candidates[:, i], i) for i in positions], dim=1)


def _outcomes(scores: Tensor, values: Tensor, chosen: Tensor, candidates: Tensor, position: int) -> Tensor:
    """Return accuracy and mean cost for each candidate of one exit's threshold, `(candidates, 2)`."""
    images = torch.arange(len(scores))
    leaves = torch.cat([scores >= chosen, torch.ones(len(scores), 1, dtype=torch.bool)], dim=1)
    before = values[images, leaves.int().argmax(dim=1)]
    is_gone = leaves[:, :position].any(dim=1)
    leaves[:, : position + 1] = False
    later = values[images, leaves.int().argmax(dim=1)]
    leaves_here = (scores[:, position, None] >= candidates).double()[
        ~is_gone
    ]  # (images that arrive, candidates)
    here, later = values[~is_gone, position], later[~is_gone]
    total = leaves_here.T @ (here - later) + later.sum(dim=0) + before[is_gone].sum(dim=0)
    return total / len(scores)


def _candidates(scores: Tensor) -> Tensor:
    """Return the thresholds that are tried, `(candidates, exits - 1)`, ascending."""
    quantiles = torch.linspace(0, 1, _NUM_CANDIDATES - 1, dtype=torch.float64)
    never = torch.full((1, scores.shape[1]), torch.inf)
    return torch.cat([scores.double().quantile(quantiles, dim=0), never]).float()


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
