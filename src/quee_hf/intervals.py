"""Confidence intervals of shares and of their differences. Pure functions, no torch."""

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
    z = _normal_quantile(confidence)
    share = num_correct / num_total
    shrink = 1 + z**2 / num_total
    center = (share + z**2 / (2 * num_total)) / shrink
    reach = z * (share * (1 - share) / num_total + z**2 / (4 * num_total**2)) ** 0.5 / shrink
    # At 0 and at all correct one end is exact; rounding would push it past.
    low = 0.0 if num_correct == 0 else center - reach
    return low, 1.0 if num_correct == num_total else center + reach


def paired_difference_interval(
    num_first_only: int, num_second_only: int, num_total: int, confidence: float = _CONFIDENCE
) -> tuple[float, float]:
    """Return an interval for the difference of two accuracies on the same images.

    Args:
        num_first_only: Images that only the first prediction gets right.
        num_second_only: Images that only the second gets right.
        num_total: All images.
        confidence: Between 0 and 1.

    Returns:
        The ends of the interval for the first accuracy less the second, from -1 to 1.

    Raises:
        ValueError: If the counts or the confidence are impossible.

    Example:
        >>> low, high = paired_difference_interval(947, 710, 10_000)
        >>> round(low, 4), round(high, 4)
        (0.0157, 0.0317)

    Source:
        Bonett and Price 2012 (J. Educ. Behav. Stat. 37), the adjusted Wald interval: one image more of either
        kind. Differs: none.
    """
    if min(num_first_only, num_second_only) < 0 or not 0 < num_total >= num_first_only + num_second_only:
        raise ValueError(f"{num_first_only} and {num_second_only} of {num_total} is impossible.")
    z = _normal_quantile(confidence)
    first, second = ((count + 1) / (num_total + 2) for count in (num_first_only, num_second_only))
    center = first - second
    reach = z * ((first + second - center**2) / (num_total + 2)) ** 0.5
    return max(-1.0, center - reach), min(1.0, center + reach)


def _normal_quantile(confidence: float) -> float:
    """Return how many standard deviations hold this share of a normal distribution, on either side."""
    if not 0 < confidence < 1:
        raise ValueError(f"`confidence` must be between 0 and 1, got {confidence}.")
    return NormalDist().inv_cdf(0.5 + confidence / 2)
