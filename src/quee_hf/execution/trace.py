"""Following one image: what each exit that it reached said, and what the gate there made of it."""

from typing import NamedTuple

from torch import Tensor

from quee_hf.execution.network import Network, NetworkWrapper, Step
from quee_hf.execution.routed import routed_forward
from quee_hf.execution.walk import Routes
from quee_hf.levels import Level
from quee_hf.routing.policy import Floats, Indices
from quee_hf.routing.router import Decision


class Visit(NamedTuple):
    """What was known of an image at an exit that it reached."""

    logits: Tensor  # (labels,), float32
    # Predicted probability that the class here is wrong, and that the class at the end of the path that the
    # gate then aims for is. `None` at the last exit, which has no gate.
    leave_error: float | None = None
    aim_error: float | None = None


class _Watch(NetworkWrapper):
    """Does what a network does, and notes what it finds of one image."""

    def __init__(self, network: Network) -> None:
        super().__init__(network)
        self.visits: list[Visit] = []

    def advance(self, segment: int, level: Level, hidden: Tensor, seen: Tensor | None) -> Step:
        step = self._network.advance(segment, level, hidden, seen)
        self.visits.append(Visit(step.reached.logits[0]))
        return step

    def decide(self, depth: int, node: Indices, scores: Floats, cost_lambda: Floats) -> Decision:
        decision = self._network.decide(depth, node, scores, cost_lambda)
        if depth:
            leave_error = self._leave_error(depth, int(node[0]), scores[0])
            self.visits[-1] = Visit(self.visits[-1].logits, leave_error, float(decision.error[0]))
        return decision

    def _leave_error(self, depth: int, node: int, scores: Floats) -> float:
        if scores.ndim:  # QuEE's gates score the error of each path of at least this depth
            return float(scores[node - self.router.tree.first_at_depth(depth)])
        return float(1 - scores)  # LRA-EE's that of being right here


def trace_image(network: Network, pixel_values: Tensor, cost_lambda: float) -> tuple[Routes, list[Visit]]:
    """Run one image along the path that its gates choose, as `routed_forward` does, and say what they saw.

    Args:
        network: The model, or what runs it: `model.network`.
        pixel_values: `(1, channels, height, width)`.
        cost_lambda: At least 0.

    Returns:
        The route, and what was known at each exit on it.

    Raises:
        ValueError: If it is not one image, or `cost_lambda` is negative.
    """
    if len(pixel_values) != 1:
        raise ValueError(f"`pixel_values` must be of one image, got {len(pixel_values)}.")
    watch = _Watch(network)
    return routed_forward(watch, pixel_values, cost_lambda), watch.visits
