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


class Exit(NamedTuple):
    """What an exit is made of."""

    norm: nn.LayerNorm  # the backbone's last
    head: ExitHead  # reads the normalised tokens
    num_tokens: int  # of an image
    classes: ClassEmbeddings | None  # if the head returns an embedding

    @property
    def input_shape(self) -> tuple[int, int]:
        """Of an image's tokens."""
        return self.num_tokens, self.norm.normalized_shape[0]

    @property
    def num_labels(self) -> int:
        """Number of classes."""
        if self.classes is not None:
            return len(self.classes.embeddings)
        network = self.head.network
        last = network[-1] if isinstance(network, nn.Sequential) else network
        assert isinstance(last, nn.Linear)
        return last.out_features


def exit_graph(parts: Exit) -> onnx.ModelProto:
    """Return an exit as a graph from `hidden`, `(batch, tokens, hidden)`, to `logits` and `variance`.

    Returns:
        `logits` are `(batch, labels)`, `variance` is `(batch,)`, as `spatial_variance` gives it.
    """
    graph = GraphBuilder("hidden", parts.input_shape)
    logits, variance = add_exit(graph, graph.input, parts)
    graph.output(logits, "logits", (parts.num_labels,))
    graph.output(variance, "variance", ())
    return graph.model("exit")


def add_exit(graph: GraphBuilder, hidden: str, parts: Exit) -> tuple[str, str]:
    """Add logits and variance. What no output depends on is left out by whatever runs the graph."""
    head, num_tokens = parts.head, parts.num_tokens
    tokens = graph.norm(hidden, parts.norm)
    patches = graph.part(tokens, 1, head.num_prefix_tokens, num_tokens)
    mean = graph.add("ReduceMean", patches, graph.constant([1]), keepdims=1)
    outputs = _add_network(graph, _add_pooling(graph, tokens, patches, mean, head), head.network)
    if parts.classes is not None:
        outputs = _add_cosine(graph, outputs, parts.classes)
    deviation = graph.add("Sub", patches, mean)
    square = graph.add("Mul", deviation, deviation)
    return outputs, graph.add("ReduceMean", square, graph.constant([1, 2]), keepdims=0)


def _add_token(graph: GraphBuilder, tokens: str) -> str:
    """Take the class token, `(batch, hidden)`."""
    return graph.add("Squeeze", graph.part(tokens, 1, 0, 1), graph.constant([1]))


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
        read = graph.add("Concat", graph.part(tokens, 1, 0, 1), patches, axis=1)
    weights = graph.add("Softmax", graph.linear(read, attention.lenses.T, None), axis=1)
    attended = graph.add("MatMul", graph.add("Transpose", weights, perm=[0, 2, 1]), read)
    attended = graph.linear(attended, attention.values.weight, attention.values.bias)
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


def _add_cosine(graph: GraphBuilder, embedding: str, classes: ClassEmbeddings) -> str:
    length = graph.add("ReduceL2", embedding, graph.constant([1]), keepdims=1)
    direction = graph.add("Div", embedding, graph.add("Max", length, graph.constant(1e-12)))
    return graph.linear(direction, classes.logit_scale * classes.embeddings, None)
