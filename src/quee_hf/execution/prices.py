"""What images of a model are expected to cost at each lambda, and in what unit."""

import hashlib
import json
from typing import NamedTuple, Protocol

import numpy as np

from quee_hf.configuration import QuEEConfig
from quee_hf.errors import NotReadyError
from quee_hf.execution.operating_points import DEFAULT_LAMBDAS
from quee_hf.measurements import check_points
from quee_hf.routing.router import Router


class Unit(NamedTuple):
    """What a budget is in, and what turns a cost relative to the dearest path into it."""

    name: str = "cost"
    scale: float = 1.0
    offset: float = 0.0
    cost_model: str | None = None  # of the relative costs; `None` for any
    cost_table: str | None = None  # SHA-256 that tells the costs of segments; `None` for any


class Priced(Protocol):
    """What must be known of a model."""

    config: QuEEConfig

    @property
    def router(self) -> Router:
        """Its paths and costs."""

    @property
    def cost_table(self) -> list[list[float]]:
        """The costs of its segments."""


def relative_cost(model: Priced) -> Unit:
    """Return the unit of a model's own costs."""
    return Unit(cost_model=model.config.cost_model, cost_table=_digest(model.cost_table))


def expected_costs(model: Priced) -> list[tuple[float, float]]:
    """Return lambdas and relative costs: measured, or falling evenly from the dearest path's on."""
    config = model.config
    check_points(config.operating_points, config.cost_model)
    if config.operating_points:
        return [(point["cost_lambda"], point["cost"]) for point in config.operating_points]
    costs = np.linspace(1.0, float(model.router.costs.min()), len(DEFAULT_LAMBDAS))
    return list(zip(DEFAULT_LAMBDAS, costs.tolist(), strict=True))


def time_of_an_image(model: Priced) -> Unit:
    """Return what turns a model's relative costs into milliseconds of an image, its embedding included.

    Raises:
        NotReadyError: If the model does not route by measured times.
    """
    profile = model.config.profile
    if profile is None or model.config.cost_model != "latency":
        raise NotReadyError(
            "A budget in milliseconds needs a model that routes by measured times: run `quee profile MODEL"
            " --data VALIDATION`, or `quee_hf.profile(model)` and `model.set_cost_model('latency')`."
        )
    embedding = profile["embedding"][profile["batch_sizes"].index(profile["batch_size"])][0]
    table = model.cost_table
    return Unit("ms", sum(max(row) for row in table), embedding, "latency", _digest(table))


def _digest(table: list[list[float]]) -> str:
    return hashlib.sha256(json.dumps(table).encode()).hexdigest()
