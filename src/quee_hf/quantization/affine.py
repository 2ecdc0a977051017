"""Uniform quantization of a weight's rows and of activations. Pure functions on tensors."""

from typing import NamedTuple

import torch
from torch import Tensor


class WeightCodes(NamedTuple):
    """Integer codes of a weight and what turns them back into floats: `codes * scale + offset`."""

    codes: Tensor  # (out, in), int8, in [-2**(bits-1), 2**(bits-1) - 1]
    scale: Tensor  # (out,), float32, weight units per code step
    offset: Tensor | None = None  # (out,), float32, weight units; None stands for zeros


def quantize_weight(weight: Tensor, scale: Tensor, bits: int, offset: Tensor | None = None) -> WeightCodes:
    """Round a weight to signed `bits`-bit codes, one scale per output row.

        codes = clip(round((weight - offset) / scale), -2**(bits - 1), 2**(bits - 1) - 1)

    Args:
        weight: `(out, in)`, float.
        scale: `(out,)`, positive.
        bits: Bits per code, 2 to 8.
        offset: `(out,)`, what code 0 stands for; `None` means zeros.

    Example:
        >>> quantize_weight(torch.tensor([[-1.0, 0.4, 0.9]]), torch.tensor([0.5]), bits=3).codes.tolist()
        [[-2, 1, 2]]
    """
    half = 2 ** (bits - 1)
    shifted = weight.float() if offset is None else weight.float() - offset[:, None]
    codes = torch.round(shifted / scale[:, None]).clamp_(-half, half - 1)
    return WeightCodes(codes.to(torch.int8), scale.float(), offset)


def dequantize_weight(quantized: WeightCodes) -> Tensor:
    """Return the `(out, in)` float32 weight that the codes stand for."""
    restored = quantized.codes.float() * quantized.scale[:, None]
    return restored if quantized.offset is None else restored + quantized.offset[:, None]


def leading_bits(codes: Tensor, bits: int, kept_bits: int) -> Tensor:
    """Return the `kept_bits` leading bits of signed `bits`-bit codes, as signed codes of that width.

    Example:
        >>> leading_bits(torch.tensor([-128, -1, 0, 127], dtype=torch.int8), 8, 3).tolist()
        [-4, -1, 0, 3]
    """
    return codes >> (bits - kept_bits)


def fit_codes(weight: Tensor, codes: Tensor) -> WeightCodes:
    """Give codes the scale and offset per row that minimise the squared error of what they stand for.

    Truncated codes are half a step too low on average; the offset mends that.

    Args:
        weight: `(out, in)`, float.
        codes: `(out, in)`, int8.
    """
    x, y = codes.double(), weight.double()
    x_mean, y_mean = x.mean(dim=1), y.mean(dim=1)
    deviation = x - x_mean[:, None]
    variance = deviation.square().sum(dim=1)
    # Rows of one code only have no slope; any scale does.
    slope = (deviation * y).sum(dim=1) / variance.clamp_min(1e-12)
    scale = torch.where((variance > 0) & (slope > 0), slope, torch.ones_like(slope))
    return WeightCodes(codes, scale.float(), (y_mean - scale * x_mean).float())


def range_to_scale(low: Tensor, high: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """Turn an activation range into a scale and a zero point.

    The range is widened to contain 0, so that 0.0 has an exact code; an empty range gets scale 1.

    Args:
        low: Smallest value to represent, any shape.
        high: Largest value, same shape.
        bits: Bits per code.

    Returns:
        Scale (float32) and zero point (int32, the code of 0.0, in [0, 2**bits - 1]), shaped like `low`.

    Source:
        Jacob et al. 2018 (arXiv:1712.05877), Eq. (1).
    """
    low, high = low.float().clamp(max=0), high.float().clamp(min=0)
    scale = (high - low) / (2**bits - 1)
    # Below the smallest normal number, the scale or its inverse may not be representable.
    scale = torch.where(scale >= torch.finfo(torch.float32).tiny, scale, torch.ones_like(scale))
    return scale, torch.round(-low / scale).to(torch.int32)


def activation_codes(x: Tensor, scale: Tensor, zero_point: Tensor, bits: int) -> Tensor:
    """Round activations to codes counted from the zero point, kept as float32.

        codes = clip(round(x / scale), -zero_point, 2**bits - 1 - zero_point)

    Whole numbers in float32 multiply and add up exactly below 2**24, whatever the order of summation.
    Products of such codes therefore do not depend on the batch they are computed in, and equal what an
    integer kernel computes.

    Args:
        x: Any shape, float.
        scale: Scalar tensor.
        zero_point: Scalar tensor, int32.
        bits: Bits per code.

    Returns:
        Shaped like `x`, float32 whole numbers; `codes * scale` approximates `x`.
    """
    codes = x.float().mul(scale.reciprocal()).round_()
    # Clipping at numbers is several times as fast as at tensors.
    return codes.add_(zero_point).clamp_(0, 2**bits - 1).sub_(zero_point)
