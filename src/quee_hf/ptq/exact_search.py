"""Exact search of the best candidate by a sum of errors, most of which need not be added up."""

from collections.abc import Callable, Iterable
from itertools import pairwise

import torch
from torch import Tensor

# Shares of the data whose errors are added up before a candidate may be given up: most give up early.
_SHARES = (1 / 64, 1 / 16, 1 / 4, 1 / 2, 3 / 4, 1.0)

# The losses of a candidate, by its index, on some rows of the data, by group: (groups,), float64.
Losses = Callable[[int, slice], Tensor]


def best_candidates(losses: Losses, num_rows: int, candidates: Iterable[int], known: Tensor) -> Tensor:
    """Return the candidate of least loss for each group.

    Losses are sums of terms that are not negative, so a candidate whose losses on a part of the data exceed
    the best known ones is given up. The order of the candidates and of the rows matters to speed only.

    Args:
        losses: Of a candidate on some rows.
        num_rows: How many rows there are, those with the largest terms first.
        candidates: Indices, the most promising first.
        known: `(groups,)`, int64, like what is returned.

    Returns:
        `(groups,)` indices; of equal candidates, the lowest.
    """
    best = torch.full(known.shape, torch.inf, dtype=torch.float64, device=known.device)
    found = torch.zeros_like(known)
    shares = [slice(*ends) for ends in pairwise([0, *(max(1, round(num_rows * part)) for part in _SHARES)])]
    for candidate in candidates:
        total = torch.zeros_like(best)
        for rows in shares:
            if rows.stop > rows.start:
                total += losses(candidate, rows)
            if bool((total > best).all()):
                break
        else:
            is_better = (total < best) | ((total == best) & (candidate < found))
            best = torch.where(is_better, total, best)
            found = torch.where(is_better, candidate, found)
    return found


def nearest_first(center: int, count: int) -> list[int]:
    """All of `count` candidates, those near a likely one first."""
    return sorted(range(count), key=lambda index: abs(index - center))


def alternate(rounds: int, *steps: Callable[[], bool]) -> None:
    """Take steps in turn, at most so many rounds, until a round changes nothing: neither would later ones.

    Args:
        rounds: At most.
        *steps: Each tells whether it changed something.
    """
    for _ in range(rounds):
        if not any([step() for step in steps]):
            return
