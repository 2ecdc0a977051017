"""SmoothQuant: move the scale of outlier channels from activations into weights, whatever the method."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from quee_hf.backbones.block import Block
from quee_hf.ptq.observation import Seen
from quee_hf.ptq.ranges import search_weight_scale
from quee_hf.quantization.affine import activation_codes, dequantize_weight, quantize_weight, range_to_scale
from quee_hf.quantization.linear import MultiLevelLinear

Smoothing = float | Literal["search"] | None
ALPHAS = tuple(step / 10 for step in range(11))
_SEARCH_BITS = 6  # the middle of the levels in use; all levels share one smoothing
_MAX_ROWS = 2048  # tokens on which candidates are compared


def check_smoothing(smoothing: object) -> None:
    """Raise `ValueError` unless `smoothing` is `None`, "search" or a number from 0 to 1."""
    is_number = isinstance(smoothing, int | float) and not isinstance(smoothing, bool) and 0 <= smoothing <= 1
    if not (smoothing is None or smoothing == "search" or is_number):
        raise ValueError(f"`smoothing` must be None, 'search' or a number from 0 to 1, got {smoothing!r}.")


@torch.no_grad()
def smooth_block(block: Block, seen: dict[str, Seen], smoothing: float | str) -> dict[str, float]:
    """Smooth both pairs of a norm and the linear layer after it, in place.

        s = max|x| ** alpha / max|w| ** (1 - alpha), per channel; x / s and w * s replace x and w

    Args:
        block: Float; it computes the same afterwards.
        seen: What its products see.
        smoothing: Alpha, or "search": of `ALPHAS`, and no smoothing at all, the one whose quantized layer
            differs least from the exact one, for each pair on its own.

    Returns:
        The alpha of each smoothed layer; those that are better left alone are missing.

    Source:
        Xiao et al. 2023 (SmoothQuant, arXiv:2211.10438), Eq. (4). There alpha is one for the whole model.
    """
    chosen = {}
    for name, norm, linear in (
        ("qkv", block.norm1, block.attention.qkv),
        ("fc1", block.norm2, block.mlp.fc1),
    ):
        rows = seen[name].rows
        alpha = _search_alpha(rows, linear.float_weight) if smoothing == "search" else float(smoothing)
        if alpha is not None:
            fold_channels(norm, linear, _factors(rows, linear.float_weight, alpha))
            chosen[name] = alpha
    return chosen


@torch.no_grad()
def fold_channels(
    norm: nn.LayerNorm, linear: MultiLevelLinear, factor: Tensor, shift: Tensor | None = None
) -> None:
    """Make a norm return `(x + shift) / factor` and the linear layer after it undo that.

    Args:
        norm: With weight and bias.
        linear: What reads it; needs a bias if there is a shift.
        factor: `(channels,)`, positive.
        shift: `(channels,)`.
    """
    weight = linear.float_weight
    if shift is not None:
        assert linear.bias is not None
        linear.bias.sub_(weight @ shift)
        norm.bias.add_(shift)
    norm.bias.div_(factor)
    norm.weight.div_(factor)
    weight.mul_(factor)


def _factors(rows: Tensor, weight: Tensor, alpha: float) -> Tensor:
    # Channels that are always zero, or that nothing reads, would give factors of zero or infinity.
    x, w = (tensor.abs().amax(dim=0).clamp_min(1e-5) for tensor in (rows, weight))
    factors: Tensor = x**alpha / w ** (1 - alpha)
    return factors


def _search_alpha(rows: Tensor, weight: Tensor) -> float | None:
    picked = rows[torch.linspace(0, len(rows) - 1, min(_MAX_ROWS, len(rows))).long()]
    exact = picked @ weight.T
    candidates: Sequence[float | None] = (None, *ALPHAS)
    errors = []
    for alpha in candidates:
        factor = torch.ones_like(weight[0]) if alpha is None else _factors(rows, weight, alpha)
        errors.append((_rounded_product(picked / factor, weight * factor) - exact).square().mean())
    return candidates[int(torch.stack(errors).argmin())]


def _rounded_product(x: Tensor, weight: Tensor) -> Tensor:
    scale, zero_point = range_to_scale(x.amin(), x.amax(), _SEARCH_BITS)
    restored = activation_codes(x, scale, zero_point, _SEARCH_BITS) * scale
    codes = quantize_weight(weight, search_weight_scale(weight, _SEARCH_BITS), _SEARCH_BITS)
    return restored @ dequantize_weight(codes).T
