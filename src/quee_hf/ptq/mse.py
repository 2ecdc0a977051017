"""`mse`: ranges that minimise the squared rounding error of each weight row and each activation tensor."""

from collections.abc import Iterable, Sequence
from typing import cast

import torch
from torch import Tensor
from tqdm.auto import tqdm

from quee_hf.backbones.trunk import Trunk
from quee_hf.ptq.calibration import WeightedPoints, observe_activations
from quee_hf.quantization.activation import ActivationQuantizer
from quee_hf.quantization.affine import activation_codes, quantize_weight, range_to_scale
from quee_hf.quantization.linear import MultiLevelLinear

# Fractions of the full range that are tried. Activation tails can be a hundred times the body, hence
# geometric.
_WEIGHT_FRACTIONS = torch.linspace(0.3, 1.0, 29)
_COARSE_FRACTIONS = 2.0 ** -torch.arange(0, 7, 1 / 2)
_FINE_FACTORS = 2.0 ** torch.linspace(-3 / 8, 3 / 8, 7)


def quantize_mse(trunk: Trunk, batches: Iterable[Tensor], levels: Sequence[int]) -> None:
    """Give every linear layer and attention product of a trunk codes and ranges at each integer level.

    Weights: symmetric, one scale per output row. Activations: asymmetric, one range per tensor. All levels
    come from one pass over the images.

    Args:
        trunk: With float weights; changed in place.
        batches: Calibration images, `(batch, channels, height, width)` each.
        levels: Bit-widths.
    """
    points = observe_activations(trunk, batches)
    modules = dict(trunk.named_modules())
    for name in tqdm(points, desc="Searching ranges", unit="tensor"):
        quantizer = cast(ActivationQuantizer, modules[name])
        for bits in levels:
            quantizer.set_range(bits, *search_activation_range(points[name], bits))
    linears = [module for module in modules.values() if isinstance(module, MultiLevelLinear)]
    for linear in tqdm(linears, desc="Quantizing weights", unit="layer"):
        weight = linear.float_weight.detach().float()
        for bits in levels:
            linear.store(bits, quantize_weight(weight, search_weight_scale(weight, bits), bits))


def search_weight_scale(weight: Tensor, bits: int) -> Tensor:
    """Return the scale per row that minimises the squared error of its rounded weights.

    Args:
        weight: `(out, in)`, float32.
        bits: Bits per code.

    Returns:
        `(out,)`, float32, positive.
    """
    largest = weight.abs().amax(dim=1)
    # The most negative code reaches half a step further than the most positive one.
    full: Tensor = largest / (2 ** (bits - 1) - 0.5)
    # Zeros fit any scale; weights below 1e-30 would get one that float32 cannot represent.
    full = torch.where(largest > 1e-30, full, torch.ones_like(full))
    best: Tensor = full
    best_error = torch.full_like(full, torch.inf)
    # The last candidate gives the largest weight, if positive, a code of its own, and clips nothing.
    for factor in (*_WEIGHT_FRACTIONS.tolist(), (2 ** (bits - 1) - 0.5) / (2 ** (bits - 1) - 1)):
        scale = full * factor
        codes = quantize_weight(weight, scale, bits).codes
        error = (codes.float().mul_(scale[:, None]).sub_(weight)).square_().sum(dim=1)
        best = torch.where(error < best_error, scale, best)
        best_error = torch.minimum(error, best_error)
    return best


def search_activation_range(points: WeightedPoints, bits: int) -> tuple[Tensor, Tensor]:
    """Return the range, low and high, that minimises the weighted squared rounding error.

    Both ends are searched together, first on a geometric grid, then around its best.

    Returns:
        Two float32 scalars, `low <= 0 <= high`.
    """
    low, high = points.values[0].clamp(max=0), points.values[-1].clamp(min=0)
    for fractions in (_COARSE_FRACTIONS, _FINE_FACTORS):
        lows, highs = (end * fractions for end in (low, high))
        pairs = torch.cartesian_prod(lows.unique(), highs.unique())
        errors = _rounding_errors(points, pairs[:, 0], pairs[:, 1], bits)
        low, high = pairs[errors.argmin()].unbind()
    return low, high


def _rounding_errors(points: WeightedPoints, lows: Tensor, highs: Tensor, bits: int) -> Tensor:
    """Weighted squared error of each candidate range, `(candidates,)`."""
    scale, zero_point = range_to_scale(lows[:, None], highs[:, None], bits)
    restored = activation_codes(points.values, scale, zero_point, bits) * scale  # (candidates, points)
    errors: Tensor = (restored - points.values).square() @ points.weights
    return errors
