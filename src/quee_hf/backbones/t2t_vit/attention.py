"""Attention inside the T2T module: one head, without masks."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

SMALLEST_TOTAL = 1e-8  # keeps the division defined where all weights underflow


class PerformerAttention(nn.Module):
    """Softmax attention estimated by positive random features.

        feature(x) = exp(W x - |x|² / 2) / sqrt(m)          # m rows of W, orthogonal, of length sqrt(m)
        result_i = sum_j feature(q_i) · feature(k_j) v_j / sum_j feature(q_i) · feature(k_j)

    Queries are not scaled. Features are computed in float32 or float64, whatever the tokens are.

    Args:
        size: Width of queries, keys and values.
        num_features: m.

    Source:
        Choromanski et al. 2021 (arXiv:2009.14794), as in the T2T-ViT of Yuan et al. 2021 (arXiv:2101.11986).
    """

    def __init__(self, size: int, num_features: int) -> None:
        super().__init__()
        # Frozen, so no parameter; in files nevertheless, because the weights were trained with it.
        self.register_buffer("random_features", torch.zeros(num_features, size))
        self.num_features = num_features

    def forward(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Map three times `(batch, tokens, size)` to the same shape."""
        queries, keys = self._features(query), self._features(key)  # (batch, tokens, m)
        mixed = queries @ (keys.mT @ value.to(keys.dtype))
        total = queries @ keys.sum(dim=1).unsqueeze(-1)  # (batch, tokens, 1)
        return (mixed / (total + SMALLEST_TOTAL)).to(value.dtype)

    def _features(self, x: Tensor) -> Tensor:
        x = x.to(torch.promote_types(x.dtype, torch.float32))
        projected = functional.linear(x, self.get_buffer("random_features").to(x.dtype))
        exponentials: Tensor = (projected - x.square().sum(dim=-1, keepdim=True) / 2).exp()
        return exponentials / math.sqrt(self.num_features)


class SoftmaxAttention(nn.Module):
    """Scaled dot-product attention.

    The scale is that of the width of the windows, from which queries and keys are made, not of their own.

    Args:
        in_size: Width of a window.
    """

    def __init__(self, in_size: int) -> None:
        super().__init__()
        self.scale = in_size**-0.5

    def forward(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Map three times `(batch, tokens, size)` to the same shape."""
        return functional.scaled_dot_product_attention(query, key, value, scale=self.scale)
