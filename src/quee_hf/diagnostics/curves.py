"""Accuracy over cost: areas, crossings and how sure one can be of them. Pure functions of arrays."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]

_DEFAULT_LOW, _DEFAULT_HIGH = 0.2, 1.0  # budgets, relative to the full model
_CONFIDENCE = 0.95
_COUNTS_PER_CHUNK = 4_000_000  # 32 MB of float64 at a time


def undominated_points(costs: ArrayLike, accuracies: ArrayLike) -> tuple[Floats, Floats]:
    """Return the operating points that no other point beats, by ascending cost and accuracy.

    A point is dominated if another one costs no more and is at least as accurate. Of equal points one stays.

    Args:
        costs: `(points,)`, relative to the full model.
        accuracies: `(points,)`.

    Raises:
        ValueError: If there are no points, if the lengths differ, or if a value is not finite.

    Example:
        >>> costs, accuracies = undominated_points([0.2, 0.5, 0.6, 1.0], [0.5, 0.8, 0.7, 0.9])
        >>> costs.tolist(), accuracies.tolist()
        ([0.2, 0.5, 1.0], [0.5, 0.8, 0.9])
    """
    cost_row, accuracy_row = _as_points(costs, accuracies)
    ordered_costs, ordered_accuracies, is_kept = _sort_and_mark(cost_row[None], accuracy_row[None])
    return ordered_costs[is_kept], ordered_accuracies[is_kept]


def area_under_curve(
    costs: ArrayLike, accuracies: ArrayLike, low: float = _DEFAULT_LOW, high: float = _DEFAULT_HIGH
) -> float:
    """Return the mean accuracy over all budgets from `low` to `high`.

        area = integral of accuracy(budget) from low to high / (high - low)

    The accuracy at a budget is what the undominated points achieve: linear between neighbours (a share of the
    images is routed by one point, the rest by the other), that of the dearest point beyond it, and 0 below
    the cheapest, where nothing can be run. This is not the concave hull: a sag between two points counts as
    it was measured, so one more point in a sag lowers the area.

    Args:
        costs: `(points,)`, any order, relative to the full model.
        accuracies: `(points,)`.
        low: First budget.
        high: Last budget.

    Raises:
        ValueError: As `undominated_points`, or if `low` is not below `high`.

    Example:
        >>> area_under_curve([0.0, 1.0], [0.5, 0.9], low=0.0, high=1.0)
        0.7
    """
    if not low < high:
        raise ValueError(f"`low` must be below `high`, got {low} and {high}.")
    cost_row, accuracy_row = _as_points(costs, accuracies)
    return float(_areas(cost_row[None], accuracy_row[None], low, high)[0])


def cost_at_accuracy(costs: ArrayLike, accuracies: ArrayLike, accuracy: float) -> float | None:
    """Return the lowest cost at which the curve of `area_under_curve` reaches an accuracy.

    Interpolated between undominated points; the cheapest point's cost if that is already accurate enough.

    Returns:
        The cost, or None if no point reaches the accuracy.

    Example:
        >>> cost_at_accuracy([0.25, 0.75], [0.5, 1.0], accuracy=0.625)
        0.375
        >>> cost_at_accuracy([0.25, 0.75], [0.5, 0.9], accuracy=0.95) is None
        True
    """
    kept_costs, kept_accuracies = undominated_points(costs, accuracies)
    if accuracy > kept_accuracies[-1]:
        return None
    return float(np.interp(accuracy, kept_accuracies, kept_costs))


def accuracy_at_cost(costs: ArrayLike, accuracies: ArrayLike, cost: float) -> float | None:
    """Return the accuracy at a cost, on the curve of `area_under_curve`.

    Returns:
        The accuracy, or None below the cheapest point.

    Example:
        >>> accuracy_at_cost([0.25, 0.75], [0.5, 1.0], cost=0.5)
        0.75
    """
    kept_costs, kept_accuracies = undominated_points(costs, accuracies)
    if cost < kept_costs[0]:
        return None
    return float(np.interp(cost, kept_costs, kept_accuracies))


def bootstrap_area_difference(
    correct_a: ArrayLike,
    cost_a: ArrayLike,
    correct_b: ArrayLike,
    cost_b: ArrayLike,
    *,
    num_resamples: int = 1000,
    seed: int = 0,
) -> tuple[float, float, float]:
    """Compare the areas of two curves measured on the same images.

    Images are resampled with replacement, the same ones for both curves and all their operating points, so
    what makes an image easy for both cancels. Areas are those of `area_under_curve` with its default budgets.

    Args:
        correct_a: `(points_a, images)`, bool. Whether each operating point gets each image right.
        cost_a: `(points_a, images)`. What each operating point spends on each image.
        correct_b: `(points_b, images)`, of the other curve, on the same images in the same order.
        cost_b: `(points_b, images)`.
        num_resamples: More make the ends of the interval less random.
        seed: The same seed gives the same interval.

    Returns:
        Area of a minus area of b on the images as they are, and the ends of its 95 % percentile interval.

    Raises:
        ValueError: If the shapes do not fit, there is nothing to compare, or a value is not finite.
    """
    values = _stacked(correct_a, cost_a, correct_b, cost_b)  # (images, 2 points_a + 2 points_b)
    num_points = (np.shape(correct_a)[0], np.shape(correct_b)[0])
    resampled = [
        _area_differences(means, num_points) for means in resampled_means(values, num_resamples, seed)
    ]
    observed = _area_differences(values.mean(axis=0, keepdims=True), num_points)
    tail = (1 - _CONFIDENCE) / 2
    low, high = np.quantile(np.concatenate(resampled), [tail, 1 - tail])
    return float(observed[0]), float(low), float(high)


def _as_points(costs: ArrayLike, accuracies: ArrayLike) -> tuple[Floats, Floats]:
    """Return checked float64 copies."""
    cost_row = np.array(costs, dtype=np.float64)
    accuracy_row = np.array(accuracies, dtype=np.float64)
    if cost_row.ndim != 1 or cost_row.shape != accuracy_row.shape or not cost_row.size:
        raise ValueError(
            f"Expected as many costs as accuracies, got {cost_row.shape} and {accuracy_row.shape}."
        )
    if not (np.isfinite(cost_row).all() and np.isfinite(accuracy_row).all()):
        raise ValueError("Costs and accuracies must be finite.")
    return cost_row, accuracy_row


def _sort_and_mark(costs: Floats, accuracies: Floats) -> tuple[Floats, Floats, NDArray[np.bool_]]:
    """Sort the points of every curve `(curves, points)` by cost and mark the undominated ones."""
    order = np.lexsort((-accuracies, costs), axis=-1)  # of equal costs the most accurate first
    costs = np.take_along_axis(costs, order, axis=-1)
    accuracies = np.take_along_axis(accuracies, order, axis=-1)
    best_so_far = np.maximum.accumulate(accuracies, axis=-1)
    is_kept = np.ones(costs.shape, dtype=bool)
    is_kept[:, 1:] = accuracies[:, 1:] > best_so_far[:, :-1]
    return costs, accuracies, is_kept


def _areas(costs: Floats, accuracies: Floats, low: float, high: float) -> Floats:
    """Return the normalised area of every curve `(curves, points)`."""
    costs, accuracies, is_kept = _sort_and_mark(costs, accuracies)
    positions = np.where(is_kept, np.arange(costs.shape[1]), 0)
    left = np.maximum.accumulate(positions, axis=-1)[:, :-1]  # the kept point before each later point
    left_costs = np.take_along_axis(costs, left, axis=-1)
    left_accuracies = np.take_along_axis(accuracies, left, axis=-1)
    right_costs, right_accuracies = costs[:, 1:], accuracies[:, 1:]

    start, stop = left_costs.clip(low, high), right_costs.clip(low, high)
    width = np.where(is_kept[:, 1:], right_costs - left_costs, 1.0)  # of kept neighbours never 0
    slope = (right_accuracies - left_accuracies) / width
    middle = left_accuracies + slope * ((start + stop) / 2 - left_costs)
    between = np.where(is_kept[:, 1:], (stop - start) * middle, 0.0).sum(axis=-1)

    last = positions.max(axis=-1, keepdims=True)
    last_cost = np.take_along_axis(costs, last, axis=-1).clip(low, high)
    beyond = ((high - last_cost) * np.take_along_axis(accuracies, last, axis=-1))[:, 0]
    return np.asarray((between + beyond) / (high - low), dtype=np.float64)


def _stacked(correct_a: ArrayLike, cost_a: ArrayLike, correct_b: ArrayLike, cost_b: ArrayLike) -> Floats:
    """Return the four matrices side by side, one row per image."""
    matrices = [np.asarray(matrix, dtype=np.float64) for matrix in (correct_a, cost_a, correct_b, cost_b)]
    shapes = [matrix.shape for matrix in matrices]
    fits = shapes[0] == shapes[1] and shapes[2] == shapes[3] and all(len(shape) == 2 for shape in shapes)
    if not fits or shapes[0][1] != shapes[2][1] or not all(matrix.size for matrix in matrices):
        raise ValueError(f"Expected (points, images) twice for each of two curves, got {shapes}.")
    stacked = np.concatenate(matrices).T
    if not np.isfinite(stacked).all():
        raise ValueError("Costs and correctness must be finite.")
    return np.ascontiguousarray(stacked)


def draw_weights(rng: np.random.Generator, num_resamples: int, num_images: int) -> Floats:
    """Resample images with replacement.

    Returns:
        `(resamples, images)`: how often each image was drawn, as a share of all draws.
    """
    drawn = rng.integers(num_images, size=(num_resamples, num_images))
    drawn += np.arange(num_resamples)[:, None] * num_images
    counts = np.bincount(drawn.ravel(), minlength=num_resamples * num_images)
    return counts.reshape(num_resamples, num_images) / num_images


def resampled_means(values: Floats, num_resamples: int, seed: int) -> Iterator[Floats]:
    """Take the means of columns over images that are drawn with replacement.

    Args:
        values: `(images, columns)`.
        num_resamples: At least 1.
        seed: The same seed draws the same images, whatever the columns are.

    Yields:
        `(some of the resamples, columns)`, as many as memory allows at a time.

    Raises:
        ValueError: If `num_resamples` is below 1.
    """
    if num_resamples < 1:
        raise ValueError(f"`num_resamples` must be at least 1, got {num_resamples}.")
    rng = np.random.default_rng(seed)
    chunk = max(1, _COUNTS_PER_CHUNK // len(values))
    for start in range(0, num_resamples, chunk):
        yield draw_weights(rng, min(chunk, num_resamples - start), len(values)) @ values


def _area_differences(means: Floats, num_points: tuple[int, int]) -> Floats:
    """Return the area of a minus that of b for each row of mean correctness and costs."""
    points_a, points_b = num_points
    accuracy_a, cost_a, accuracy_b, cost_b = np.split(
        means, np.cumsum([points_a, points_a, points_b]), axis=-1
    )
    area_a = _areas(cost_a, accuracy_a, _DEFAULT_LOW, _DEFAULT_HIGH)
    area_b = _areas(cost_b, accuracy_b, _DEFAULT_LOW, _DEFAULT_HIGH)
    return area_a - area_b
