"""`GraphBuilder`: write an ONNX graph node by node."""

from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor

from quee_hf.quantization.integer import IntegerLinear

_OPSET = 21
_IR_VERSION = 10  # the first that holds this opset
_FLOAT = np.float32


class GraphBuilder:
    """An ONNX graph of floats; the first dimension of what goes in and comes out is free.

    Args:
        name: Of the first input.
        shape: Of the first input, without the batch.
    """

    FLOAT = TensorProto.FLOAT

    def __init__(self, name: str, shape: tuple[int, ...]) -> None:
        self._inputs: list[onnx.ValueInfoProto] = []
        self.input = self.add_input(name, shape)
        self._outputs: list[onnx.ValueInfoProto] = []
        self._nodes: list[onnx.NodeProto] = []
        self._constants: list[onnx.TensorProto] = []

    def add_input(self, name: str, shape: tuple[int, ...]) -> str:
        """Add an input, `shape` without the batch, and return its name."""
        self._inputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", *shape]))
        return name

    def constant(self, value: NDArray[Any] | Tensor | float | list[int]) -> str:
        """Add a constant; floats become float32, lists of whole numbers int64."""
        if isinstance(value, Tensor):
            value = (value.float() if value.is_floating_point() else value).detach().cpu().numpy()
        array = np.array(value, dtype=np.int64) if isinstance(value, list) else np.array(value, order="C")
        if array.dtype.kind == "f":
            array = array.astype(_FLOAT)
        name = f"constant_{len(self._constants)}"
        self._constants.append(numpy_helper.from_array(array, name))
        return name

    def add(self, kind: str, *inputs: str, **attributes: Any) -> str:
        """Add a node with one output and return its name."""
        output = f"{kind.lower()}_{len(self._nodes)}"
        self._nodes.append(helper.make_node(kind, list(inputs), [output], **attributes))
        return output

    def part(self, x: str, axis: int, start: int, stop: int) -> str:
        """Take the entries from `start` to `stop - 1` along an axis."""
        return self.add("Slice", x, *(self.constant([number]) for number in (start, stop, axis)))

    def top(self, x: str, count: int) -> str:
        """Take the largest entries of each row, descending."""
        names = [f"top_{len(self._nodes)}_{part}" for part in ("values", "positions")]
        self._nodes.append(helper.make_node("TopK", [x, self.constant([count])], names, axis=1))
        return names[0]

    def norm(self, x: str, norm: Any) -> str:
        """Add a `torch.nn.LayerNorm`."""
        return self.layer_norm(x, norm.weight, norm.bias, norm.eps)

    def layer_norm(self, x: str, weight: Tensor, bias: Tensor, eps: float) -> str:
        """Add a layer norm over the last dimension."""
        scale, offset = self.constant(weight), self.constant(bias)
        return self.add("LayerNormalization", x, scale, offset, axis=-1, epsilon=eps)

    def prepend(self, first: Tensor, x: str) -> str:
        """Put the same rows, `(rows, size)`, before those of every image, `(batch, tokens, size)`."""
        batch = self.add("Shape", x, start=0, end=1)
        target = self.add("Concat", batch, self.constant(list(first.shape)), axis=0)
        return self.add("Concat", self.add("Expand", self.constant(first[None]), target), x, axis=1)

    def linear(self, x: str, weight: Tensor, bias: Tensor | None) -> str:
        """Add a linear layer in floats; `weight` is `(out, in)`.

        It is turned round in the graph: what OpenVINO makes of a weight that is turned already is kept beside
        it.
        """
        turned = self.add("Transpose", self.constant(weight.detach().float()), perm=[1, 0])
        product = self.add("MatMul", x, turned)
        return product if bias is None else self.add("Add", product, self.constant(bias))

    def codes(self, x: str, layer: IntegerLinear) -> str:
        """Add the rounding of a layer's input."""
        parameters = layer.input_scale, layer.input_zero_point, layer.input_bits
        return self.rounded(x, layer.input_range, *parameters)

    def integer_linear(self, codes: str, layer: IntegerLinear) -> str:
        """Add a linear layer on 8-bit codes, which `codes` has added."""
        result = self.add("MatMul", codes, self._weight(layer.codes, layer.scale))
        if layer.bias is not None:
            result = self.add("Add", result, self.constant(layer.bias))
        if layer.offset is not None:
            ones = self._weight(torch.ones_like(layer.codes[:1]), torch.ones(1))
            total = self.add("MatMul", codes, ones)
            result = self.add("Add", result, self.add("Mul", total, self.constant(layer.offset)))
        return result

    def _weight(self, codes: Tensor, scale: Tensor) -> str:
        zeros = np.zeros(len(scale), np.int8)
        constants = (self.constant(value) for value in (codes.T, scale, zeros))
        return self.add("DequantizeLinear", *constants, axis=1)

    def rounded(self, x: str, ends: tuple[float, float], scale: float, zero_point: int, bits: int) -> str:
        """Add the rounding of an activation to codes of at most 8 bits.

        Kernels know 256 codes only: of fewer bits, inputs are clipped first.
        """
        if bits < 8:
            x = self.add("Clip", x, *(self.constant(np.array(end, _FLOAT)) for end in ends))
        parameters = self.constant(np.array(scale, _FLOAT)), self.constant(np.array(zero_point, np.uint8))
        return self.add("DequantizeLinear", self.add("QuantizeLinear", x, *parameters), *parameters)

    def output(self, value: str, name: str, shape: tuple[int, ...]) -> None:
        """Name a value as an output of the graph, `shape` without the batch."""
        self._nodes.append(helper.make_node("Identity", [value], [name]))
        self._outputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", *shape]))

    def model(self, name: str) -> onnx.ModelProto:
        """Return the graph as an ONNX model."""
        graph = helper.make_graph(self._nodes, name, self._inputs, self._outputs, self._constants)
        opsets = [helper.make_opsetid("", _OPSET)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=_IR_VERSION)
