"""Whether counts of images are what a reference lets expect. Pure functions, NumPy and SciPy only."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.stats import hypergeom

Floats = NDArray[np.float64]

_NUM_DRAWS = 2000
_FEW_DRAWS = 200  # enough to see that nothing is remarkable
_REMARKABLE = 0.1


class Shift(NamedTuple):
    """How far counts are from what was expected."""

    psi: float  # population stability index
    ks: float  # largest difference of the shares up to a bin
    p_value: float  # probability of one as large without any shift, for the rarer of the two, twice


def population_stability_index(expected: Floats, found: Floats) -> Floats:
    """Return how far shares are from others, at least 0.

        sum of (found - expected) * ln(found / expected)

    Args:
        expected: `(..., bins)`, counts; half an image is added to each bin, so that none is empty.
        found: `(..., bins)`, likewise.

    Source:
        Jeffreys 1946, the symmetric divergence, under the name that credit scoring gave it.
    """
    first, second = (_shares(counts + 0.5) for counts in (expected, found))
    index: Floats = ((second - first) * np.log(second / first)).sum(axis=-1)
    return index


def kolmogorov_smirnov(expected: Floats, found: Floats) -> Floats:
    """Return the largest difference of shares up to a bin, over bins in order.

    Args:
        expected: `(..., bins)`, counts.
        found: `(..., bins)`, counts.
    """
    difference: Floats = np.abs(np.cumsum(_shares(expected) - _shares(found), axis=-1)).max(axis=-1)
    return difference


def measure_shift(expected: Floats, found: Floats, random: np.random.Generator) -> Shift:
    """Compare counts with what a reference lets expect, which is itself a sample.

    The null distribution of both statistics is drawn: reference and images of the same sizes from the shares
    of both together. So the p-value knows how many images there were on either side, and how they are spread
    over bins. No threshold for the index holds for all of that.

    Args:
        expected: `(bins,)`, of as many images as the reference has.
        found: `(bins,)`, counts.
        random: Draws; a first few, and the rest if those leave a doubt.

    Source:
        The parametric bootstrap; the p-value with 1 added is Davison and Hinkley 1997, Eq. (4.11).
    """
    statistics = (population_stability_index, kolmogorov_smirnov)
    values = [float(statistic(expected, found)) for statistic in statistics]
    sizes, shares = (round(expected.sum()), round(found.sum())), _shares(expected + found)
    p_value = 1.0
    for num_draws in (_FEW_DRAWS, _NUM_DRAWS):
        drawn = [random.multinomial(size, shares, num_draws).astype(np.float64) for size in sizes]
        as_large = [
            (statistic(*drawn) >= value - 1e-12).sum()
            for statistic, value in zip(statistics, values, strict=True)
        ]
        p_value = min(1.0, 2 * (1 + float(min(as_large))) / (1 + num_draws))
        if p_value > _REMARKABLE:
            break
    return Shift(values[0], values[1], p_value)


def excess_p_value(num_expected: int, size_expected: int, num_found: int, size_found: int) -> float:
    """Return the probability of so large a share without any shift, if both are samples of one.

    Args:
        num_expected: Images of the reference that something is true of.
        size_expected: Of the reference.
        num_found: Images that it is true of.
        size_found: All images.

    Source:
        Fisher 1934, the exact test, one-sided.
    """
    total, number = size_expected + size_found, num_expected + num_found
    return float(min(1.0, hypergeom.sf(num_found - 1, total, number, size_found)))


def _shares(counts: Floats) -> Floats:
    found: Floats = counts / counts.sum(axis=-1, keepdims=True)
    return found
