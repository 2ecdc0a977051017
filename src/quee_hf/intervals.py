"""Confidence intervals of shares. Pure functions, no torch."""

from statistics import NormalDist

_CONFIDENCE = 0.95


def wilson_interval(num_correct: int, num_total: int, confidence: float = _CONFIDENCE) -> tuple[float, float]:
    """Return an interval for an accuracy of which `num_correct` of `num_total` images are a sample.

    Raises:
        ValueError: If the counts or the confidence are impossible.

    Example:
        >>> low, high = wilson_interval(95, 100)
        >>> round(low, 4), round(high, 4)
        (0.8882, 0.9785)

    Source:
        Wilson 1927, the score interval without continuity correction. Differs: none.
    """
    if not 0 <= num_correct <= num_total or num_total == 0:
        raise ValueError(f"{num_correct} correct of {num_total} is impossible.")
    if not 0 < confidence < 1:
        raise ValueError(f"`confidence` must be between 0 and 1, got {confidence}.")
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    share = num_correct / num_total
    shrink = 1 + z**2 / num_total
    center = (share + z**2 / (2 * num_total)) / shrink
    reach = z * (share * (1 - share) / num_total + z**2 / (4 * num_total**2)) ** 0.5 / shrink
    # At 0 and at all correct one end is exact; rounding would push it past.
    low = 0.0 if num_correct == 0 else center - reach
    return low, 1.0 if num_correct == num_total else center + reach
