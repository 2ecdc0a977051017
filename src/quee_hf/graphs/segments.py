"""Blocks at a level as an ONNX graph: integer levels as pairs of QuantizeLinear and DequantizeLinear."""

from collections.abc import Sequence
from typing import NamedTuple, cast

import onnx
from torch import Tensor, nn

from quee_hf.backbones.block import Block
from quee_hf.graphs.activations import add_activation
from quee_hf.graphs.builder import GraphBuilder
from quee_hf.levels import Level
from quee_hf.quantization.integer import integer_linear, uniform_steps
from quee_hf.quantization.linear import MultiLevelLinear

Factor = Tensor | float | None  # of a layer's outputs: one for each, one for all, or none


class Segment(NamedTuple):
    """Blocks at a level."""

    blocks: Sequence[nn.Module]  # each a `Block`
    level: Level
    num_tokens: int  # of an image

    @property
    def shape(self) -> tuple[int, int]:
        """Of an image's tokens."""
        return self.num_tokens, cast(Block, self.blocks[0]).norm1.normalized_shape[0]


def segment_graph(segment: Segment) -> onnx.ModelProto:
    """Return a segment as a graph from `hidden`, `(batch, tokens, hidden)`, to `result`, of the same shape.

    Raises:
        ValueError: If a product cannot be computed by integer kernels.
    """
    graph = GraphBuilder("hidden", segment.shape)
    graph.output(add_segment(graph, graph.input, segment), "result", segment.shape)
    return graph.model("segment")


def add_segment(graph: GraphBuilder, hidden: str, segment: Segment) -> str:
    """Add a segment, from tokens to tokens of the same shape.

    Of products of two activations both sides are rounded, as everywhere, but multiplied as floats.
    """
    x = hidden
    for block in segment.blocks:
        x = _add_block(graph, x, cast(Block, block), segment.level)
    return x


def _add_block(graph: GraphBuilder, x: str, block: Block, level: Level) -> str:
    x = graph.add("Add", x, _add_attention(graph, graph.norm(x, block.norm1), block, level))
    return graph.add("Add", x, _add_mlp(graph, graph.norm(x, block.norm2), block, level))


def _add_linear(
    graph: GraphBuilder, x: str, linear: MultiLevelLinear, level: Level, factors: Sequence[Factor] = (None,)
) -> list[str]:
    """Add a linear layer; its outputs in as many equal parts as there are factors, each times its factor."""
    level = linear.layout.computed_at(level)
    size = linear.out_features // len(factors)
    ends = [(start, start + size) for start in range(0, linear.out_features, size)]
    numbers = [1.0 if factor is None else factor for factor in factors]
    if not isinstance(level, str):
        layer = integer_linear(linear, level)
        codes = graph.codes(x, layer)
        parts = [layer.rows(*end, factor) for end, factor in zip(ends, numbers, strict=True)]
        return [graph.integer_linear(codes, part) for part in parts]
    weight, bias = linear.float_weight.float(), linear.bias
    results = []
    for (start, stop), factor in zip(ends, numbers, strict=True):
        scaled = weight[start:stop] * (factor[:, None] if isinstance(factor, Tensor) else factor)
        results.append(graph.linear(x, scaled, None if bias is None else bias[start:stop] * factor))
    return results


def _add_attention(graph: GraphBuilder, x: str, block: Block, level: Level) -> str:
    attention = block.attention
    heads, size = attention.num_heads, attention.head_size
    at_scores, at_mix = (each.layout.computed_at(level) for each in (attention.scores, attention.mix))
    # Scaling a query by a power of 2 is exact before its rounding, too, but codes have steps of their own.
    is_folded = isinstance(at_scores, str)
    factors = (size**-0.5 if is_folded else None, None, None)
    parts = _add_linear(graph, x, attention.qkv, level, factors)
    parts = [graph.add("Reshape", part, graph.constant([0, 0, heads, size])) for part in parts]
    orders = [0, 2, 1, 3], [0, 2, 3, 1], [0, 2, 1, 3]  # keys are transposed, too
    query, key, value = (
        graph.add("Transpose", part, perm=order) for part, order in zip(parts, orders, strict=True)
    )
    query = _add_rounding(graph, query, attention.scores.left, at_scores)
    if not is_folded:
        query = graph.add("Mul", query, graph.constant(size**-0.5))
    key = _add_rounding(graph, key, attention.scores.right, at_scores)
    scores = graph.add("MatMul", query, key)
    weights = graph.add("Softmax", scores, axis=-1)
    weights = _add_rounding(graph, weights, attention.mix.left, at_mix)
    value = _add_rounding(graph, value, attention.mix.right, at_mix)
    mixed = graph.add("Transpose", graph.add("MatMul", weights, value), perm=[0, 2, 1, 3])
    mixed = graph.add("Reshape", mixed, graph.constant([0, 0, heads * size]))
    return _add_linear(graph, mixed, attention.output, level, (block.scale1,))[0]


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


def _add_mlp(graph: GraphBuilder, x: str, block: Block, level: Level) -> str:
    mlp = block.mlp
    first, *values = _add_linear(graph, x, mlp.fc1, level, (None, None) if mlp.is_gated else (None,))
    inner = add_activation(graph, first, mlp.activation_name)
    for value in values:
        inner = graph.add("Mul", inner, value)
    return _add_linear(graph, inner, mlp.fc2, level, (block.scale2,))[0]
