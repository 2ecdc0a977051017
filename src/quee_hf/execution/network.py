"""What execution needs of a model. `QuEEForImageClassification` provides it; tests can use a toy."""

from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from quee_hf.errors import OutdatedError
from quee_hf.exits.reading import ExitReading
from quee_hf.levels import Level
from quee_hf.paths import Path
from quee_hf.routing.policy import Floats, Indices
from quee_hf.routing.router import Decision, Router


class Assessment(NamedTuple):
    """What is known of images at an exit."""

    logits: Tensor  # (batch, labels), float32
    # What gates keep of the exits passed, (batch, exits passed, summary), the newest last, and what the gate
    # here makes of it. After the last exit there is no gate.
    seen: Tensor | None
    scores: Tensor | None


class Step(NamedTuple):
    """What running one segment gives."""

    hidden: Tensor | None  # (batch, tokens, hidden); of no use, and perhaps not there, after the last segment
    reached: Assessment


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

    def run_path(self, pixel_values: Tensor, path: Path) -> Tensor:
        """Run all images along one path and return the logits at its end, `(batch, labels)`, float32."""

    def summarize(self, reading: ExitReading) -> Tensor:
        """What gates keep of an exit, `(batch, summary)`, float32."""

    def score(self, depth: int, seen: Tensor) -> Tensor:
        """What the gate after `depth` segments makes of the exits passed, `(batch, depth, summary)`."""

    def advance(self, segment: int, level: Level, hidden: Tensor, seen: Tensor | None) -> Step:
        """Run a segment, read the exit after it, and ask the gate there.

        Args:
            segment: Counted from 0.
            level: At which it runs.
            hidden: `(batch, tokens, hidden)`.
            seen: What gates keep of the exits before, `(batch, segment, summary)`; `None` at the first.
        """

    def decide(self, depth: int, node: Indices, scores: Floats, cost_lambda: Floats) -> Decision:
        """Take one step: leave, or go on at some level.

        Args:
            depth: Segments run so far; all images stand at this depth.
            node: `(batch,)`, each image's node in the path tree.
            scores: What `score` gave.
            cost_lambda: `(batch,)`.
        """


def advance_by_parts(
    network: Network, segment: int, level: Level, hidden: Tensor, seen: Tensor | None
) -> Step:
    """Do what `Network.advance` does by the other methods of a network."""
    hidden = network.run_segment(segment, level, hidden)
    return Step(hidden, assess(network, segment, network.read_exit(segment, hidden), seen))


def run_path_by_parts(network: Network, pixel_values: Tensor, path: Path) -> Tensor:
    """Do what `Network.run_path` does by the other methods of a network."""
    hidden = network.embed(pixel_values)
    for segment, level in enumerate(path):
        hidden = network.run_segment(segment, network.level_list[level], hidden)
    return network.read_exit(len(path) - 1, hidden).logits


def assess(network: Network, exit_index: int, reading: ExitReading, seen: Tensor | None) -> Assessment:
    """Ask the gate at an exit, if there is one, by what the exit says.

    Args:
        network: Whose gates.
        exit_index: Counted from 0.
        reading: Of that exit.
        seen: As `Network.advance` takes it.
    """
    depth = exit_index + 1
    if depth == len(network.router.tree.paths[-1]):
        return Assessment(reading.logits, seen, None)
    summary = network.summarize(reading)[:, None]
    seen = summary if seen is None else torch.cat([seen, summary], dim=1)
    return Assessment(reading.logits, seen, network.score(depth, seen))


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

    def run_path(self, pixel_values: Tensor, path: Path) -> Tensor:
        """Run all images along one path."""
        return self._network.run_path(pixel_values, path)

    def summarize(self, reading: ExitReading) -> Tensor:
        """What gates keep of an exit."""
        return self._network.summarize(reading)

    def score(self, depth: int, seen: Tensor) -> Tensor:
        """Ask a gate."""
        return self._network.score(depth, seen)

    def advance(self, segment: int, level: Level, hidden: Tensor, seen: Tensor | None) -> Step:
        """Run a segment, read the exit after it, and ask the gate there."""
        return advance_by_parts(self, segment, level, hidden, seen)

    def decide(self, depth: int, node: Indices, scores: Floats, cost_lambda: Floats) -> Decision:
        """Take one step."""
        return self._network.decide(depth, node, scores, cost_lambda)


class SteadyNetwork(NetworkWrapper):
    """A network that will not go on once its paths, its costs or what it tells apart have changed.

    Args:
        network: As it is now.
    """

    def __init__(self, network: Network) -> None:
        super().__init__(network)
        self._router = network.router

    @property
    def router(self) -> Router:
        """The paths and their costs, as they were."""
        return self._router

    def run_path(self, pixel_values: Tensor, path: Path) -> Tensor:
        """Run all images along one path."""
        self._check()
        return self._network.run_path(pixel_values, path)

    def advance(self, segment: int, level: Level, hidden: Tensor, seen: Tensor | None) -> Step:
        """Run a segment, read the exit after it, and ask the gate there."""
        self._check()
        return self._network.advance(segment, level, hidden, seen)

    def decide(self, depth: int, node: Indices, scores: Floats, cost_lambda: Floats) -> Decision:
        """Take one step."""
        self._check()
        return self._network.decide(depth, node, scores, cost_lambda)

    def _check(self) -> None:
        if self._network.router is not self._router:
            raise OutdatedError(
                "The model's costs, levels, gates or classes have changed since the stream began: begin"
                " another."
            )
