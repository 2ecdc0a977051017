"""`GraphEngine`: an engine that runs ONNX graphs."""

from abc import abstractmethod
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import ClassVar, cast

import onnx
from torch import Tensor

from quee_hf.blueprint import check_runnable, image_size, num_tokens
from quee_hf.errors import NotReadyError
from quee_hf.execution.engines.engine import Engine
from quee_hf.execution.engines.sized_program import Program, SizedProgram
from quee_hf.execution.network import Assessment, Step
from quee_hf.exits.heads import ExitHead
from quee_hf.exits.reading import ExitReading
from quee_hf.graphs.embedding import Embedding, embedding_graph
from quee_hf.graphs.exits import ClassEmbeddings, Exit, exit_graph
from quee_hf.graphs.segments import Segment, segment_graph
from quee_hf.graphs.steps import last_step_graph, path_graph, step_graph
from quee_hf.levels import Level

_PATH = "path"  # the first part of a path's key


class GraphEngine(Engine):
    """Runs a compiled graph for the embedding, for each segment at each level, and for each exit.

    Args:
        source: The model, on the CPU.
    """

    compiles_for_sizes: ClassVar[bool] = True  # whether what is compiled for one batch size is faster
    _programs: dict[object, Program]

    @abstractmethod
    def compile(self, graph: onnx.ModelProto, level: Level, batch_size: int | None) -> Program:
        """Return what runs a graph: in bfloat16 if `level` is "bf16", else in float32, but for integers.

        Args:
            graph: Whose inputs all have a first dimension called `BATCH`.
            level: Of the graph.
            batch_size: For which it is compiled; `None` stands for any.
        """

    def embed(self, pixel_values: Tensor) -> Tensor:
        """Map images to tokens."""
        self._check_images(pixel_values)
        return self._run("embedding", "fp32", self._make_embedding, pixel_values)[0]

    def run_segment(self, segment: int, level: Level, hidden: Tensor) -> Tensor:
        """Run one segment."""
        return self._run(
            (segment, level), level, lambda: segment_graph(self.segment(segment, level)), hidden
        )[0]

    def read_exit(self, exit_index: int, hidden: Tensor) -> ExitReading:
        """Read an exit."""
        return ExitReading(*self._run(exit_index, "fp32", lambda: exit_graph(self.exit(exit_index)), hidden))

    def advance(self, segment: int, level: Level, hidden: Tensor, seen: Tensor | None) -> Step:
        """Run a segment, read the exit after it, and ask the gate there, in one go.

        At "bf16" in two: exits and gates are computed in float32.
        """
        if level == "bf16":
            return super().advance(segment, level, hidden, seen)
        key, make = ("step", segment, level), lambda: self._make_step(segment, level)
        if self._is_last(segment):
            return Step(None, Assessment(self._run(key, level, make, hidden)[0], seen, None))
        inputs = [hidden] if seen is None else [hidden, seen]
        hidden, *reached = self._run(key, level, make, *inputs)
        return Step(hidden, Assessment(*reached))

    def run_path(self, pixel_values: Tensor, levels: Sequence[Level]) -> Tensor:
        """Run all images along one path, in one go; the graph is that of the last path asked for.

        A path with "bf16" is run segment by segment: embedding and exit are computed in float32. So is any,
        by the graphs that routing uses, if weights are there in those alone.
        """
        self._check_images(pixel_values)
        if self.prepared is not None:
            return self._run_steps(pixel_values, levels)
        if "bf16" in levels:
            return super().run_path(pixel_values, levels)
        key = _PATH, *levels
        for other in [other for other in self._programs if _is_path(other) and other != key]:
            del self._programs[other]
        return self._run(key, levels[0], lambda: self._make_path(levels), pixel_values)[0]

    def _run_steps(self, pixel_values: Tensor, levels: Sequence[Level]) -> Tensor:
        hidden: Tensor | None = self.embed(pixel_values)
        reached: Assessment | None = None
        for segment, level in enumerate(levels):
            assert hidden is not None
            hidden, reached = self.advance(segment, level, hidden, None if reached is None else reached.seen)
        assert reached is not None
        return reached.logits

    def check(self, segment: int, level: Level) -> None:
        """Make the graph of a segment, and forget it."""
        segment_graph(self.segment(segment, level))

    def _check_images(self, pixel_values: Tensor) -> None:
        expected, found = self._image_shape, tuple(pixel_values.shape[1:])
        if found != expected:
            raise ValueError(f"The engine {self.name!r} runs images of {expected}, got {found}.")

    @cached_property
    def _image_shape(self) -> tuple[int, ...]:
        return self.embedding().input_shape

    def _is_last(self, segment: int) -> bool:
        return segment == self.source.config.num_exits - 1

    def _make_embedding(self) -> onnx.ModelProto:
        return embedding_graph(self.embedding(), num_tokens(self.source.config))

    def embedding(self) -> Embedding:
        """What the graph of the embedding is made from."""
        return Embedding(self.source.trunk, image_size(self.source.config))

    def _make_path(self, levels: Sequence[Level]) -> onnx.ModelProto:
        segments = [self.segment(segment, level) for segment, level in enumerate(levels)]
        return path_graph(self.embedding(), segments, self.exit(len(levels) - 1))

    def segment(self, segment: int, level: Level) -> Segment:
        """What the graph of a segment at a level is made from."""
        check_runnable(self.source.config, level)
        return Segment(self.blocks(segment, level), level, num_tokens(self.source.config))

    def _make_step(self, segment: int, level: Level) -> onnx.ModelProto:
        parts = self.segment(segment, level), self.exit(segment)
        if self._is_last(segment):
            return last_step_graph(*parts)
        return step_graph(*parts, self.source.gates, segment + 1)

    def exit(self, exit_index: int) -> Exit:
        """What the graph of an exit is made from."""
        trunk, config, classes = self.source.trunk, self.source.config, None
        if config.logit_scale is not None:
            classes = ClassEmbeddings(self.source.get_buffer("class_embeddings"), config.logit_scale)
        return Exit(trunk.norm, cast(ExitHead, self.source.heads[exit_index]), num_tokens(config), classes)

    def _run(
        self, key: object, level: Level, make: Callable[[], onnx.ModelProto], *inputs: Tensor
    ) -> Sequence[Tensor]:
        if (device := inputs[0].device).type != "cpu":
            raise NotReadyError(f"The engine {self.name!r} runs on the CPU; the model is on {device}.")
        program = self._programs.get(key)
        if program is None:
            program = self._programs[key] = self._program(make, level)
        return program([x.detach().float().contiguous() for x in inputs])

    def _program(self, make: Callable[[], onnx.ModelProto], level: Level) -> Program:
        # Once weights are gone nothing can be compiled again, so what is compiled then is for any size.
        if self.compiles_for_sizes and self.prepared is None:
            return SizedProgram(lambda batch_size: self.compile(make(), level, batch_size))
        return self.compile(make(), level, None)


def _is_path(key: object) -> bool:
    return isinstance(key, tuple) and key[0] == _PATH
