"""Search of scales and ranges for one tensor at a time, by the squared error of rounding."""

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from quee_hf.quantization.activation import ActivationQuantizer, LogQuantizer, UniformQuantizer
from quee_hf.quantization.affine import WeightCodes, activation_codes, quantize_weight, range_to_scale

SAMPLE_SIZE = 2**17  # values kept of an activation; enough for the 1e-4 tails that decide ranges
_NUM_TAIL_POINTS = 256
_NUM_BODY_POINTS = 1024

# Fractions of the full range that are tried. Activation tails can be a hundred times the body, hence
# geometric.
_SYMMETRIC_FRACTIONS = torch.linspace(0.3, 1.0, 29).tolist()
_ASYMMETRIC_FRACTIONS = torch.linspace(0.4, 1.0, 31).tolist()
_COARSE_FRACTIONS = 2.0 ** -torch.arange(0, 7, 1 / 2)
_FINE_FACTORS = 2.0 ** torch.linspace(-3 / 8, 3 / 8, 7)
_LOG_FRACTIONS = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5)
_LOG_EXPONENTS = torch.arange(2, 75)


@dataclass(frozen=True)
class WeightedPoints:
    """A distribution as weighted values: its tails one by one, its body as equal shares."""

    values: Tensor  # (points,), float32, ascending
    weights: Tensor  # (points,), float32


def summarize(sample: Tensor, weights: Tensor | None = None) -> WeightedPoints:
    """Shrink a sample to a thousand or so weighted points, keeping its extremes exactly.

    Args:
        sample: Any shape, float.
        weights: What an error of each value counts, shaped like `sample`; ones if not given.
    """
    ordered, order = sample.flatten().float().sort()
    mass = torch.ones_like(ordered) if weights is None else weights.flatten().float()[order]
    if len(ordered) <= 2 * _NUM_TAIL_POINTS + _NUM_BODY_POINTS:
        return WeightedPoints(ordered, mass)
    body = slice(_NUM_TAIL_POINTS, -_NUM_TAIL_POINTS)
    groups = zip(
        ordered[body].tensor_split(_NUM_BODY_POINTS), mass[body].tensor_split(_NUM_BODY_POINTS), strict=True
    )
    shares = [(group.mean(), shares.sum()) for group, shares in groups]
    body_values, body_mass = (torch.stack(column) for column in zip(*shares, strict=True))
    tails = slice(None, _NUM_TAIL_POINTS), slice(-_NUM_TAIL_POINTS, None)
    (low, high), (low_mass, high_mass) = ([tensor[tail] for tail in tails] for tensor in (ordered, mass))
    return WeightedPoints(torch.cat([low, body_values, high]), torch.cat([low_mass, body_mass, high_mass]))


def sample_points(x: Tensor, column_weights: Tensor | None = None, *, seed: int = 0) -> WeightedPoints:
    """Summarize a bounded random sample of an activation, its extremes included.

    Args:
        x: `(..., columns)`.
        column_weights: `(columns,)`, what an error in each column counts.
        seed: Of the sample.
    """
    flat = x.flatten().float()
    picked = torch.arange(len(flat), device=flat.device)
    if len(flat) > SAMPLE_SIZE:
        random = torch.Generator().manual_seed(seed)
        drawn = torch.randint(len(flat), (SAMPLE_SIZE,), generator=random).to(flat.device)
        picked = torch.cat([drawn, flat.argmin()[None], flat.argmax()[None]])
    weights = None if column_weights is None else column_weights[picked % x.shape[-1]]
    return summarize(flat[picked], weights)


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
    for factor in (*_SYMMETRIC_FRACTIONS, (2 ** (bits - 1) - 0.5) / (2 ** (bits - 1) - 1)):
        scale = full * factor
        codes = quantize_weight(weight, scale, bits).codes
        error = (codes.float().mul_(scale[:, None]).sub_(weight)).square_().sum(dim=1)
        best = torch.where(error < best_error, scale, best)
        best_error = torch.minimum(error, best_error)
    return best


def search_weight_range(
    weight: Tensor, gram: Tensor, bits: int, *, is_symmetric: bool = False
) -> WeightCodes:
    """Return the codes whose layer, on the calibration inputs, differs least from the exact one.

    Each row's range is shrunk towards zero in steps, and the one with the least squared error of the
    layer's output is taken: `(w' - w) gram (w' - w)` for a row `w` and its rounded version `w'`. Offsets are
    whole steps: kernels whose codes have 8 bits can then do without, below 8 bits.

    Args:
        weight: `(out, in)`, float32.
        gram: `(in, in)`, mean outer product of the layer's inputs.
        bits: Bits per code.
        is_symmetric: Whether there are to be no offsets.
    """
    low, high = weight.amin(dim=1).clamp(max=0), weight.amax(dim=1).clamp(min=0)
    full = (high - low) / (2**bits - 1)
    if is_symmetric:
        full = torch.maximum(-low, high) / (2 ** (bits - 1) - 1)
    # Zeros fit any scale; weights below 1e-30 would get one that float32 cannot represent.
    full = torch.where(high - low > 1e-30, full, torch.ones_like(full))
    best = WeightCodes(torch.zeros_like(weight, dtype=torch.int8), torch.ones_like(low))
    best_error = torch.full_like(low, torch.inf)
    best_offset = torch.zeros_like(low)
    for factor in _ASYMMETRIC_FRACTIONS:
        scale = full * factor
        # The lowest code, -2**(bits - 1), stands for the lower end of the range.
        steps = torch.round(low * factor / scale + 2 ** (bits - 1))
        offset = torch.zeros_like(scale) if is_symmetric else scale * steps
        codes = quantize_weight(weight, scale, bits, offset).codes
        difference = codes.float().mul_(scale[:, None]).add_(offset[:, None]).sub_(weight)
        error = (difference @ gram).mul_(difference).sum(dim=1)
        is_better = error < best_error
        best_error = torch.where(is_better, error, best_error)
        best_offset = torch.where(is_better, offset, best_offset)
        best = WeightCodes(
            torch.where(is_better[:, None], codes, best.codes),
            torch.where(is_better, scale, best.scale),
            best_offset,
        )
    return best


def search_parameters(quantizer: ActivationQuantizer, points: WeightedPoints, bits: int) -> dict[str, Tensor]:
    """Return the parameters of an activation quantizer that minimise the weighted squared rounding error.

    Args:
        quantizer: Whose parameters to find; it is not changed.
        points: What it is to represent.
        bits: Bits per code.
    """
    if isinstance(quantizer, UniformQuantizer):
        return uniform_parameters(*search_activation_range(points, bits), bits)
    if isinstance(quantizer, LogQuantizer):
        return _search_log(points, bits)
    assert not quantizer.defaults
    return {}


def uniform_parameters(low: Tensor, high: Tensor, bits: int) -> dict[str, Tensor]:
    """Return the parameters of a uniform quantizer for a range."""
    scale, zero_point = range_to_scale(low, high, bits)
    return {"scale": scale, "zero_point": zero_point}


def search_activation_range(points: WeightedPoints, bits: int) -> tuple[Tensor, Tensor]:
    """Return the range, low and high, that minimises the weighted squared rounding error.

    Both ends are searched together, first on a geometric grid, then around its best.

    Returns:
        Two float32 scalars, `low <= 0 <= high`.
    """
    low, high = points.values[0].clamp(max=0), points.values[-1].clamp(min=0)
    for fractions in (_COARSE_FRACTIONS, _FINE_FACTORS):
        lows, highs = (end * fractions.to(end.device) for end in (low, high))
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


def _search_log(points: WeightedPoints, bits: int) -> dict[str, Tensor]:
    """Search the base and the largest number of a logarithmic quantizer."""
    shift = -points.values[0].clamp(max=0)
    full = (points.values[-1] + shift).clamp_min(torch.finfo(torch.float32).tiny)
    quantize = partial(LogQuantizer.terms, points.values, shift=shift, bits=bits)
    best, best_error = {}, torch.tensor(torch.inf)
    exponents = _LOG_EXPONENTS.to(shift.device)
    for fraction in _LOG_FRACTIONS:
        largest = full * fraction
        (term,) = quantize(largest=largest, exponent=exponents[:, None])
        errors = (term.codes * term.scale - points.values).square() @ points.weights
        error, index = errors.min(dim=0)
        if error < best_error:
            best_error = error
            best = {"largest": largest, "shift": shift, "exponent": exponents[index].to(torch.int32)}
    return best
