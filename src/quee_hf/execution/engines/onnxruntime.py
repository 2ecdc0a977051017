"""The engine "onnxruntime": integer kernels wherever ONNX Runtime runs."""

from collections.abc import Sequence
from typing import ClassVar

import onnx
import onnxruntime
import torch
from torch import Tensor

from quee_hf.execution.engines.graph_engine import GraphEngine, Program
from quee_hf.levels import Level


class OnnxRuntimeEngine(GraphEngine):
    """Runs graphs with ONNX Runtime, on as many threads as torch uses. "bf16" runs as "fp32"."""

    name: ClassVar[str] = "onnxruntime"

    def compile(self, graph: onnx.ModelProto, level: Level) -> Program:
        """Return what runs a graph."""
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        session = onnxruntime.InferenceSession(
            graph.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        names = [each.name for each in session.get_inputs()]

        def run(inputs: Sequence[Tensor]) -> list[Tensor]:
            given = {name: x.numpy() for name, x in zip(names, inputs, strict=True)}
            return [torch.from_numpy(output) for output in session.run(None, given)]

        return run
