"""Which lambda keeps a promise about accuracy, and how sure that is. Pure functions, NumPy and SciPy only.

A loss says what routing costs an image: whether the whole network was right less whether the routed one was,
-1, 0 or 1, or whether they disagree, 0 or 1. Its mean over images like these is the risk; a promise is that
the risk is at most a limit. For each lambda a p-value bounds how probable such losses are if the promise is
broken, and lambdas are tested from the safest on until one fails, each at the full level: whichever comes
out, the probability that its promise is broken is at most one minus the confidence.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binom

Losses = NDArray[np.float64]
# From losses, the limit of the risk and the level of the test, to a p-value.
PValue = Callable[[Losses, float, float], float]

_MOST_OF_A_BET = 0.75  # of what can be lost without being ruined by one image
_MOST_IMAGES = 1_000_000  # more will not be asked for
_TRIES, _ENOUGH = 10, 8  # how often so many images are drawn, and how often they must do


def betting_p_value(losses: Losses, limit: float, level: float) -> float:
    """Return a p-value for "the mean loss is above the limit", by betting against it.

    A bettor stakes a part of what he has on each loss in turn being below the limit, and decides on it by
    those before. If the mean is above the limit, what he has cannot be expected to grow, so the highest value
    it ever takes is rarely large: the p-value is one over it. Losses need a bound above only, 1, so those
    below 0 count, which is where an early exit was right and the whole network wrong.

    Args:
        losses: `(images,)`, at most 1, in random order.
        limit: Of their mean, below 1.
        level: That the p-value will be compared with; stakes are chosen for it, and it holds for any.

    Returns:
        At most 1.

    Source:
        Waudby-Smith and Ramdas 2024 (Estimating means of bounded random variables by betting), the one-sided
        capital process with predictable plug-in stakes, Eqs. (24) to (26).
    """
    count = len(losses)
    if not count:
        return 1.0
    seen = np.arange(1, count + 1)
    mean = (0.5 * limit + np.cumsum(losses)) / (seen + 0.5)
    variance = (1.0 + np.cumsum((losses - mean) ** 2)) / (seen + 1)
    before = np.concatenate(([1.0], variance[:-1]))
    stakes = np.sqrt(2 * np.log(1 / level) / (count * before))
    stakes = np.minimum(stakes, _MOST_OF_A_BET / (1 - limit))
    wealth = np.cumsum(np.log1p(stakes * (limit - losses)))
    return float(np.exp(-max(wealth.max(), 0.0)))


def hoeffding_bentkus_p_value(losses: Losses, limit: float, level: float = 0.0) -> float:
    """Return a p-value for "the mean loss is above the limit", by two classical bounds.

    Losses below 0 count as 0: the bounds are for losses from 0 to 1.

    Args:
        losses: `(images,)`, at most 1.
        limit: Of their mean, in [0, 1).
        level: Not used.

    Returns:
        At most 1.

    Source:
        Bates et al. 2021 (Distribution-free, risk-controlling prediction sets), as Angelopoulos et al. 2021
        (Learn then Test), Proposition 2, have it.
    """
    count = len(losses)
    clipped = np.maximum(losses, 0.0)
    if not count or limit <= 0:
        return 1.0
    mean = min(float(clipped.mean()), limit)
    hoeffding = np.exp(-count * _divergence(mean, limit))
    # The number of losses of 1 at least as rare, rounded against us.
    bentkus = np.e * binom.cdf(np.ceil(round(float(clipped.sum()), 9)), count, limit)
    return float(min(hoeffding, bentkus, 1.0))


def _divergence(mean: float, limit: float) -> float:
    """Return the Kullback-Leibler divergence of two coins."""
    first = mean * np.log(mean / limit) if mean > 0 else 0.0
    return float(first + (1 - mean) * np.log((1 - mean) / (1 - limit)))


P_VALUES: dict[str, PValue] = {"betting": betting_p_value, "hoeffding_bentkus": hoeffding_bentkus_p_value}


def last_certified(losses: Losses, limit: float, level: float, p_value: PValue) -> int | None:
    """Return the row of the cheapest lambda that is certified, or `None` if not even the first is.

    Rows are tested in order until one fails, so each may be tested at the full level.

    Args:
        losses: `(lambdas, images)`, from the safest lambda to the cheapest; images in random order.
        limit: Of the risk.
        level: Probability, at most, that the risk of what is returned is above the limit.
        p_value: Of `P_VALUES`.

    Source:
        Angelopoulos et al. 2021 (Learn then Test), fixed-sequence testing.
    """
    found = None
    for row, values in enumerate(losses):
        if p_value(values, limit, level) > level:
            break
        found = row
    return found


def images_needed(losses: Losses, limit: float, level: float, p_value: PValue) -> int | None:
    """Return about how many images like these would certify, or `None` where these lose too much to tell.

    So many of them, drawn with replacement, do in eight of ten tries. How much is lost is itself known from
    these images only: of few it says little.

    Args:
        losses: `(images,)`, of one lambda.
        limit: Of the risk.
        level: Of the test.
        p_value: Of `P_VALUES`.
    """
    considered = losses if p_value is betting_p_value else np.maximum(losses, 0.0)
    if not len(losses) or considered.mean() >= limit:
        return None
    random = np.random.default_rng(0)
    count = len(losses)
    while count < _MOST_IMAGES:
        count = int(count * 1.25) + 1
        tries = (p_value(random.choice(losses, count), limit, level) <= level for _ in range(_TRIES))
        if sum(tries) >= _ENOUGH:
            return count
    return None


def signed_gaps(is_right: NDArray[np.bool_], is_right_in_full: NDArray[np.bool_]) -> Losses:
    """Return the loss of accuracy: 1 where only the whole network is right, -1 where only the routed one.

    Args:
        is_right: `(lambdas, images)`, whether the routed network is right.
        is_right_in_full: `(images,)`, whether the whole one is.
    """
    found: Losses = is_right_in_full[None].astype(np.float64) - is_right
    return found


def disagreements(classes: NDArray[Any], classes_in_full: NDArray[Any]) -> Losses:
    """Return the loss of consistency, which needs no labels: 1 where two networks differ.

    Args:
        classes: `(lambdas, images)`, of the routed network.
        classes_in_full: `(images,)`, of the whole one.
    """
    found: Losses = (classes != classes_in_full[None]).astype(np.float64)
    return found


def in_random_order(count: int, seed: int = 0) -> NDArray[np.int64]:
    """Return the positions of images in an order that does not depend on how their data set is sorted."""
    found: NDArray[np.int64] = np.random.default_rng(seed).permutation(count)
    return found
