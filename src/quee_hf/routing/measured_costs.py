"""From measured times to costs: levels that are not worth having beside another cost the same as it.

Pure functions.
"""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

Times = NDArray[np.float64]

_SMALL_DIFFERENCE = 0.05  # of time; less is not worth a level, even if it is real
ENOUGH_ROUNDS = 9  # for quartiles to mean something
_DECIMALS = 6  # of milliseconds


def are_equally_fast(first: Times, second: Times) -> bool:
    """Tell whether two times are so near that no decision should depend on which is less.

    They are if the median of their ratios, round by round, is within 5 % of 1, or if 1 lies within the middle
    half of the ratios (within all of them, if there are fewer than nine).

    Args:
        first: `(rounds,)`.
        second: `(rounds,)`, measured in turn with the first.
    """
    tail = 0.25 if len(first) >= ENOUGH_ROUNDS else 0.0
    low, median, high = np.quantile(second / first, (tail, 0.5, 1 - tail))
    return bool(abs(median - 1) < _SMALL_DIFFERENCE or low <= 1 <= high)


def merge_levels(times: Times, whole: Times) -> list[float]:
    """Return what a segment costs at each level, exactly the same at levels that are equally fast.

    They are if they are so in this segment or over the whole network, of which more is known. From the most
    exact on, a level joins the nearest group with whose first level it is equally fast, or else begins one of
    its own. A group costs the mean of its levels' medians.

    Args:
        times: `(levels, rounds)`, of the segment, from most to least exact.
        whole: `(levels, rounds)`, of all segments together.

    Example:
        >>> times = np.array([[8.0, 8.0, 8.0], [4.0, 4.0, 4.0], [4.1, 4.1, 4.1]])
        >>> merge_levels(times, whole=3 * times)
        [8.0, 4.05, 4.05]
    """
    medians = np.median(times, axis=1)
    groups: list[list[int]] = []
    for level, row in enumerate(times):
        near = [
            group
            for group in groups
            if are_equally_fast(times[group[0]], row) or are_equally_fast(whole[group[0]], whole[level])
        ]
        if near:
            min(near, key=lambda group: abs(medians[group[0]] - medians[level])).append(level)
        else:
            groups.append([level])
    cost = {level: float(medians[group].mean()) for group in groups for level in group}
    return [round(cost[level], _DECIMALS) for level in range(len(times))]


def time_of_half(medians: Mapping[int, Times], batch_size: int) -> Times | None:
    """Return the times per image in batches of half a size, between those that were measured.

    Args:
        medians: Times per image by batch size, `batch_size` among them; arrays of one shape.
        batch_size: Of which half is asked for.

    Returns:
        Shaped like each of `medians`, or `None` if no size of at most that half was measured.

    Example:
        >>> time_of_half({8: np.array([2.0]), 32: np.array([1.0])}, 32)
        array([1.33333333])
    """
    half = batch_size / 2
    below = max((size for size in medians if size <= half), default=None)
    if below is None:
        return None
    above = min(size for size in medians if size >= half)
    first, second = medians[below] * below, medians[above] * above  # of a batch
    share = (half - below) / (above - below) if above > below else 0.0
    found: Times = (first + share * (second - first)) / half
    return found


def settle_for_the_more_exact(costs: list[float], whole: Times, half: Times) -> list[float]:
    """Let a faster level cost as much as a more exact one if dividing a batch between them takes longer.

    A batch is divided where its images go on at different levels. If two halves, one at each level, take as
    long as all of it at the more exact one, then images are better off together.

    Args:
        costs: Of one segment at each level, from most to least exact.
        whole: `(levels,)`, time per image of the whole network, in whole batches.
        half: Likewise, in batches of half the size.

    Example:
        >>> settle_for_the_more_exact([4.0, 3.6, 2.0], np.array([4.0, 3.6, 2.0]), np.array([4.6, 4.1, 2.3]))
        [4.0, 4.0, 2.0]
    """
    settled, kept = list(costs), [0]
    for level in range(1, len(costs)):
        if whole[level] >= min(whole[kept]):
            continue  # never chosen: a more exact level is as fast
        better = [other for other in kept if half[other] + half[level] >= 2 * whole[other]]
        if better:
            settled[level] = settled[better[0]]
        else:
            kept.append(level)
    return settled


def latency_table(segments: Times, after: Times, half: Times | None = None) -> list[list[float]]:
    """Return the cost of each segment at each level, with what comes after it, in the unit of the times.

    Args:
        segments: `(segments, levels, rounds)`.
        after: `(segments, rounds)`, of the exit and the decision after each, which no level changes.
        half: `(segments, levels)`, times in batches of half the size, if they are known.
    """
    ends, whole = np.median(after, axis=1), segments.sum(axis=0)
    table = [merge_levels(times, whole) for times in segments]
    if half is not None:
        medians = np.median(segments, axis=2).sum(axis=0)
        table = [settle_for_the_more_exact(costs, medians, half.sum(axis=0)) for costs in table]
    return [
        [round(cost + float(end), _DECIMALS) for cost in costs]
        for costs, end in zip(table, ends, strict=True)
    ]
