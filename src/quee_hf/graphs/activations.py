"""Activation functions as ONNX nodes, by their names in transformers."""

from collections.abc import Callable

from quee_hf.graphs.builder import GraphBuilder

_QUICK = 1.702  # of "quick_gelu": x * sigmoid(1.702 x)


def add_activation(graph: GraphBuilder, x: str, name: str) -> str:
    """Add an activation function.

    Raises:
        ValueError: If there is none of this name.
    """
    if name not in _ACTIVATIONS:
        raise ValueError(f"There is no graph for the activation {name!r}; there is for {list(_ACTIVATIONS)}.")
    return _ACTIVATIONS[name](graph, x)


def _gelu(graph: GraphBuilder, x: str) -> str:
    return graph.add("Gelu", x)


def _gelu_tanh(graph: GraphBuilder, x: str) -> str:
    return graph.add("Gelu", x, approximate="tanh")


def _silu(graph: GraphBuilder, x: str) -> str:
    return graph.add("Mul", x, graph.add("Sigmoid", x))


def _quick_gelu(graph: GraphBuilder, x: str) -> str:
    return graph.add("Mul", x, graph.add("Sigmoid", graph.add("Mul", x, graph.constant(_QUICK))))


def _relu(graph: GraphBuilder, x: str) -> str:
    return graph.add("Relu", x)


_ACTIVATIONS: dict[str, Callable[[GraphBuilder, str], str]] = {
    "gelu": _gelu,
    "gelu_new": _gelu_tanh,
    "gelu_pytorch_tanh": _gelu_tanh,
    "quick_gelu": _quick_gelu,
    "relu": _relu,
    "silu": _silu,
}
