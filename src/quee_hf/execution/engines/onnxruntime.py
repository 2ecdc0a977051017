"""The engine "onnxruntime": integer kernels wherever ONNX Runtime runs."""

from collections.abc import Sequence
from typing import ClassVar

import onnx
import torch
from torch import Tensor

from quee_hf.execution.engines.graph_engine import GraphEngine
from quee_hf.execution.engines.sized_program import Program
from quee_hf.graphs.sessions import open_session
from quee_hf.levels import Level


class OnnxRuntimeEngine(GraphEngine):
    """Runs graphs with ONNX Runtime, on as many threads as torch uses. "bf16" runs as "fp32"."""

    name: ClassVar[str] = "onnxruntime"
    compiles_for_sizes: ClassVar[bool] = False  # integer kernels would be lost

    def compile(self, graph: onnx.ModelProto, level: Level, batch_size: int | None) -> Program:
        """Return what runs a graph, whatever the batch size is."""
        session = open_session(graph.SerializeToString(), torch.get_num_threads())
        names = [each.name for each in session.get_inputs()]

        def run(inputs: Sequence[Tensor]) -> list[Tensor]:
            given = {name: x.numpy() for name, x in zip(names, inputs, strict=True)}
            return [torch.from_numpy(output) for output in session.run(None, given)]

        return run
