"""From measured times to costs: levels that are equally fast cost the same. Pure functions."""

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


def latency_table(segments: Times, after: Times) -> list[list[float]]:
    """Return the cost of each segment at each level, with what comes after it, in the unit of the times.

    Args:
        segments: `(segments, levels, rounds)`.
        after: `(segments, rounds)`, of the exit and the decision after each, which no level changes.
    """
    ends, whole = np.median(after, axis=1), segments.sum(axis=0)
    return [
        [round(cost + float(end), _DECIMALS) for cost in merge_levels(times, whole)]
        for times, end in zip(segments, ends, strict=True)
    ]
