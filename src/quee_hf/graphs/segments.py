"""Blocks at a level as an ONNX graph: integer levels as pairs of QuantizeLinear and DequantizeLinear."""

from typing import cast

import onnx
from torch import Tensor

from quee_hf.backbones.block import Attention, Block, Mlp
from quee_hf.backbones.trunk import Trunk
from quee_hf.graphs.activations import add_activation
from quee_hf.graphs.builder import GraphBuilder
from quee_hf.levels import Level
from quee_hf.quantization.integer import integer_linear, uniform_steps
from quee_hf.quantization.linear import MultiLevelLinear


def segment_graph(trunk: Trunk, start: int, stop: int, level: Level, num_tokens: int) -> onnx.ModelProto:
    """Return blocks as a graph from `hidden`, `(batch, tokens, hidden)`, to `result`, of the same shape.

    Of products of two activations both sides are rounded, as everywhere, but multiplied as floats.

    Args:
        trunk: Whose blocks.
        start: First block, counted from 0.
        stop: After the last.
        level: At which they run.
        num_tokens: Of an image.

    Raises:
        ValueError: If a product cannot be computed by integer kernels.
    """
    first = cast(Block, trunk.blocks[start])
    shape = (num_tokens, first.norm1.normalized_shape[0])
    graph = GraphBuilder("hidden", shape)
    x = graph.input
    for block in trunk.blocks[start:stop]:
        x = _add_block(graph, x, cast(Block, block), level)
    graph.output(x, "result", shape)
    return graph.model(f"blocks_{start + 1}_to_{stop}")


def _add_block(graph: GraphBuilder, x: str, block: Block, level: Level) -> str:
    branch = _add_attention(graph, graph.norm(x, block.norm1), block.attention, level)
    x = _add_branch(graph, x, branch, block.scale1)
    branch = _add_mlp(graph, graph.norm(x, block.norm2), block.mlp, level)
    return _add_branch(graph, x, branch, block.scale2)


def _add_branch(graph: GraphBuilder, x: str, branch: str, scale: Tensor | None) -> str:
    return graph.add("Add", x, branch if scale is None else graph.add("Mul", branch, graph.constant(scale)))


def _add_linear(graph: GraphBuilder, x: str, linear: MultiLevelLinear, level: Level) -> str:
    level = linear.layout.computed_at(level)
    if isinstance(level, str):
        return graph.linear(x, linear.float_weight, linear.bias)
    return graph.integer_linear(x, integer_linear(linear, level))


def _add_attention(graph: GraphBuilder, x: str, attention: Attention, level: Level) -> str:
    heads, size = attention.num_heads, attention.head_size
    qkv = _add_linear(graph, x, attention.qkv, level)
    split = graph.add("Reshape", qkv, graph.constant([0, 0, 3 * heads, size]))
    split = graph.add("Transpose", split, perm=[0, 2, 1, 3])
    query, key, value = graph.split(split, 3, axis=1)
    query = _add_rounding(graph, query, attention.scores.left, attention.scores.layout.computed_at(level))
    key = graph.add("Transpose", key, perm=[0, 1, 3, 2])
    key = _add_rounding(graph, key, attention.scores.right, attention.scores.layout.computed_at(level))
    scores = graph.add("MatMul", graph.add("Mul", query, graph.constant(size**-0.5)), key)
    weights = graph.add("Softmax", scores, axis=-1)
    weights = _add_rounding(graph, weights, attention.mix.left, attention.mix.layout.computed_at(level))
    value = _add_rounding(graph, value, attention.mix.right, attention.mix.layout.computed_at(level))
    mixed = graph.add("Transpose", graph.add("MatMul", weights, value), perm=[0, 2, 1, 3])
    mixed = graph.add("Reshape", mixed, graph.constant([0, 0, heads * size]))
    return _add_linear(graph, mixed, attention.output, level)


def _add_rounding(graph: GraphBuilder, x: str, quantizer: object, level: Level) -> str:
    """Round one side of a product of activations, where a level of few bits does."""
    if isinstance(level, str):
        return x
    scale, zero_point = uniform_steps(quantizer, level)
    low = -zero_point * scale
    high = low + (2**level - 1) * scale
    # Heads may have ranges of their own, which Clip has no word for.
    x = graph.add("Min", graph.add("Max", x, graph.constant(low.float())), graph.constant(high.float()))
    steps = graph.add("Round", graph.add("Div", x, graph.constant(scale)))
    return graph.add("Mul", steps, graph.constant(scale))


def _add_mlp(graph: GraphBuilder, x: str, mlp: Mlp, level: Level) -> str:
    inner = _add_linear(graph, x, mlp.fc1, level)
    if mlp.is_gated:
        gate, value = graph.split(inner, 2, axis=-1)
        inner = graph.add("Mul", add_activation(graph, gate, mlp.activation_name), value)
    else:
        inner = add_activation(graph, inner, mlp.activation_name)
    return _add_linear(graph, inner, mlp.fc2, level)
