"""The T2T module of T2T-ViT as part of an ONNX graph."""

from typing import cast

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from quee_hf.backbones.t2t_vit.attention import SMALLEST_TOTAL, PerformerAttention, SoftmaxAttention
from quee_hf.backbones.t2t_vit.embeddings import T2TViTEmbeddings, TokenStage
from quee_hf.backbones.t2t_vit.soft_split import SOFT_SPLITS, SoftSplit, token_grids
from quee_hf.graphs.activations import add_activation
from quee_hf.graphs.builder import GraphBuilder


def add_t2t_tokens(graph: GraphBuilder, embeddings: T2TViTEmbeddings) -> str:
    """Add what `T2TViTEmbeddings` does to the graph's first input.

    Pixels and tokens have their channels last here. A window is a list of places, looked up, so its numbers
    come place by place rather than channel by channel; weights that read windows are put in the same order.
    """
    height, width = embeddings.image_size
    x = graph.add("Transpose", graph.input, perm=[0, 2, 3, 1])
    x = graph.add("Reshape", x, graph.constant([0, height * width, embeddings.num_channels]))
    grids = [(height, width), *token_grids(height, width)[:-1]]
    sizes = [
        embeddings.num_channels,
        *(cast(TokenStage, stage).output.out_features for stage in embeddings.stages),
    ]
    for grid, size, split, stage in zip(grids, sizes, SOFT_SPLITS, [*embeddings.stages, None], strict=True):
        x = _add_windows(graph, x, window_places(*grid, split), size)
        if stage is not None:
            x = _add_stage(graph, x, cast(TokenStage, stage), size, embeddings.activation_name)
    projection, positions = embeddings.projection, embeddings.get_buffer("position_embeddings")[0]
    x = graph.linear(x, _by_place(projection.weight, size), projection.bias)
    x = graph.add("Add", x, graph.constant(positions[1:]))
    return graph.prepend(embeddings.cls_token[0] + positions[:1], x)


def window_places(height: int, width: int, split: SoftSplit) -> NDArray[np.int64]:
    """Return the places that the windows of a soft split look at.

    Returns:
        `(windows, places)`: numbers of tokens, row by row; `height * width` stands for a zero outside.

    Example:
        >>> window_places(2, 2, SoftSplit(3, 2, 1)).tolist()
        [[4, 4, 4, 4, 0, 1, 4, 2, 3]]
    """
    rows, columns = (
        (np.arange(count) * split.stride - split.padding)[:, None] + np.arange(split.kernel_size)
        for count in split.grid(height, width)
    )
    y, x = rows[:, None, :, None], columns[None, :, None, :]
    is_inside = (y >= 0) & (y < height) & (x >= 0) & (x < width)
    places = np.where(is_inside, y * width + x, height * width)
    return places.reshape(len(rows) * len(columns), -1).astype(np.int64)


def _add_windows(graph: GraphBuilder, x: str, places: NDArray[np.int64], size: int) -> str:
    """Look up windows: `(batch, tokens, size)` to `(batch, windows, places * size)`."""
    padded = graph.add("Pad", x, graph.constant([0, 0, 0, 0, 1, 0]))  # a row of zeros at the end
    found = graph.add("Gather", padded, graph.constant(places), axis=1)
    return graph.add("Reshape", found, graph.constant([0, len(places), places.shape[1] * size]))


def _by_place(weight: Tensor, size: int) -> Tensor:
    """Put the last dimension of a weight, ordered by channel and place, in the order of place and channel."""
    turned: Tensor = weight.unflatten(-1, (size, -1)).transpose(-1, -2)
    return turned.flatten(-2)


def _add_stage(graph: GraphBuilder, x: str, stage: TokenStage, size: int, activation: str) -> str:
    norm, qkv, width = stage.norm1, stage.qkv, stage.output.out_features
    x = graph.layer_norm(x, _by_place(norm.weight, size), _by_place(norm.bias, size), norm.eps)
    x = graph.linear(x, _by_place(qkv.weight, size), qkv.bias)
    parts = [graph.part(x, 2, start, start + width) for start in range(0, 3 * width, width)]
    mixed = _add_attention(graph, parts, stage.attention)
    x = graph.add("Add", parts[2], graph.linear(mixed, stage.output.weight, stage.output.bias))
    inner = graph.linear(graph.norm(x, stage.norm2), stage.fc1.weight, stage.fc1.bias)
    inner = add_activation(graph, inner, activation)
    return graph.add("Add", x, graph.linear(inner, stage.fc2.weight, stage.fc2.bias))


def _add_attention(graph: GraphBuilder, parts: list[str], attention: nn.Module) -> str:
    """Add attention on queries, keys and values, each `(batch, tokens, size)`."""
    if isinstance(attention, PerformerAttention):
        return _add_performer(graph, parts, attention)
    query, key, value = parts
    scale = cast(SoftmaxAttention, attention).scale
    scores = graph.add("MatMul", graph.add("Mul", query, graph.constant(scale)), _turned(graph, key))
    return graph.add("MatMul", graph.add("Softmax", scores, axis=-1), value)


def _add_performer(graph: GraphBuilder, parts: list[str], attention: PerformerAttention) -> str:
    query, key = (_add_features(graph, part, attention) for part in parts[:2])
    mixed = graph.add("MatMul", query, graph.add("MatMul", _turned(graph, key), parts[2]))
    keys = graph.add("ReduceSum", key, graph.constant([1]), keepdims=1)
    total = graph.add("ReduceSum", graph.add("Mul", query, keys), graph.constant([2]), keepdims=1)
    return graph.add("Div", mixed, graph.add("Add", total, graph.constant(SMALLEST_TOTAL)))


def _add_features(graph: GraphBuilder, x: str, attention: PerformerAttention) -> str:
    projected = graph.linear(x, attention.get_buffer("random_features"), None)
    square = graph.add("ReduceSum", graph.add("Mul", x, x), graph.constant([2]), keepdims=1)
    half = graph.add("Mul", square, graph.constant(0.5))
    exponential = graph.add("Exp", graph.add("Sub", projected, half))
    return graph.add("Mul", exponential, graph.constant(attention.num_features**-0.5))


def _turned(graph: GraphBuilder, x: str) -> str:
    return graph.add("Transpose", x, perm=[0, 2, 1])
