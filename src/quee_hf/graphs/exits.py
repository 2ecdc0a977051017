"""Exits as ONNX graphs: from tokens to logits and to how much patch tokens differ."""

from typing import NamedTuple

import onnx
from torch import Tensor, nn

from quee_hf.exits.attention import AttentionPooling
from quee_hf.exits.heads import ExitHead
from quee_hf.graphs.builder import GraphBuilder


class ClassEmbeddings(NamedTuple):
    """What a head's embedding is compared with."""

    embeddings: Tensor  # (classes, size), of length 1
    logit_scale: float


def exit_graph(
    norm: nn.LayerNorm, head: ExitHead, num_tokens: int, classes: ClassEmbeddings | None
) -> onnx.ModelProto:
    """Return an exit as a graph from `hidden`, `(batch, tokens, hidden)`, to `logits` and `variance`.

    Args:
        norm: The backbone's last.
        head: What reads the normalised tokens.
        num_tokens: Of an image.
        classes: If the head returns an embedding.

    Returns:
        `logits` are `(batch, labels)`, `variance` is `(batch,)`, as `spatial_variance` gives it.
    """
    graph = GraphBuilder("hidden", (num_tokens, norm.normalized_shape[0]))
    tokens = graph.norm(graph.input, norm)
    patches = _add_slice(graph, tokens, head.num_prefix_tokens, num_tokens)
    mean = graph.add("ReduceMean", patches, graph.constant([1]), keepdims=1)
    outputs = _add_network(graph, _add_pooling(graph, tokens, patches, mean, head), head.network)
    num_labels = _num_outputs(head.network)
    if classes is not None:
        outputs = _add_cosine(graph, outputs, classes)
        num_labels = len(classes.embeddings)
    deviation = graph.add("Sub", patches, mean)
    square = graph.add("Mul", deviation, deviation)
    graph.output(outputs, "logits", (num_labels,))
    graph.output(graph.add("ReduceMean", square, graph.constant([1, 2]), keepdims=0), "variance", ())
    return graph.model("exit")


def _add_slice(graph: GraphBuilder, tokens: str, start: int, stop: int) -> str:
    ends = (graph.constant([number]) for number in (start, stop, 1))
    return graph.add("Slice", tokens, *ends)


def _add_token(graph: GraphBuilder, tokens: str) -> str:
    """Take the class token, `(batch, hidden)`."""
    return graph.add("Squeeze", _add_slice(graph, tokens, 0, 1), graph.constant([1]))


def _add_pooling(graph: GraphBuilder, tokens: str, patches: str, mean: str, head: ExitHead) -> str:
    """Do what `ExitHead.select` and `ExitHead.pool` do."""
    mean = graph.add("Squeeze", mean, graph.constant([1]))
    if head.pooling == "mean":
        return mean
    first = _add_token(graph, tokens)
    if head.pooling == "cls":
        return first
    if head.pooling == "cls_and_mean":
        return graph.add("Concat", first, mean, axis=1)
    attention = head.attention
    assert isinstance(attention, AttentionPooling)
    read = tokens
    if head.num_prefix_tokens > 1:
        read = graph.add("Concat", _add_slice(graph, tokens, 0, 1), patches, axis=1)
    keys = graph.linear(read, attention.keys.weight, None)
    weights = graph.add("Softmax", graph.linear(keys, attention.queries.T, None), axis=1)
    values = graph.linear(read, attention.values.weight, attention.values.bias)
    attended = graph.add("MatMul", graph.add("Transpose", weights, perm=[0, 2, 1]), values)
    attended = graph.add("Flatten", attended, axis=1)
    return graph.add("Concat", first, mean, attended, axis=1)


def _add_network(graph: GraphBuilder, x: str, network: nn.Module) -> str:
    for layer in network if isinstance(network, nn.Sequential) else [network]:
        x = (
            graph.linear(x, layer.weight, layer.bias)
            if isinstance(layer, nn.Linear)
            else graph.add("Gelu", x)
        )
    return x


def _num_outputs(network: nn.Module) -> int:
    last = network[-1] if isinstance(network, nn.Sequential) else network
    assert isinstance(last, nn.Linear)
    return last.out_features


def _add_cosine(graph: GraphBuilder, embedding: str, classes: ClassEmbeddings) -> str:
    length = graph.add("ReduceL2", embedding, graph.constant([1]), keepdims=1)
    direction = graph.add("Div", embedding, graph.add("Max", length, graph.constant(1e-12)))
    return graph.linear(direction, classes.logit_scale * classes.embeddings, None)
