"""`CostCurve`: what images cost on average at each lambda, and which lambda costs so much. NumPy only."""

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

# How much a curve falls at least from one end to the other, of its dearest cost, spread evenly over steps on
# the axis below: where validation images cost the same, others need not.
_LEAST_FALL = 0.1
_LINEAR_BELOW = 0.01  # lambdas: the axis is linear near 0 and logarithmic far above this


class CostCurve(NamedTuple):
    """Mean cost over lambda, straight between points; lambdas ascend and costs fall, both strictly."""

    lambdas: NDArray[np.float64]
    costs: NDArray[np.float64]

    def cost_at(self, cost_lambda: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
        """Return the cost at lambdas; beyond an end, that of the end."""
        found: NDArray[np.float64] = np.interp(cost_lambda, self.lambdas, self.costs)
        return found

    def lambda_at(self, cost: float) -> float:
        """Return the lambda of a cost; beyond an end, that of the end."""
        return float(np.interp(-cost, -self.costs, self.lambdas))


def cost_curve(points: Iterable[tuple[float, float]], bounds: tuple[float, float] | None = None) -> CostCurve:
    """Make a curve of measured points.

    Args:
        points: Lambdas and costs. A cost above that of a smaller lambda is taken for chance, and counts as
            that.
        bounds: Lowest and highest lambda; those of the points if not given.

    Raises:
        ValueError: If there are no points, or bounds are no such two lambdas.

    Example:
        >>> curve = cost_curve([(0.0, 1.0), (0.1, 0.6), (0.2, 0.4)], (0.0, 0.15))
        >>> round(curve.lambda_at(0.8), 3), round(float(curve.cost_at(np.array(0.15))), 3)
        (0.05, 0.5)
    """
    known = np.array(sorted(points), dtype=np.float64).reshape(-1, 2)
    if not len(known) or not np.isfinite(known).all():
        raise ValueError(f"`points` must hold lambdas and costs, all finite, got {known.tolist()}.")
    low, high = (known[0, 0], known[-1, 0]) if bounds is None else bounds
    if not 0 <= low < high < np.inf:
        raise ValueError(f"`lambda_bounds` must be two finite lambdas, 0 or more, ascending, got {bounds}.")
    inside = known[(known[:, 0] > low) & (known[:, 0] < high), 0]
    lambdas = np.unique([low, *inside, high])
    costs = np.interp(lambdas, known[:, 0], np.minimum.accumulate(known[:, 1]))
    axis = np.log1p(lambdas / _LINEAR_BELOW)
    fall = _LEAST_FALL * costs[0] * (axis - axis[0]) / (axis[-1] - axis[0])
    return CostCurve(lambdas, np.minimum.accumulate(costs + fall) - fall)
