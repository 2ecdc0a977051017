"""How well predicted error probabilities agree with the errors made. Pure functions of arrays."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]


def expected_calibration_error(predicted_error: ArrayLike, is_wrong: ArrayLike, num_bins: int = 15) -> float:
    """Return the mean gap between predicted and actual error rate, over bins of equally many images.

        ece = sum over bins of (images in bin / images) * |mean predicted error - share that is wrong|

    Images with the same prediction cannot be told apart, so they share their mean outcome, and the result
    does not depend on the order of the images. Chance alone gives perfect predictions of an error rate about
    `sqrt(2 / pi * rate * (1 - rate) * num_bins / images)`, less where predictions are tied.

    Args:
        predicted_error: `(images,)`, probabilities in [0, 1].
        is_wrong: `(images,)`, bool or 0 and 1.
        num_bins: Bins; as many as images if there are fewer.

    Raises:
        ValueError: If the shapes differ, there are no images, or a value is out of range or not finite.

    Example:
        >>> expected_calibration_error([0.25, 0.25, 0.25, 0.25], [0, 0, 0, 1])
        0.0

    Source:
        QuEE 2024, §7.2, steps 4 to 8, after Guo et al. 2017 (arXiv:1706.04599). Differs: ties are averaged,
        which the paper leaves to the sort; gaps of error rates, which equal its gaps of accuracies.
    """
    predicted, wrong = _checked(predicted_error, is_wrong)
    if num_bins < 1:
        raise ValueError(f"`num_bins` must be at least 1, got {num_bins}.")
    values, group = np.unique(predicted, return_inverse=True)
    mean_outcome = np.bincount(group, weights=wrong) / np.bincount(group)
    order = np.sort(group)
    gaps = values[order] - mean_outcome[order]
    bins = np.array_split(gaps, min(num_bins, len(gaps)))
    return float(sum(abs(part.sum()) for part in bins) / len(gaps))


def error_auroc(predicted_error: ArrayLike, is_wrong: ArrayLike) -> float | None:
    """Return how often a wrong image is predicted to be more likely wrong than a right one.

    Args:
        predicted_error: `(images,)`, probabilities in [0, 1].
        is_wrong: `(images,)`, bool or 0 and 1.

    Returns:
        1 for a perfect order, 0.5 for chance, None if all images are right or all are wrong.

    Raises:
        ValueError: As `expected_calibration_error`.

    Example:
        >>> error_auroc([0.1, 0.4, 0.3], [0, 1, 0])
        1.0
        >>> error_auroc([0.1, 0.4, 0.3], [0, 0, 0]) is None
        True
    """
    from sklearn.metrics import roc_auc_score  # with pandas a quarter of the time to import quee_hf

    predicted, wrong = _checked(predicted_error, is_wrong)
    if wrong.min() == wrong.max():
        return None
    return float(roc_auc_score(wrong, predicted))


def area_under_risk_coverage(predicted_error: ArrayLike, is_wrong: ArrayLike) -> float:
    """Return the mean error rate of the surest images, over all numbers of them.

        aurc = mean over k of (share that is wrong among the k images of least predicted error)

    It depends on the error rate as well as on the order; images with the same prediction share their outcome.

    Args:
        predicted_error: `(images,)`, probabilities in [0, 1].
        is_wrong: `(images,)`, bool or 0 and 1.

    Raises:
        ValueError: As `expected_calibration_error`.

    Example:
        >>> area_under_risk_coverage([0.1, 0.4], [0, 1])
        0.25

    Source:
        Geifman et al. 2019 (arXiv:1805.08206), §3.
    """
    predicted, wrong = _checked(predicted_error, is_wrong)
    _, group = np.unique(predicted, return_inverse=True)
    mean_outcome = np.bincount(group, weights=wrong) / np.bincount(group)
    errors = mean_outcome[np.sort(group)].cumsum()
    return float(np.mean(errors / np.arange(1, len(errors) + 1)))


def root_mean_square_error(predicted_error: ArrayLike, target: ArrayLike) -> float:
    """Return the root of the mean squared difference; against 0 and 1 the root of the Brier score.

    Args:
        predicted_error: Any shape, probabilities in [0, 1].
        target: The same shape, in [0, 1]: error targets, or whether the image was wrong.

    Raises:
        ValueError: If the shapes differ, are empty, or a value is out of range or not finite.

    Example:
        >>> root_mean_square_error([0.5, 0.5], [0, 1])
        0.5
    """
    predicted, wanted = _as_probabilities(predicted_error, target)
    return float(np.sqrt(np.mean((predicted - wanted) ** 2)))


def _checked(predicted_error: ArrayLike, is_wrong: ArrayLike) -> tuple[Floats, Floats]:
    """Return float64 vectors of probabilities and of 0 and 1."""
    predicted, wrong = _as_probabilities(predicted_error, is_wrong)
    if predicted.ndim != 1:
        raise ValueError(f"Expected one prediction per image, got shape {predicted.shape}.")
    if not np.isin(wrong, (0.0, 1.0)).all():
        raise ValueError("`is_wrong` must be true or false for every image.")
    return predicted, wrong


def _as_probabilities(first: ArrayLike, second: ArrayLike) -> tuple[Floats, Floats]:
    """Return float64 arrays of one shape with values in [0, 1]."""
    pair = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    if pair[0].shape != pair[1].shape or not pair[0].size:
        raise ValueError(
            f"Expected two arrays of one shape, not empty, got {pair[0].shape} and {pair[1].shape}."
        )
    for values in pair:
        if not ((values >= 0) & (values <= 1)).all():  # NaN is refused too
            raise ValueError("Error probabilities must be between 0 and 1.")
    return pair
