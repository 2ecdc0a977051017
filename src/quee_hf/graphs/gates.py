"""Gates as parts of ONNX graphs: what they keep of an exit, and what they make of the exits passed."""

import math
from collections.abc import Callable
from typing import cast

import torch
from torch import nn

from quee_hf.gates import ErrorGates, Gates
from quee_hf.gates.error_predictor import ErrorPredictor
from quee_hf.gates.features import GATE_FEATURES, LOG_UNIT, NUM_RANKS, SMALLEST
from quee_hf.graphs.builder import GraphBuilder


def add_summary(graph: GraphBuilder, logits: str, variance: str, features: str, num_labels: int) -> str:
    """Add what gates keep of an exit, `(batch, 1, summary)`, as `FeatureKind.summarize` gives it."""
    probabilities = graph.add("Softmax", logits, axis=1)
    summary = _SUMMARIES[features](graph, probabilities, variance, num_labels)
    return graph.add("Unsqueeze", summary, graph.constant([1]))


def add_scores(graph: GraphBuilder, seen: str, gates: Gates, depth: int) -> tuple[str, tuple[int, ...]]:
    """Add what the gate after `depth` segments makes of `seen`, `(batch, depth, summary)`.

    Returns:
        The value, and its shape without the batch: error probabilities, `(paths,)`, of QuEE's gates; the
        probability of being right, `()`, of LRA-EE's.
    """
    features = _JOINTS[gates.features](graph, seen, gates, depth)
    if isinstance(gates, ErrorGates):
        gate = cast(ErrorPredictor, gates[str(depth)])
        return _add_predictor(graph, features, gate), (len(gate.code_rows),)
    layer = cast(nn.Linear, gates.layers[str(depth)])
    logit = graph.linear(features, layer.weight, layer.bias)
    return graph.add("Squeeze", graph.add("Sigmoid", logit), graph.constant([1])), ()


@torch.no_grad()
def _add_predictor(graph: GraphBuilder, features: str, gate: ErrorPredictor) -> str:
    assert gate.features is not None
    known = graph.linear(features, gate.features.weight, gate.features.bias)
    known = graph.add("Unsqueeze", known, graph.constant([1]))
    path_part = gate.path(gate.embed(gate.path_codes.to(gate.embed.weight.dtype)))
    hidden = graph.add("Relu", graph.add("Add", known, graph.constant(path_part[None])))
    # A product with one column is no work for a matrix kernel.
    weighted = graph.add("Mul", hidden, graph.constant(gate.output.weight))
    logits = graph.add("ReduceSum", weighted, graph.constant([2]), keepdims=0)
    return graph.add("Sigmoid", graph.add("Add", logits, graph.constant(gate.output.bias)))


def _add_entropy(graph: GraphBuilder, probabilities: str) -> str:
    """Add the entropy of each row, `(batch, 1)`; what is 0 adds 0."""
    tiny = graph.constant(torch.finfo(torch.float32).tiny)
    logarithm = graph.add("Log", graph.add("Max", probabilities, tiny))
    total = graph.add(
        "ReduceSum", graph.add("Mul", probabilities, logarithm), graph.constant([1]), keepdims=1
    )
    return graph.add("Neg", total)


def _add_confidence(graph: GraphBuilder, probabilities: str, _variance: str, num_labels: int) -> str:
    largest = graph.top(probabilities, min(NUM_RANKS, num_labels))
    sure = graph.add("Concat", largest, _add_entropy(graph, probabilities), axis=1)
    logarithm = graph.add("Log", graph.add("Max", sure, graph.constant(SMALLEST)))
    return graph.add("Mul", logarithm, graph.constant(1 / LOG_UNIT))


def _add_history(graph: GraphBuilder, probabilities: str, variance: str, num_labels: int) -> str:
    chosen = graph.add("Cast", graph.add("ArgMax", probabilities, axis=1, keepdims=1), to=graph.FLOAT)
    return graph.add("Concat", _add_confidence(graph, probabilities, variance, num_labels), chosen, axis=1)


def _add_probabilities(graph: GraphBuilder, probabilities: str, _variance: str, num_labels: int) -> str:
    scale = graph.constant(1 / math.log(num_labels))
    entropy = graph.add("Mul", _add_entropy(graph, probabilities), scale)
    return graph.add("Concat", probabilities, entropy, graph.top(probabilities, 1), axis=1)


def _add_space(graph: GraphBuilder, probabilities: str, variance: str, _num_labels: int) -> str:
    top = graph.top(probabilities, 2)
    first, second = graph.part(top, 1, 0, 1), graph.part(top, 1, 1, 2)
    variance = graph.add("Unsqueeze", variance, graph.constant([1]))
    return graph.add("Concat", first, graph.add("Sub", first, second), variance, axis=1)


def _join_newest(graph: GraphBuilder, seen: str, _gates: Gates, depth: int) -> str:
    return _exit(graph, seen, depth)


def _join_last_two(graph: GraphBuilder, seen: str, gates: Gates, depth: int) -> str:
    current, previous = _exit(graph, seen, depth), _previous(graph, seen, gates, depth)
    return graph.add("Concat", current, previous, axis=1)


def _join_probabilities(graph: GraphBuilder, seen: str, gates: Gates, depth: int) -> str:
    count = gates.num_labels
    current, previous = _exit(graph, seen, depth), _previous(graph, seen, gates, depth)
    ends = [(0, count), (count, count + 1)]
    parts = [graph.part(one, 1, *end) for end in ends for one in (current, previous)]
    largest = [graph.part(one, 1, count + 1, count + 2) for one in (previous, current)]
    return graph.add("Concat", *parts, *largest, axis=1)


def _join_history(graph: GraphBuilder, seen: str, gates: Gates, depth: int) -> str:
    size = min(NUM_RANKS, gates.num_labels) + 1
    sure = graph.add("Flatten", graph.part(seen, 2, 0, size), axis=1)
    if depth == 1:
        return sure
    chosen = graph.add("Flatten", graph.part(seen, 2, size, size + 1), axis=1)
    newest = graph.part(chosen, 1, depth - 1, depth)
    agrees = graph.add("Equal", graph.part(chosen, 1, 0, depth - 1), newest)
    return graph.add("Concat", sure, graph.add("Cast", agrees, to=graph.FLOAT), axis=1)


def _exit(graph: GraphBuilder, seen: str, number: int) -> str:
    """Take the summary of an exit, counted from 1, `(batch, summary)`."""
    return graph.add("Squeeze", graph.part(seen, 1, number - 1, number), graph.constant([1]))


def _previous(graph: GraphBuilder, seen: str, gates: Gates, depth: int) -> str:
    """Take the summary of the exit before the newest; of the uniform distribution if there is none."""
    if depth > 1:
        return _exit(graph, seen, depth - 1)
    unknown = GATE_FEATURES[gates.features].unknown(gates.num_labels)
    zeros = graph.add("Mul", _exit(graph, seen, 1), graph.constant(0.0))
    return graph.add("Add", zeros, graph.constant(unknown[None]))


_SUMMARIES: dict[str, Callable[[GraphBuilder, str, str, int], str]] = {
    "confidence": _add_confidence,
    "history": _add_history,
    "probabilities": _add_probabilities,
    "spatial": _add_space,
}
_JOINTS: dict[str, Callable[[GraphBuilder, str, Gates, int], str]] = {
    "confidence": _join_last_two,
    "history": _join_history,
    "probabilities": _join_probabilities,
    "spatial": _join_newest,
}
