"""Choose a path per image from predicted errors and known costs. Pure functions; NumPy only.

Decisions are taken in NumPy, wherever a network runs: they are about a few hundred numbers, of which the
host must learn the outcome anyway.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float32]
Indices = NDArray[np.int64]

# A lambda at which errors of at most 1 are lost in the rounding of float32, even beside a small cost.
_COST_ALONE = np.float32(1e12)


def cost_lambda_per_sample(cost_lambda: ArrayLike, num_samples: int) -> Floats:
    """Return lambda as one float32 per image.

    Raises:
        ValueError: If it is negative or not a number, or of another shape than `(num_samples,)`.
    """
    try:
        with np.errstate(over="ignore"):  # what float32 cannot hold is infinite
            values = np.asarray(cost_lambda, dtype=np.float32)
    except (TypeError, OverflowError) as error:  # nor can a float hold every integer
        raise ValueError(f"`cost_lambda` must be one number or one per image: {error}.") from error
    if values.ndim == 0:
        values = np.broadcast_to(values, (num_samples,))
    if values.shape != (num_samples,):
        raise ValueError(
            f"`cost_lambda` must be one number or one per image, ({num_samples},), got shape {values.shape}."
        )
    if not bool((values >= 0).all()):
        raise ValueError(f"`cost_lambda` must be at least 0, got {float(values.min())}.")
    return values


def choose_paths(
    errors: Floats, costs: Floats, cost_lambda: Floats, reachable: NDArray[np.bool_] | None = None
) -> Indices:
    """Pick, for every image, the reachable path with the lowest expected loss.

        loss = error + cost_lambda * cost

    Ties go to the cheaper path, then to the lower index, so routing is reproducible. An infinite lambda looks
    at cost alone.

    Args:
        errors: `(batch, paths)`, predicted probability that the path is wrong.
        costs: `(paths,)`, in (0, 1].
        cost_lambda: `(batch,)`, error probability worth paying to save the full cost, at least 0.
        reachable: `(batch, paths)`; `None` means that all are.

    Returns:
        `(batch,)`, index of the chosen path.

    Example:
        >>> errors = np.array([[0.30, 0.10], [0.11, 0.10]], np.float32)
        >>> choose_paths(errors, np.array([0.2, 1.0], np.float32), np.array([0.1, 0.1], np.float32))
        array([1, 0])

    Source:
        Regol et al. 2024 (arXiv:2406.14404), Eq. (18).
    """
    cheapest_first = costs.argsort(kind="stable")
    if reachable is not None:
        reachable = reachable[:, cheapest_first]
    found = first_best(errors[:, cheapest_first], costs[cheapest_first], cost_lambda, reachable)
    chosen: Indices = cheapest_first[found]
    return chosen


def first_best(
    errors: Floats, costs: Floats, cost_lambda: Floats, reachable: NDArray[np.bool_] | None
) -> Indices:
    """Do what `choose_paths` does for paths that are in the order of their costs, the cheapest first."""
    losses = errors + np.minimum(cost_lambda, _COST_ALONE)[:, None] * costs
    if reachable is not None:
        losses[~reachable] = np.inf
    chosen: Indices = losses.argmin(axis=1)  # the first of equals
    return chosen
