"""The pre-norm transformer block that every supported backbone is made of, computable at several levels."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers.activations import ACT2FN

from quee_hf.levels import Level
from quee_hf.quantization.layout import ProductLayout
from quee_hf.quantization.linear import MultiLevelLinear
from quee_hf.quantization.matmul import MultiLevelMatmul
from quee_hf.schemes import QuantizationScheme


@dataclass(frozen=True)
class BlockShape:
    """Sizes and variants of a block.

    Args:
        hidden_size: Width of a token.
        num_heads: Attention heads; must divide `hidden_size`.
        mlp_size: Width between the two linear layers of the MLP.
        activation: Name of the activation in `transformers.activations`.
        layer_norm_eps: Added to the variance in both norms.
        has_qkv_bias: Whether queries, keys and values have a bias.
        has_layer_scale: Whether both branches are scaled per channel before they are added (DINOv2).
        is_mlp_gated: Whether the first MLP layer holds a gate and a value half (SwiGLU).
    """

    hidden_size: int
    num_heads: int
    mlp_size: int
    activation: str
    layer_norm_eps: float
    has_qkv_bias: bool = True
    has_layer_scale: bool = False
    is_mlp_gated: bool = False

    def product_macs(self, num_tokens: int) -> dict[str, int]:
        """Multiply-accumulate operations of each product of one block on one image, by its name."""
        mlp_in = self.mlp_size * (2 if self.is_mlp_gated else 1)
        attention = num_tokens * num_tokens * self.hidden_size
        outputs = {"qkv": 3 * self.hidden_size, "output": self.hidden_size, "fc1": mlp_in}
        linears = {name: num_tokens * self.hidden_size * size for name, size in outputs.items()}
        fc2 = num_tokens * self.mlp_size * self.hidden_size
        return {**linears, "fc2": fc2, "scores": attention, "mix": attention}

    def num_macs(self, num_tokens: int) -> int:
        """Multiply-accumulate operations of one block on one image, matrix products only."""
        return sum(self.product_macs(num_tokens).values())


@dataclass(frozen=True)
class LevelSet:
    """The levels a model's layers are built for, and how it was quantized, if it was."""

    levels: Sequence[Level]
    scheme: QuantizationScheme | None = None

    def layout(self, block: int, product: str) -> ProductLayout:
        """Return how a product is computed at these levels; blocks are counted from 1."""
        return ProductLayout(self.levels, self.scheme, block, product)


class Attention(nn.Module):
    """Multi-head self-attention; queries, keys and values come from one linear layer."""

    def __init__(self, shape: BlockShape, level_set: LevelSet, number: int) -> None:
        super().__init__()
        self.num_heads = shape.num_heads
        self.head_size = shape.hidden_size // shape.num_heads
        width, layout = shape.hidden_size, partial(level_set.layout, number)
        self.qkv = MultiLevelLinear(width, 3 * width, has_bias=shape.has_qkv_bias, layout=layout("qkv"))
        self.scores = MultiLevelMatmul(layout("scores"), shape.num_heads)
        self.mix = MultiLevelMatmul(layout("mix"), shape.num_heads, layout("mix").softmax_kind)
        self.output = MultiLevelLinear(width, width, has_bias=True, layout=layout("output"))
        # Calibration sets this, so that both matrix products run as modules that it can observe.
        self.is_observed = False

    def forward(self, hidden: Tensor, level: Level) -> Tensor:
        """Map `(batch, tokens, hidden)` to the same shape."""
        batch, tokens, width = hidden.shape
        qkv = self.qkv(hidden, level).view(batch, tokens, 3, self.num_heads, self.head_size)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)  # each (batch, heads, tokens, head_size)
        if isinstance(level, str) and not self.is_observed:
            mixed = functional.scaled_dot_product_attention(query, key, value)
        else:
            scores = self.scores(query, key.transpose(-1, -2), level)
            mixed = self.mix((scores * self.head_size**-0.5).softmax(dim=-1), value, level)
        output: Tensor = self.output(mixed.transpose(1, 2).reshape(batch, tokens, width), level)
        return output


class Mlp(nn.Module):
    """Two linear layers with an activation, or with a gated activation (SwiGLU), between them."""

    def __init__(self, shape: BlockShape, level_set: LevelSet, number: int) -> None:
        super().__init__()
        self.is_gated = shape.is_mlp_gated
        width, layout = shape.hidden_size, partial(level_set.layout, number)
        inner = shape.mlp_size * (2 if self.is_gated else 1)
        self.fc1 = MultiLevelLinear(width, inner, has_bias=True, layout=layout("fc1"))
        self.activation_name = shape.activation
        self.activation = ACT2FN[shape.activation]
        fc2 = layout("fc2")
        kind = fc2.input_kind if self.is_gated else fc2.gelu_kind
        self.fc2 = MultiLevelLinear(shape.mlp_size, width, has_bias=True, layout=fc2, input_kind=kind)

    def forward(self, hidden: Tensor, level: Level) -> Tensor:
        """Map `(batch, tokens, hidden)` to the same shape."""
        inner = self.fc1(hidden, level)
        if self.is_gated:
            gate, value = inner.chunk(2, dim=-1)
            inner = self.activation(gate) * value
        else:
            inner = self.activation(inner)
        output: Tensor = self.fc2(inner, level)
        return output


class Block(nn.Module):
    """Attention and MLP, each normalised before and added after.

    Norms and the residual stream stay float32 at every level; "bf16" concerns the products.

    Args:
        shape: Its sizes.
        level_set: Levels it is built for.
        number: Of the block, counted from 1.
    """

    def __init__(self, shape: BlockShape, level_set: LevelSet, number: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(shape.hidden_size, eps=shape.layer_norm_eps)
        self.attention = Attention(shape, level_set, number)
        self.norm2 = nn.LayerNorm(shape.hidden_size, eps=shape.layer_norm_eps)
        self.mlp = Mlp(shape, level_set, number)
        size = shape.hidden_size if shape.has_layer_scale else None
        self.scale1 = None if size is None else nn.Parameter(torch.ones(size))
        self.scale2 = None if size is None else nn.Parameter(torch.ones(size))

    @property
    def products(self) -> dict[str, MultiLevelLinear | MultiLevelMatmul]:
        """The modules that multiply, by their names, in the order in which they run."""
        attention, mlp = self.attention, self.mlp
        return {
            "qkv": attention.qkv,
            "scores": attention.scores,
            "mix": attention.mix,
            "output": attention.output,
            "fc1": mlp.fc1,
            "fc2": mlp.fc2,
        }

    def forward(self, hidden: Tensor, level: Level) -> Tensor:
        """Map `(batch, tokens, hidden)` to the same shape, run at `level`."""
        hidden = self._add(hidden, self.attention(self.norm1(hidden), level), self.scale1)
        return self._add(hidden, self.mlp(self.norm2(hidden), level), self.scale2)

    @staticmethod
    def _add(hidden: Tensor, branch: Tensor, scale: Tensor | None) -> Tensor:
        branch = branch.to(hidden.dtype)
        return hidden + branch if scale is None else torch.addcmul(hidden, branch, scale)
