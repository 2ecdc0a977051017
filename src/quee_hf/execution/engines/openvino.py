"""The engine "openvino": integer kernels on Intel, AMD and Arm CPUs."""

import math
import threading
from collections.abc import Sequence
from functools import cache
from typing import ClassVar

import onnx
import openvino
import torch
from torch import Tensor

from quee_hf.execution.buffers import empty
from quee_hf.execution.engines.graph_engine import GraphEngine
from quee_hf.execution.engines.sized_program import Program
from quee_hf.levels import Level

_LARGE = 1024  # numbers of an output for each image, from which on it is cheaper to say where to write it


class OpenVINOEngine(GraphEngine):
    """Compiles graphs with OpenVINO, for as many threads as torch uses.

    Numbers that are not integers are float32 but at "bf16", where segments run in bfloat16 if the processor
    has instructions for it.
    """

    name: ClassVar[str] = "openvino"

    def compile(self, graph: onnx.ModelProto, level: Level, batch_size: int | None) -> Program:
        """Return what runs a graph."""
        settings = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
            "INFERENCE_PRECISION_HINT": "bf16" if level == "bf16" else "f32",
        }
        core = _core()
        model = core.read_model(graph.SerializeToString())
        if batch_size is not None:
            model.reshape({each: _with_batch(each.partial_shape, batch_size) for each in model.inputs})
        return _Program(core.compile_model(model, "CPU", settings))


@cache
def _core() -> openvino.Core:
    """Return the one core of this process.

    Where signals are handled is set when a core is made, and set back to what it was before when it goes: of
    two that go in the order of their making, the second leaves an address that the first has freed, and the
    next signal ends the process.
    """
    return openvino.Core()


def _with_batch(shape: openvino.PartialShape, batch_size: int) -> openvino.PartialShape:
    shape[0] = batch_size
    return shape


class _Program:
    """A compiled graph; each thread that runs it has a request of its own."""

    def __init__(self, compiled: openvino.CompiledModel) -> None:
        self._compiled = compiled
        self._local = threading.local()
        self._tails = [[d.get_length() for d in list(o.partial_shape)[1:]] for o in compiled.outputs]

    def __call__(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        request = getattr(self._local, "request", None)
        if request is None:
            request = self._local.request = self._compiled.create_infer_request()
        outputs = [
            empty((len(inputs[0]), *tail)) if math.prod(tail) >= _LARGE else None for tail in self._tails
        ]
        for index, output in enumerate(outputs):
            if output is not None:
                request.set_output_tensor(index, openvino.Tensor(output.numpy(), shared_memory=True))
        for index, x in enumerate(inputs):
            request.set_input_tensor(index, openvino.Tensor(x.numpy(), shared_memory=True))
        request.infer(share_outputs=True)  # what it returns is not used; it would be a copy
        return [
            torch.from_numpy(request.get_output_tensor(index).data.copy()) if output is None else output
            for index, output in enumerate(outputs)
        ]
