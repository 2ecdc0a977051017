"""Logistic regression of outcomes that may be probabilities."""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

_WEAKNESS = 1e3  # of the penalty, which only matters where features tell outcomes without fail


def logistic_regression(features: Floats, outcomes: Floats) -> tuple[Floats, float]:
    """Return weights and bias of least logistic loss.

    Features are brought to mean 0 and deviation 1 on the way, and the weights brought back.

    Args:
        features: `(images, features)`.
        outcomes: `(images,)`, in [0, 1].

    Returns:
        Weights, `(features,)`, and the bias.

    Example:
        >>> weights, bias = logistic_regression(np.array([[0.0], [1.0]]), np.array([0.25, 0.75]))
        >>> round(float(1 / (1 + np.exp(-weights[0] - bias))), 2)
        0.75
    """
    from sklearn.linear_model import LogisticRegression  # with pandas a quarter of the time to import quee_hf

    mean, deviation = features.mean(axis=0), features.std(axis=0)
    deviation = np.where(deviation > 0, deviation, 1)
    standard = (features - mean) / deviation
    # Every image counts as both outcomes, by their probabilities; a little of each is always there.
    share = np.clip(outcomes, 1e-6, 1 - 1e-6)
    found = LogisticRegression(C=_WEAKNESS, max_iter=1000).fit(
        np.concatenate([standard, standard]),
        np.repeat([0, 1], len(share)),
        sample_weight=np.concatenate([1 - share, share]),
    )
    weights = found.coef_[0] / deviation
    return weights, float(found.intercept_[0] - weights @ mean)
