"""The embedding as an ONNX graph."""

from typing import NamedTuple, cast

import onnx
import torch
from torch import Tensor, nn

from quee_hf.backbones.t2t_vit.embeddings import T2TViTEmbeddings
from quee_hf.backbones.trunk import Trunk
from quee_hf.graphs.builder import GraphBuilder
from quee_hf.graphs.soft_splits import add_t2t_tokens


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
    def patch_size(self) -> tuple[int, int]:
        """Height and width of what becomes a token.

        Raises:
            ValueError: If patches overlap, or are padded.
        """
        (height, width), stride = self.convolution.kernel_size, self.convolution.stride
        padding = self.convolution.padding
        if stride != (height, width) or padding != (0, 0):
            raise ValueError(
                f"A convolution of {height} x {width} in steps of {stride}, padding {padding}, has no graph."
            )
        return height, width

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Of an image: channels, height, width."""
        embeddings = self.trunk.embeddings
        if isinstance(embeddings, T2TViTEmbeddings):
            return (embeddings.num_channels, *self.image_size)
        return (self.convolution.in_channels, *self.image_size)


def embedding_graph(embedding: Embedding, num_tokens: int) -> onnx.ModelProto:
    """Return a graph from `pixel_values`, `(batch, channels, height, width)`, to `hidden`."""
    graph = GraphBuilder("pixel_values", embedding.input_shape)
    shape = num_tokens, embedding.trunk.norm.normalized_shape[0]
    graph.output(add_embedding(graph, embedding), "hidden", shape)
    return graph.model("embedding")


def add_embedding(graph: GraphBuilder, embedding: Embedding) -> str:
    """Add tokens of the graph's first input."""
    trunk = embedding.trunk
    if isinstance(trunk.embeddings, T2TViTEmbeddings):
        tokens = add_t2t_tokens(graph, trunk.embeddings)
    else:
        tokens = _add_patch_tokens(graph, embedding)
    if isinstance(trunk.pre_norm, nn.LayerNorm):
        tokens = graph.norm(tokens, trunk.pre_norm)
    return tokens


def _add_patch_tokens(graph: GraphBuilder, embedding: Embedding) -> str:
    """Add a linear map of patches, and what does not depend on the image: class token, positions, bias.

    Runtimes are quicker at the product of matrices than at the convolution that it is.
    """
    trunk = embedding.trunk
    patches = graph.linear(_add_patches(graph, embedding), embedding.convolution.weight.flatten(1), None)
    fixed, prefix = _tokens_of_black(trunk, embedding.input_shape), trunk.num_prefix_tokens
    patches = graph.add("Add", patches, graph.constant(fixed[prefix:]))
    return graph.prepend(fixed[:prefix], patches)


def _add_patches(graph: GraphBuilder, embedding: Embedding) -> str:
    """Cut the graph's first input into patches, `(batch, patches, channels * height * width)`."""
    height, width = embedding.patch_size
    channels, *size = embedding.input_shape
    rows, columns = size[0] // height, size[1] // width
    x = graph.input
    for axis, seen in (2, rows * height), (3, columns * width):
        if seen < size[axis - 2]:  # what fills no patch is not seen
            x = graph.part(x, axis, 0, seen)
    x = graph.add("Reshape", x, graph.constant([0, channels, rows, height, columns, width]))
    x = graph.add("Transpose", x, perm=[0, 2, 4, 1, 3, 5])
    return graph.add("Reshape", x, graph.constant([0, rows * columns, channels * height * width]))


@torch.no_grad()
def _tokens_of_black(trunk: Trunk, shape: tuple[int, ...]) -> Tensor:
    """Return the embedding of an image of zeros, `(tokens, hidden)`."""
    weight = next(trunk.embeddings.parameters())
    return cast(Tensor, trunk.embeddings(torch.zeros(1, *shape, device=weight.device, dtype=weight.dtype)))[0]
