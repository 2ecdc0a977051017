"""`T2TViTEmbeddings`: from pixels to tokens by soft splits with attention between them, the T2T module."""

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers.activations import ACT2FN

from quee_hf.backbones.t2t_vit.attention import PerformerAttention, SoftmaxAttention
from quee_hf.backbones.t2t_vit.configuration import T2TViTConfig
from quee_hf.backbones.t2t_vit.soft_split import SOFT_SPLITS, token_grids


def sinusoids(num_positions: int, size: int) -> Tensor:
    """Return fixed positions, `(num_positions, size)`, in the default dtype.

        positions[p, 2i] = sin(p / 10000^(2i / size)), positions[p, 2i + 1] = cos(p / 10000^(2i / size))

    Source:
        Vaswani et al. 2017 (arXiv:1706.03762), §3.5.
    """
    pairs = torch.arange(size, dtype=torch.float64) // 2
    angles = torch.arange(num_positions, dtype=torch.float64)[:, None] / 10000 ** (2 * pairs / size)
    is_even = torch.arange(size) % 2 == 0
    return torch.where(is_even, angles.sin(), angles.cos()).to(torch.get_default_dtype())


class TokenStage(nn.Module):
    """Attention and MLP on windows of one soft split; the result is narrower, so values are the skip path.

    Args:
        config: Of the model.
        in_size: Width of a window.
    """

    def __init__(self, config: T2TViTConfig, in_size: int) -> None:
        super().__init__()
        size, is_performer = config.token_size, config.token_attention == "performer"
        self.norm1 = nn.LayerNorm(in_size, eps=config.layer_norm_eps)
        self.qkv = nn.Linear(in_size, 3 * size, bias=is_performer)
        self.attention = (
            PerformerAttention(size, config.num_random_features)
            if is_performer
            else SoftmaxAttention(in_size)
        )
        self.output = nn.Linear(size, size)
        self.norm2 = nn.LayerNorm(size, eps=config.layer_norm_eps)
        self.fc1 = nn.Linear(size, size)
        self.activation = ACT2FN[config.hidden_act]
        self.fc2 = nn.Linear(size, size)
        self.dropout = nn.Dropout(config.token_dropout_prob)

    def forward(self, windows: Tensor) -> Tensor:
        """Map `(batch, tokens, in_size)` to `(batch, tokens, token_size)`."""
        query, key, value = self.qkv(self.norm1(windows)).chunk(3, dim=-1)
        tokens = value + self.dropout(self.output(self.attention(query, key, value)))
        inner = self.activation(self.fc1(self.norm2(tokens)))
        hidden: Tensor = tokens + self.dropout(self.fc2(inner))
        return hidden


class T2TViTEmbeddings(nn.Module):
    """Three soft splits, attention after the first two, a projection after the last; class token, positions.

    Args:
        config: Of the model.
    """

    def __init__(self, config: T2TViTConfig) -> None:
        super().__init__()
        self.image_size, self.num_channels = config.image_sides, config.num_channels
        self.activation_name = config.hidden_act
        widths = (config.num_channels, config.token_size, config.token_size)
        sizes = [width * split.kernel_size**2 for width, split in zip(widths, SOFT_SPLITS, strict=True)]
        self.stages = nn.ModuleList(TokenStage(config, size) for size in sizes[:-1])
        self.projection = nn.Linear(sizes[-1], config.hidden_size)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, config.hidden_size))
        # Frozen, so no parameter; in files nevertheless: of models fine-tuned on larger images they are
        # interpolated.
        positions = sinusoids(config.num_patches + 1, config.hidden_size)
        self.register_buffer("position_embeddings", positions[None])
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Map `(batch, channels, height, width)` to tokens `(batch, 1 + patches, hidden)`.

        Raises:
            ValueError: If images are not of the config's size.
        """
        expected, found = (self.num_channels, *self.image_size), tuple(pixel_values.shape[1:])
        if found != expected:
            raise ValueError(f"Images must be of shape {expected}, channels first, got {found}.")
        grid = pixel_values
        layers = [*self.stages, self.projection]
        for layer, split, shape in zip(layers, SOFT_SPLITS, token_grids(*self.image_size), strict=True):
            kernel_size, stride, padding = split
            windows = functional.unfold(grid, kernel_size, stride=stride, padding=padding)
            tokens = layer(windows.transpose(1, 2))
            grid = tokens.transpose(1, 2).unflatten(2, shape)
        first = self.cls_token.expand(len(tokens), -1, -1)
        hidden = torch.cat([first, tokens], dim=1) + self.get_buffer("position_embeddings")
        dropped: Tensor = self.dropout(hidden)
        return dropped
