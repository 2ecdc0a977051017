"""Exact search of the best candidate by a sum of errors, most of which need not be added up."""

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor

# Shares of the weight of all errors after which a candidate may be given up: few rows often have most.
_SHARES = (0.15, 0.3, 0.45, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98)
_MIN_PART = 1 / 32  # of the rows: smaller parts take longer than they save

# The losses of a candidate, by its index: a function of some rows that returns (groups,), float64.
Losses = Callable[[int], Callable[[slice], Tensor]]


def split_rows(weights: Tensor) -> list[slice]:
    """Cut rows into parts, after each of which a search may give up.

    Args:
        weights: `(rows,)`, what the errors of each row count, the largest first.
    """
    num_rows = len(weights)
    reached = weights.double().cumsum(dim=0)
    ends = (torch.searchsorted(reached, reached[-1] * torch.tensor(_SHARES).to(reached)) + 1).tolist()
    cuts = [0]
    for end in ends:
        if end - cuts[-1] >= max(1, num_rows * _MIN_PART) and end < num_rows:
            cuts.append(end)
    return [slice(*pair) for pair in pairwise([*cuts, num_rows])]


def best_candidates(losses: Losses, parts: Sequence[slice], count: int) -> Tensor:
    """Return the candidate of least loss for each group.

    All candidates are measured on the first part, the best of them first on the others. Losses are sums of
    terms that are not negative, so a candidate whose losses on a part of the data exceed the best known ones
    is given up. The order of the rows matters to speed only.

    Args:
        losses: Of a candidate on some rows.
        parts: All rows, those with the largest terms first; see `split_rows`.
        count: How many candidates there are.

    Returns:
        `(groups,)` indices; of equal candidates, the lowest.
    """
    first, *others = parts
    begun = losses(0)(first).repeat(count, 1)
    for candidate in range(1, count):
        # Written where there is room: small tensors that are kept would part the heap between large ones,
        # which glibc then cannot use again.
        begun[candidate] = losses(candidate)(first)
    best = torch.full_like(begun[0], torch.inf)
    found = torch.zeros_like(best, dtype=torch.int64)
    # A candidate is as promising as it is for the group that it suits best.
    promise = (begun / begun.amin(dim=0).clamp_min(torch.finfo(begun.dtype).tiny)).amin(dim=1)
    for candidate in promise.argsort().tolist():
        total = begun[candidate]
        if bool((total > best).all()):
            continue
        on_rows = losses(candidate)
        for rows in others:
            total = total + on_rows(rows)
            if bool((total > best).all()):
                break
        else:
            is_better = (total < best) | ((total == best) & (candidate < found))
            best = torch.where(is_better, total, best)
            found = torch.where(is_better, candidate, found)
    return found


def alternate(rounds: int, *steps: Callable[[], bool]) -> None:
    """Take steps in turn until another turn of all would change nothing, at most so many rounds.

    Args:
        rounds: At most.
        *steps: Each depends on what the others found last, and tells whether it found something new.
    """
    unchanged = 0
    for step in steps * rounds:
        unchanged = 0 if step() else unchanged + 1
        if unchanged >= len(steps) - 1:
            return
