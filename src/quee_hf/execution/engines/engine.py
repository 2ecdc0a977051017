"""`Engine`: what runs the parts of a model in place of its own modules."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, Protocol, cast

from torch import Tensor, nn

from quee_hf.backbones.block import Block
from quee_hf.backbones.trunk import Trunk
from quee_hf.configuration import QuEEConfig
from quee_hf.errors import NotReadyError
from quee_hf.execution.network import Network, Step, assess
from quee_hf.exits.reading import ExitReading
from quee_hf.gates import Gates
from quee_hf.levels import Level


class Source(Network, Protocol):
    """What an engine needs of a model."""

    trunk: Trunk
    heads: nn.ModuleList
    gates: Gates
    config: QuEEConfig

    def get_buffer(self, target: str) -> Tensor:
        """Return a tensor by its name: "class_embeddings", if heads return an embedding."""

    def read_exit(self, exit_index: int, hidden: Tensor) -> ExitReading:
        """What an exit, counted from 0, says of each image, by the model's own modules."""


class Engine(ABC):
    """Runs the embedding, the segments and the exits of a model.

    What it makes of them is made at first use and kept until `release`. Results are those of the model's own
    modules but for rounding. Where a number lies so near the middle between two codes that rounding decides,
    what follows differs by a code here and there, as it does for any change of an input's last digit.

    Args:
        source: The model.
    """

    name: ClassVar[str]

    def __init__(self, source: Source) -> None:
        self.source = source
        self._programs: dict[Any, Any] = {}
        # The levels at which each segment was made, if the model has no weights of blocks any more.
        self.prepared: list[list[Level]] | None = None

    @abstractmethod
    def embed(self, pixel_values: Tensor) -> Tensor:
        """Map `(batch, channels, height, width)` to tokens `(batch, tokens, hidden)`, float32."""

    @abstractmethod
    def run_segment(self, segment: int, level: Level, hidden: Tensor) -> Tensor:
        """Run one segment, counted from 0, at a level.

        Raises:
            ValueError: If the engine cannot compute it.
        """

    @abstractmethod
    def read_exit(self, exit_index: int, hidden: Tensor) -> ExitReading:
        """What an exit, counted from 0, says of each image."""

    def advance(self, segment: int, level: Level, hidden: Tensor, seen: Tensor | None) -> Step:
        """Run a segment, read the exit after it, and ask the gate there: the model's, if not overridden."""
        hidden = self.run_segment(segment, level, hidden)
        return Step(hidden, assess(self.source, segment, self.read_exit(segment, hidden), seen))

    def run_path(self, pixel_values: Tensor, levels: Sequence[Level]) -> Tensor:
        """Run all images along one path, of one level per segment, and return the logits at its end."""
        hidden = self.embed(pixel_values)
        for segment, level in enumerate(levels):
            hidden = self.run_segment(segment, level, hidden)
        return self.read_exit(len(levels) - 1, hidden).logits

    @abstractmethod
    def check(self, segment: int, level: Level) -> None:
        """Make what runs a segment at a level, and forget it.

        Raises:
            ValueError: If the engine cannot compute it.
        """

    def blocks(self, segment: int, level: Level) -> list[Block]:
        """Return the blocks of a segment.

        Raises:
            NotReadyError: If their weights are not there any more.
        """
        start, stop = self.source.config.segments[segment]
        blocks = [cast(Block, block) for block in self.source.trunk.blocks[start:stop]]
        if self.prepared is None:
            self.source.trunk.check_weights()
        elif blocks[0].norm1.weight.is_meta:
            there = "; ".join(f"{number}: {levels}" for number, levels in enumerate(self.prepared, start=1))
            raise NotReadyError(
                f"Segment {segment + 1} at level {level!r} was not prepared when the weights were handed over"
                f" to the engine {self.name!r}. There are, by segment, {there}. Load the model again to run"
                " others."
            )
        return blocks

    def release(self) -> None:
        """Forget what was made of the model: its weights have changed."""
        self._programs.clear()
        self.prepared = None

    def __getstate__(self) -> dict[str, Any]:
        """Leave out what was made, which can be neither copied nor sent to another process.

        Raises:
            NotReadyError: If it cannot be made again.
        """
        if self.prepared is not None:
            self.source.trunk.check_weights()
        return {**self.__dict__, "_programs": {}}
