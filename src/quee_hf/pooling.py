"""Which tokens an exit head reads. Pure functions."""

from typing import Literal

import torch
from torch import Tensor

Pooling = Literal["cls", "cls_and_mean", "mean", "none"]


def pool(tokens: Tensor, pooling: Pooling, num_prefix_tokens: int) -> Tensor:
    """Reduce normalised tokens to what an exit head reads, mostly one vector per image.

    Args:
        tokens: `(batch, tokens, hidden)`, the class token first, patches last.
        pooling: "cls": the class token; "cls_and_mean": it and the mean patch token, concatenated (DINOv2);
            "mean": the mean patch token (SSA heads); "none": the class token and all patches.
        num_prefix_tokens: Tokens before the first patch.

    Returns:
        `(batch, hidden)`; with "cls_and_mean" `(batch, 2 * hidden)`, with "none" `(batch, tokens, hidden)`.
    """
    if pooling == "cls":
        return tokens[:, 0]
    if pooling == "none":
        return torch.cat([tokens[:, :1], tokens[:, num_prefix_tokens:]], dim=1)
    mean = tokens[:, num_prefix_tokens:].mean(dim=1)
    return mean if pooling == "mean" else torch.cat([tokens[:, 0], mean], dim=1)


def pooled_size(hidden_size: int, pooling: Pooling) -> int:
    """Size of a pooled vector."""
    return 2 * hidden_size if pooling == "cls_and_mean" else hidden_size
