"""What execution needs of a model. `QuEEForImageClassification` provides it; tests can use a toy."""

from typing import Protocol

from torch import Tensor

from quee_hf.exits.reading import ExitReading
from quee_hf.levels import Level
from quee_hf.routing.router import Decision, Router


class Network(Protocol):
    """A network in segments, with an exit after each and a gate before each but the first (or all)."""

    @property
    def level_list(self) -> list[Level]:
        """The levels, index 0 the most exact."""

    @property
    def num_labels(self) -> int:
        """Number of classes."""

    @property
    def router(self) -> Router:
        """The paths and their costs."""

    def embed(self, pixel_values: Tensor) -> Tensor:
        """Map pixels to tokens, `(batch, tokens, hidden)`."""

    def run_segment(self, segment: int, level: Level, hidden: Tensor) -> Tensor:
        """Run one segment, counted from 0, on all images at one level."""

    def read_exit(self, exit_index: int, hidden: Tensor) -> ExitReading:
        """What an exit, counted from 0, says of each image."""

    def summarize(self, reading: ExitReading) -> Tensor:
        """What gates keep of an exit, `(batch, summary)`, float32."""

    def decide(self, depth: int, node: Tensor, seen: Tensor, cost_lambda: Tensor) -> Decision:
        """Take one step: leave, or go on at some level.

        Args:
            depth: Segments run so far; all images stand at this depth.
            node: `(batch,)`, int64, each image's node in the path tree.
            seen: `(batch, depth, summary)`, of the exits passed, the newest last.
            cost_lambda: `(batch,)`, float32.
        """


class NetworkWrapper:
    """A network that does what another does; to be made to do some of it differently.

    Args:
        network: The other.
    """

    def __init__(self, network: Network) -> None:
        self._network = network

    @property
    def level_list(self) -> list[Level]:
        """The levels."""
        return self._network.level_list

    @property
    def num_labels(self) -> int:
        """Number of classes."""
        return self._network.num_labels

    @property
    def router(self) -> Router:
        """The paths and their costs."""
        return self._network.router

    def embed(self, pixel_values: Tensor) -> Tensor:
        """Map pixels to tokens."""
        return self._network.embed(pixel_values)

    def run_segment(self, segment: int, level: Level, hidden: Tensor) -> Tensor:
        """Run one segment."""
        return self._network.run_segment(segment, level, hidden)

    def read_exit(self, exit_index: int, hidden: Tensor) -> ExitReading:
        """Read an exit."""
        return self._network.read_exit(exit_index, hidden)

    def summarize(self, reading: ExitReading) -> Tensor:
        """What gates keep of an exit."""
        return self._network.summarize(reading)

    def decide(self, depth: int, node: Tensor, seen: Tensor, cost_lambda: Tensor) -> Decision:
        """Take one step."""
        return self._network.decide(depth, node, seen, cost_lambda)
