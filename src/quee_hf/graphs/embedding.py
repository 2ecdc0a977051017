"""The patch embedding as an ONNX graph."""

from typing import NamedTuple, cast

import onnx
import torch
from torch import Tensor, nn

from quee_hf.backbones.trunk import Trunk
from quee_hf.graphs.builder import GraphBuilder


class Embedding(NamedTuple):
    """The embedding of a trunk, for images of one size."""

    trunk: Trunk
    image_size: tuple[int, int]  # height and width

    @property
    def convolution(self) -> nn.Conv2d:
        """What makes tokens of patches.

        Raises:
            ValueError: If that takes more than one.
        """
        modules = self.trunk.embeddings.modules()
        convolutions = [module for module in modules if isinstance(module, nn.Conv2d)]
        if len(convolutions) != 1:
            raise ValueError(f"An embedding with {len(convolutions)} convolutions has no graph.")
        return convolutions[0]

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Of an image: channels, height, width."""
        return (self.convolution.in_channels, *self.image_size)


def embedding_graph(embedding: Embedding, num_tokens: int) -> onnx.ModelProto:
    """Return a graph from `pixel_values`, `(batch, channels, height, width)`, to `hidden`."""
    graph = GraphBuilder("pixel_values", embedding.input_shape)
    shape = num_tokens, embedding.convolution.out_channels
    graph.output(add_embedding(graph, embedding), "hidden", shape)
    return graph.model("embedding")


def add_embedding(graph: GraphBuilder, embedding: Embedding) -> str:
    """Add tokens of the graph's first input.

    They are a convolution of the image plus what does not depend on it: class token, positions, bias.
    """
    trunk, convolution = embedding.trunk, embedding.convolution
    patches = graph.add(
        "Conv",
        graph.input,
        graph.constant(convolution.weight),
        kernel_shape=list(convolution.kernel_size),
        strides=list(convolution.stride),
    )
    fixed = _tokens_of_black(trunk, embedding.input_shape)
    size, prefix = convolution.out_channels, trunk.num_prefix_tokens
    patches = graph.add("Reshape", patches, graph.constant([0, size, len(fixed) - prefix]))
    patches = graph.add("Transpose", patches, perm=[0, 2, 1])
    patches = graph.add("Add", patches, graph.constant(fixed[prefix:]))
    batch = graph.add("Shape", graph.input, start=0, end=1)
    target = graph.add("Concat", batch, graph.constant([prefix, size]), axis=0)
    first = graph.add("Expand", graph.constant(fixed[None, :prefix]), target)
    tokens = graph.add("Concat", first, patches, axis=1)
    if isinstance(trunk.pre_norm, nn.LayerNorm):
        tokens = graph.norm(tokens, trunk.pre_norm)
    return tokens


@torch.no_grad()
def _tokens_of_black(trunk: Trunk, shape: tuple[int, ...]) -> Tensor:
    """Return the embedding of an image of zeros, `(tokens, hidden)`."""
    weight = next(trunk.embeddings.parameters())
    return cast(Tensor, trunk.embeddings(torch.zeros(1, *shape, device=weight.device, dtype=weight.dtype)))[0]
