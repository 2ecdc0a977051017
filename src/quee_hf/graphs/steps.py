"""Steps through a network as ONNX graphs: a segment, the exit after it and the gate there; or a path."""

from collections.abc import Sequence

import onnx

from quee_hf.gates import Gates
from quee_hf.gates.features import GATE_FEATURES
from quee_hf.graphs.builder import GraphBuilder
from quee_hf.graphs.embedding import Embedding, add_embedding
from quee_hf.graphs.exits import Exit, add_exit
from quee_hf.graphs.gates import add_scores, add_summary
from quee_hf.graphs.segments import Segment, add_segment


def path_graph(embedding: Embedding, segments: Sequence[Segment], parts: Exit) -> onnx.ModelProto:
    """Return a path as a graph from `pixel_values`, `(batch, channels, height, width)`, to `logits`."""
    graph = GraphBuilder("pixel_values", embedding.input_shape)
    hidden = add_embedding(graph, embedding)
    for segment in segments:
        hidden = add_segment(graph, hidden, segment)
    logits, _ = add_exit(graph, hidden, parts)
    graph.output(logits, "logits", (parts.num_labels,))
    return graph.model("path")


def last_step_graph(segment: Segment, parts: Exit) -> onnx.ModelProto:
    """Return the last segment and exit as a graph from `hidden`, `(batch, tokens, hidden)`, to `logits`."""
    graph = GraphBuilder("hidden", segment.shape)
    logits, _ = add_exit(graph, add_segment(graph, graph.input, segment), parts)
    graph.output(logits, "logits", (parts.num_labels,))
    return graph.model("last_step")


def step_graph(segment: Segment, parts: Exit, gates: Gates, depth: int) -> onnx.ModelProto:
    """Return a segment, the exit after it and the gate there as a graph.

    It goes from `hidden`, `(batch, tokens, hidden)`, and, but after the first segment, `seen`, `(batch,
    depth - 1, summary)`, to `result`, shaped like `hidden`, `logits`, `(batch, labels)`, `known`, `(batch,
    depth, summary)`, and `scores`, as `quee_hf.graphs.gates.add_scores` has it.

    Args:
        segment: Its blocks.
        parts: Of the exit.
        gates: Of the model.
        depth: Segments run after this one.
    """
    graph = GraphBuilder("hidden", segment.shape)
    result = add_segment(graph, graph.input, segment)
    logits, variance = add_exit(graph, result, parts)
    graph.output(result, "result", segment.shape)
    graph.output(logits, "logits", (parts.num_labels,))
    _output_gate(graph, logits, variance, gates, depth)
    return graph.model(f"step_{depth}")


def gate_graph(gates: Gates, depth: int) -> onnx.ModelProto:
    """Return a gate as a graph.

    It goes from what `quee_hf.graphs.exits.exit_graph` gives, `logits` and `variance`, and, but after the
    first segment, `seen`, to `known` and `scores`: all as in `step_graph`.

    Args:
        gates: Of the model.
        depth: Segments run before it.
    """
    graph = GraphBuilder("logits", (gates.num_labels,))
    _output_gate(graph, graph.input, graph.add_input("variance", ()), gates, depth)
    return graph.model(f"gate_{depth}")


def _output_gate(graph: GraphBuilder, logits: str, variance: str, gates: Gates, depth: int) -> None:
    """Add a gate, with its input `seen`, and make what it knows and says outputs."""
    known = add_summary(graph, logits, variance, gates.features, gates.num_labels)
    size = len(GATE_FEATURES[gates.features].unknown(gates.num_labels))
    if depth > 1:
        known = graph.add("Concat", graph.add_input("seen", (depth - 1, size)), known, axis=1)
    scores, shape = add_scores(graph, known, gates, depth)
    graph.output(known, "known", (depth, size))
    graph.output(scores, "scores", shape)
