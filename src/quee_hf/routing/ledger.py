"""`Ledger`: what images were to cost, what they cost, and what the next should cost. NumPy only."""

from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

TOLERANCE = 0.02  # by which the mean may miss the budget
# Images over which what is owed is paid back, and over which it is averaged how much dearer images are than
# expected; or twice as many as are on their way, for what follows from a lambda must be seen before it moves
# far. So it stays stable where costs fall with lambda almost three times as steeply as the curve.
HORIZON = 32
_TIMES_ON_THEIR_WAY = 2
_UNSAVED = ("num_pending", "pending_price")

Costs = NDArray[np.float64]


@dataclass
class Ledger:
    """Accounts of a stream of images, each of which may cost `budget` on average.

    Images are entered at their price when they start, and settled when it is known what they cost.

    Args:
        budget: In any unit.
        window: What is owed beyond a hundredth of what so many images may cost is written off.
    """

    budget: float
    window: int
    num_images: int = 0  # settled
    total: float = 0.0  # of what they cost
    owed: float = 0.0  # what they cost above the budget, in all, but for what is written off
    dearer: float = 0.0  # running mean of what they cost above their price
    written_off: float = 0.0
    num_pending: int = field(default=0, compare=False)
    pending_price: float = field(default=0.0, compare=False)

    @property
    def mean(self) -> float | None:
        """Of all images, or `None` before the first."""
        return self.total / self.num_images if self.num_images else None

    @property
    def most_owed(self) -> float:
        """What is owed or left at most; the rest is written off."""
        return TOLERANCE / 2 * self.budget * self.window

    def price_wanted(self, count: int) -> float:
        """Return the price at which each of the next images should start.

            budget - dearer - owed * share / count

        What is owed includes what those on their way are expected to cost above the budget, and of it these
        images repay the share `1 - (1 - 1 / horizon) ** count`.
        """
        expected = self.pending_price + self.num_pending * (self.dearer - self.budget)
        repaid = (self.owed + expected) * self._share(count) / max(count, 1)
        return self.budget - self.dearer - repaid

    def start(self, prices: Costs) -> None:
        """Enter images that start now."""
        self.num_pending += len(prices)
        self.pending_price += float(prices.sum())

    def drop(self, prices: Costs) -> None:
        """Take out images that have started."""
        self.num_pending = max(0, self.num_pending - len(prices))
        self.pending_price = self.pending_price - float(prices.sum()) if self.num_pending else 0.0

    def settle(self, prices: Costs, costs: Costs) -> None:
        """Settle images that have started."""
        self.drop(prices)
        self.num_images += len(costs)
        self.total += float(costs.sum())
        self.owed += float((costs - self.budget).sum())
        self.dearer += self._share(len(costs)) * (float((costs - prices).mean()) - self.dearer)
        kept = min(max(self.owed, -self.most_owed), self.most_owed)
        self.written_off += self.owed - kept
        self.owed = kept

    def to_dict(self) -> dict[str, Any]:
        """Return the accounts without images on their way, fit for JSON."""
        return {name: value for name, value in asdict(self).items() if name not in _UNSAVED}

    def _share(self, count: int) -> float:
        horizon = max(HORIZON, _TIMES_ON_THEIR_WAY * (self.num_pending + count))
        return float(1 - (1 - 1 / horizon) ** count)
