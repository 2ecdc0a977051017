"""`BudgetController`: moves lambda so that a stream of images costs on average what it may."""

import logging
import math
from collections.abc import Mapping
from threading import Lock
from typing import Any, Self, TypedDict

import numpy as np
from numpy.typing import ArrayLike

from quee_hf.errors import OutdatedError
from quee_hf.execution.budget_state import read_state
from quee_hf.execution.prices import Priced, Unit, expected_costs, relative_cost, time_of_an_image
from quee_hf.routing.cost_curve import CostCurve, cost_curve
from quee_hf.routing.ledger import HORIZON, TOLERANCE, Costs, Ledger
from quee_hf.values import is_number, is_whole

logger = logging.getLogger(__name__)

_SETTLING = 32 * HORIZON  # images before a mean is judged
_ROUNDING = 1e-6  # costs are float32
_STUCK = 8 * HORIZON  # images at one end of the bounds before that is held against them


class BudgetReport(TypedDict):
    """How a budget is kept. Costs are in `unit`."""

    verdict: str  # "settling", "held", "catching up", "too dear" or "too cheap"
    unit: str  # "cost" or "ms"
    budget: float
    mean: float | None  # of all images since the start; `None` before the first
    deviation: float | None  # of the mean, relative to the budget
    num_images: int
    cost_lambda: float  # for the next image
    dearer: float  # by how much images now cost more than the curve's at the same lambda
    owed: float  # what images cost above the budget, in all; below 0 what they left
    written_off: float  # of that, what is not made up for any more


class BudgetController:
    """Keeps the mean cost of a stream of images at a budget, whatever the images, by moving lambda.

    It can stand wherever a lambda can: `model(pixel_values, cost_lambda=controller)`, likewise in
    `model.classify_stream` and in the pipeline. Each batch, or each image of a stream, then gets a lambda,
    and what it costs is entered. Whoever runs images otherwise asks `next_lambda` and tells `settle`.

        lambda = the curve's for the cost  budget - dearer - owed / horizon
        owed   = sum of (cost - budget) over all images so far
        dearer = running mean of (cost - the curve's at the image's lambda)

    The sum is what holds the mean: whatever images come in whatever order, it stays bounded as long as the
    ends of the bounds cost less and more than the budget, so the mean of n images is off by a constant over
    n. The running mean makes up for drift before much is owed. Images on their way count as what they are
    expected to cost, so that results may come late and in batches.

    The promise is about the mean of all images since the start, and so of any long run of them. Where bounds
    hinder, something is owed or left. No more of that is made up for later than moves the mean of `window`
    images by a hundredth; the rest is written off, so that a quiet night does not make the next day dear.

    Several threads may use one.

    Args:
        curve: What images are expected to cost at each lambda; its ends are the bounds.
        budget: What an image may cost on average, in the curve's unit.
        unit: Of the curve; by default costs relative to the dearest path.
        window: Images.

    Raises:
        ValueError: If the budget is not positive, or the window no whole number from 1 on.

    Source:
        None: our choice. The sum is the tracker of Gibbs and Candes 2021 (arXiv:2106.00170), of costs instead
        of errors; what is expected of images on their way makes it a Smith predictor.
    """

    def __init__(
        self, curve: CostCurve, budget: float, *, unit: Unit | None = None, window: int = 100_000
    ) -> None:
        if not 0 < budget < math.inf:
            raise ValueError(f"`budget` must be above 0, got {budget}.")
        if not is_whole(window, 1):
            raise ValueError(f"`window` must be a whole number from 1 on, got {window!r}.")
        self._curve, self._unit = curve, unit or Unit()
        self._ledger = Ledger(float(budget), window)
        self._num_stuck = 0  # images at an end of the bounds; negative at the lower end
        self._verdict, self._has_complained = "settling", False
        self._lock = Lock()

    @classmethod
    def for_model(
        cls,
        model: Priced,
        *,
        target_cost: float | None = None,
        target_latency_ms: float | None = None,
        lambda_bounds: tuple[float, float] | None = None,
        window: int = 100_000,
    ) -> Self:
        """Return a controller for a model, which starts from its operating points if it has any.

        Args:
            model: With trained gates.
            target_cost: Mean cost, relative to the dearest path, by the model's cost model.
            target_latency_ms: Mean time of an image in milliseconds instead, by the times of
                `quee_hf.profile`; for models that route by time.
            lambda_bounds: Lowest and highest lambda; those of the operating points if not given. The upper
                one limits what accuracy may be lost: a certified lambda, say.
            window: As in the class.

        Raises:
            ValueError: If not exactly one target is given, or no path is as cheap, or none as dear.
            NotReadyError: If milliseconds are asked for, but the model does not route by measured times.
        """
        if (target_cost is None) == (target_latency_ms is None):
            raise ValueError("Give either `target_cost` or `target_latency_ms`.")
        is_timed = target_cost is None
        unit = time_of_an_image(model) if is_timed else relative_cost(model)
        name, target = ("target_latency_ms", target_latency_ms) if is_timed else ("target_cost", target_cost)
        if not is_number(target):
            raise ValueError(f"`{name}` must be a number, got {target!r}.")
        budget = float(target or 0.0)
        cheapest, dearest = (
            unit.offset + unit.scale * cost for cost in (float(model.router.costs.min()), 1.0)
        )
        if not cheapest * (1 - _ROUNDING) <= budget <= dearest * (1 + _ROUNDING):
            raise ValueError(
                f"`{name}` must be from {cheapest:.4g}, the cheapest path, to {dearest:.4g}, the dearest, got"
                f" {budget:g}."
            )
        points = [(value, unit.offset + unit.scale * cost) for value, cost in expected_costs(model)]
        curve = cost_curve(points, lambda_bounds)
        if not curve.costs[-1] <= budget <= curve.costs[0]:
            logger.warning(
                f"The budget is {budget:g} ({unit.name}), but validation images cost {curve.costs[-1]:.4g} to"
                f" {curve.costs[0]:.4g} at the lambdas allowed."
            )
        return cls(curve, budget, unit=unit, window=window)

    def next_lambda(self, count: int = 1) -> float:
        """Return the lambda for the next images, which are on their way from now on.

        Raises:
            ValueError: If `count` is no whole number from 0 on.
        """
        if not is_whole(count, 0):
            raise ValueError(f"`count` must be a whole number from 0 on, got {count!r}.")
        with self._lock:
            # As the network takes it, so that its price is the same when it is settled.
            found = float(np.float32(self._curve.lambda_at(self._ledger.price_wanted(count))))
            self._ledger.start(self._prices(found, count))
        return found

    def settle(self, cost_lambda: ArrayLike, costs: ArrayLike) -> None:
        """Enter what images have cost.

        Args:
            cost_lambda: That `next_lambda` gave; one, or one for each.
            costs: `(images,)`, relative to the dearest path, as `output.cost` has them.

        Raises:
            ValueError: If a lambda or a cost is not finite, or negative, or a cost above that of the dearest.
        """
        lambdas, relative = np.asarray(cost_lambda, dtype=np.float64), np.asarray(costs, dtype=np.float64)
        if not (np.isfinite(lambdas) & (lambdas >= 0)).all():
            raise ValueError(f"Lambdas must be finite, and at least 0, got {cost_lambda!r}.")
        if not ((relative >= 0) & (relative <= 1 + _ROUNDING)).all():  # NaN compares false
            raise ValueError(f"Costs must be from 0 to 1, the dearest path's, got {costs!r}.")
        paid = self._unit.offset + self._unit.scale * relative.reshape(-1)
        if len(paid):
            with self._lock:
                self._ledger.settle(self._prices(cost_lambda, len(paid)), paid)
                self._judge(len(paid))

    def release(self, cost_lambda: ArrayLike, count: int) -> None:
        """Forget images that were given a lambda and will not be run."""
        with self._lock:
            self._ledger.drop(self._prices(cost_lambda, count))

    def check_costs(self, model: Priced) -> None:
        """Raise `OutdatedError` if a model's costs are not those that the controller was made for.

        The model does so itself whenever it is given the controller; who calls `next_lambda` and `settle`
        may ask.
        """
        made_for, config = self._unit, model.config
        if made_for.cost_model not in (None, config.cost_model):
            raise OutdatedError(
                f"The controller was made for costs in {made_for.cost_model!r}, but the model's"
                f" `cost_model` is {config.cost_model!r}: make another."
            )
        if made_for.cost_table is None:
            return
        is_timed = made_for.name == "ms" and config.profile is not None
        if (time_of_an_image(model) if is_timed else relative_cost(model)) != made_for:
            raise OutdatedError(
                f"The model's costs in {config.cost_model!r} are others than when the controller was made:"
                " make another."
            )

    def report(self) -> BudgetReport:
        """Say how the budget is kept."""
        with self._lock:
            ledger, mean = self._ledger, self._ledger.mean
            return {
                "verdict": self._verdict,
                "unit": self._unit.name,
                "budget": ledger.budget,
                "mean": mean,
                "deviation": None if mean is None else mean / ledger.budget - 1,
                "num_images": ledger.num_images,
                "cost_lambda": self._curve.lambda_at(ledger.price_wanted(1)),
                "dearer": ledger.dearer,
                "owed": ledger.owed,
                "written_off": ledger.written_off,
            }

    def to_dict(self) -> dict[str, Any]:
        """Return what a restarted server needs to go on, fit for JSON; images on their way are forgotten."""
        with self._lock:
            return {
                "lambdas": self._curve.lambdas.tolist(),
                "costs": self._curve.costs.tolist(),
                "unit": self._unit._asdict(),
                "ledger": self._ledger.to_dict(),
                "num_stuck": self._num_stuck,
                "verdict": self._verdict,
            }

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Self:
        """Return the controller that `to_dict` described.

        Raises:
            ValueError: If it did not: a field is missing, or has a value that it cannot have.
        """
        state = read_state(content)
        found = cls(state.curve, state.ledger.budget, unit=state.unit, window=state.ledger.window)
        found._ledger, found._num_stuck, found._verdict = state.ledger, state.num_stuck, state.verdict
        return found

    def _prices(self, cost_lambda: ArrayLike, count: int) -> Costs:
        return np.broadcast_to(self._curve.cost_at(np.asarray(cost_lambda)), (count,))

    def _judge(self, count: int) -> None:
        """Say how the budget is kept; log where its bounds keep it from being."""
        wanted = self._curve.lambda_at(self._ledger.price_wanted(1))
        low, high = self._curve.lambdas[0], self._curve.lambdas[-1]
        side = int(wanted >= high) - int(wanted <= low)
        self._num_stuck = side * (count + (abs(self._num_stuck) if side * self._num_stuck > 0 else 0))
        expected = float(self._prices(wanted, 1)[0]) + self._ledger.dearer
        self._verdict = self._find_verdict(expected)
        is_stuck = self._verdict.startswith("too")
        if is_stuck and not self._has_complained:
            which = "highest" if side > 0 else "lowest"
            budget = f"{self._ledger.budget:g} ({self._unit.name})"
            logger.warning(
                f"The budget of {budget} cannot be held: at {wanted:g}, the {which} lambda allowed,"
                f" images now cost {expected:.4g}."
            )
        self._has_complained = is_stuck or (self._has_complained and self._verdict != "held")

    def _find_verdict(self, expected: float) -> str:
        """Return the verdict, given what the next image is expected to cost."""
        off = expected / self._ledger.budget - 1
        if abs(self._num_stuck) >= _STUCK and off * self._num_stuck > 0 and abs(off) > TOLERANCE:
            return "too dear" if off > 0 else "too cheap"
        if self._ledger.num_images < _SETTLING:
            return "settling"
        mean = self._ledger.total / self._ledger.num_images
        return "held" if abs(mean / self._ledger.budget - 1) <= TOLERANCE else "catching up"
