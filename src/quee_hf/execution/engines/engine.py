"""`Engine`: what runs the parts of a model in place of its own modules."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar, Protocol

from torch import Tensor, nn

from quee_hf.backbones.trunk import Trunk
from quee_hf.configuration import QuEEConfig
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
    def release(self) -> None:
        """Forget what was made of the model: its weights have changed."""
