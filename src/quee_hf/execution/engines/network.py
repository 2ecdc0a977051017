"""`EngineNetwork`: a model whose parts run on an engine."""

from torch import Tensor

from quee_hf.execution.engines.engine import Engine
from quee_hf.execution.network import Network, NetworkWrapper, Step
from quee_hf.exits.reading import ExitReading
from quee_hf.levels import Level
from quee_hf.paths import Path


class EngineNetwork(NetworkWrapper):
    """A `Network` whose embedding, segments, exits and gates an engine runs; decisions are the model's.

    Args:
        model: Whose gates.
        engine: Made for this model.
    """

    def __init__(self, model: Network, engine: Engine) -> None:
        super().__init__(model)
        self._engine = engine

    def embed(self, pixel_values: Tensor) -> Tensor:
        """Map pixels to tokens."""
        return self._engine.embed(pixel_values)

    def run_segment(self, segment: int, level: Level, hidden: Tensor) -> Tensor:
        """Run one segment."""
        return self._engine.run_segment(segment, level, hidden)

    def advance(self, segment: int, level: Level, hidden: Tensor, seen: Tensor | None) -> Step:
        """Run a segment, read the exit after it, and ask the gate there."""
        return self._engine.advance(segment, level, hidden, seen)

    def run_path(self, pixel_values: Tensor, path: Path) -> Tensor:
        """Run all images along one path."""
        levels = self.level_list
        return self._engine.run_path(pixel_values, [levels[level] for level in path])

    def read_exit(self, exit_index: int, hidden: Tensor) -> ExitReading:
        """Read an exit."""
        return self._engine.read_exit(exit_index, hidden)
