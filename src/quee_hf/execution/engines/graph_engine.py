"""`GraphEngine`: an engine that runs ONNX graphs."""

from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, cast

import onnx
from torch import Tensor

from quee_hf.blueprint import check_runnable, image_size, num_tokens
from quee_hf.errors import NotReadyError
from quee_hf.execution.engines.engine import Engine, Source
from quee_hf.execution.network import Assessment
from quee_hf.exits.heads import ExitHead
from quee_hf.exits.reading import ExitReading
from quee_hf.graphs.embedding import embedding_graph
from quee_hf.graphs.exits import ClassEmbeddings, Exit, exit_graph, step_graph
from quee_hf.graphs.segments import segment_graph
from quee_hf.levels import Level

# From contiguous float32 tensors on the CPU, in the order of the graph's inputs, to those of its outputs.
Program = Callable[[Sequence[Tensor]], Sequence[Tensor]]


class GraphEngine(Engine):
    """Runs a compiled graph for the embedding, for each segment at each level, and for each exit.

    Args:
        source: The model, on the CPU.
    """

    def __init__(self, source: Source) -> None:
        super().__init__(source)
        self._programs: dict[object, Program] = {}

    @abstractmethod
    def compile(self, graph: onnx.ModelProto, level: Level) -> Program:
        """Return what runs a graph that computes at a level; exits and the embedding do at "fp32"."""

    def embed(self, pixel_values: Tensor) -> Tensor:
        """Map images to tokens."""
        return self._run("embedding", "fp32", self._make_embedding, pixel_values)[0]

    def run_segment(self, segment: int, level: Level, hidden: Tensor) -> Tensor:
        """Run one segment."""
        check_runnable(self.source.config, level)
        return self._run((segment, level), level, lambda: self._make_segment(segment, level), hidden)[0]

    def read_exit(self, exit_index: int, hidden: Tensor) -> ExitReading:
        """Read an exit."""
        return ExitReading(*self._run(exit_index, "fp32", lambda: exit_graph(self._exit(exit_index)), hidden))

    def assess(self, exit_index: int, hidden: Tensor, seen: Tensor | None) -> Assessment:
        """Read an exit and ask the gate there, in one go."""
        inputs = [hidden] if seen is None or self._is_last(exit_index) else [hidden, seen]
        found = self._run(("step", exit_index), "fp32", lambda: self._make_step(exit_index), *inputs)
        return Assessment(found[0], seen, None) if self._is_last(exit_index) else Assessment(*found)

    def _is_last(self, exit_index: int) -> bool:
        return exit_index == self.source.config.num_exits - 1

    def release(self) -> None:
        """Drop the compiled graphs."""
        self._programs.clear()

    def _make_embedding(self) -> onnx.ModelProto:
        return embedding_graph(self.source.trunk, image_size(self.source.config))

    def _make_segment(self, segment: int, level: Level) -> onnx.ModelProto:
        config = self.source.config
        start, stop = config.segments[segment]
        return segment_graph(self.source.trunk, start, stop, level, num_tokens(config))

    def _exit(self, exit_index: int) -> Exit:
        trunk, config, classes = self.source.trunk, self.source.config, None
        if config.logit_scale is not None:
            classes = ClassEmbeddings(self.source.get_buffer("class_embeddings"), config.logit_scale)
        return Exit(trunk.norm, cast(ExitHead, self.source.heads[exit_index]), num_tokens(config), classes)

    def _make_step(self, exit_index: int) -> onnx.ModelProto:
        gates = None if self._is_last(exit_index) else self.source.gates
        return step_graph(self._exit(exit_index), gates, exit_index + 1)

    def _run(
        self, key: object, level: Level, make: Callable[[], onnx.ModelProto], *inputs: Tensor
    ) -> Sequence[Tensor]:
        if (device := inputs[0].device).type != "cpu":
            raise NotReadyError(f"The engine {self.name!r} runs on the CPU; the model is on {device}.")
        if key not in self._programs:
            self._programs[key] = self.compile(make(), level)
        return self._programs[key]([x.detach().float().contiguous() for x in inputs])

    def __getstate__(self) -> dict[str, Any]:
        """Leave out compiled graphs, which can be neither copied nor sent to another process."""
        return {**self.__dict__, "_programs": {}}
