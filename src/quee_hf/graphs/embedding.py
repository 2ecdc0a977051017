"""The patch embedding as an ONNX graph."""

from typing import cast

import onnx
import torch
from torch import Tensor, nn

from quee_hf.backbones.trunk import Trunk
from quee_hf.graphs.builder import GraphBuilder


def embedding_graph(trunk: Trunk, image_size: tuple[int, int]) -> onnx.ModelProto:
    """Return the embedding as a graph from `pixel_values`, `(batch, channels, height, width)`, to `hidden`.

    Tokens are a convolution of the image plus what does not depend on it: class token, positions, bias.

    Args:
        trunk: Whose embedding.
        image_size: Height and width.

    Raises:
        ValueError: If the embedding is not of this kind.
    """
    convolutions = [module for module in trunk.embeddings.modules() if isinstance(module, nn.Conv2d)]
    if len(convolutions) != 1:
        raise ValueError(f"An embedding with {len(convolutions)} convolutions has no graph.")
    convolution = convolutions[0]
    shape = (convolution.in_channels, *image_size)
    graph = GraphBuilder("pixel_values", shape)
    patches = graph.add(
        "Conv",
        graph.input,
        graph.constant(convolution.weight),
        kernel_shape=list(convolution.kernel_size),
        strides=list(convolution.stride),
    )
    size = convolution.out_channels
    patches = graph.add("Reshape", patches, graph.constant([0, size, -1]))
    patches = graph.add("Transpose", patches, perm=[0, 2, 1])
    fixed = _tokens_of_black(trunk, shape)
    prefix = trunk.num_prefix_tokens
    patches = graph.add("Add", patches, graph.constant(fixed[prefix:]))
    batch = graph.add("Shape", graph.input, start=0, end=1)
    target = graph.add("Concat", batch, graph.constant([prefix, size]), axis=0)
    first = graph.add("Expand", graph.constant(fixed[None, :prefix]), target)
    tokens = graph.add("Concat", first, patches, axis=1)
    if isinstance(trunk.pre_norm, nn.LayerNorm):
        tokens = graph.norm(tokens, trunk.pre_norm)
    graph.output(tokens, "hidden", (len(fixed), size))
    return graph.model("embedding")


@torch.no_grad()
def _tokens_of_black(trunk: Trunk, shape: tuple[int, ...]) -> Tensor:
    """Return the embedding of an image of zeros, `(tokens, hidden)`."""
    weight = next(trunk.embeddings.parameters())
    return cast(Tensor, trunk.embeddings(torch.zeros(1, *shape, device=weight.device, dtype=weight.dtype)))[0]
