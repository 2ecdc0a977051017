"""Post-training quantization by brute force: every candidate, every round, every number, sums in float64.

Scales and codes are computed in float32, because they are what is stored; errors in float64, because they only have
to be compared.
"""

from collections.abc import Callable, Sequence

import numpy as np
from tests.reference.quantization import range_to_scale, uniform_codes

ROUNDS, SPLITS = 3, 20
GELU_MINIMUM = 0.16997
PTQ4VIT_FACTORS = np.array([0.01 + i * (1.2 - 0.01) / 100 for i in range(100)]).astype(np.float32)


def full_range(x: np.ndarray, bits: int) -> tuple[np.float32, int]:
    """Scale and zero point over everything."""
    return range_to_scale(float(x.min()), float(x.max()), bits)


def full_weight_scale(row: np.ndarray, bits: int) -> np.float32:
    """Scale that clips nothing."""
    largest = np.abs(row).max()
    return largest / np.float32(2 ** (bits - 1) - 1) if largest > 1e-30 else np.float32(1)


def row_codes(row: np.ndarray, scale: float, offset: float, bits: int) -> np.ndarray:
    """Codes of one row of a weight, float32."""
    half = 2 ** (bits - 1)
    shifted = np.asarray(row, np.float32) - np.float32(offset)
    return np.clip(np.rint(shifted / np.float32(scale)), -half, half - 1)


def summarize(values: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sort; keep 256 values at either end; replace the rest by the means of 1024 groups."""
    order = np.argsort(values, kind="stable")
    values, weights = values[order].astype(np.float64), weights[order].astype(np.float64)
    if len(values) <= 2 * 256 + 1024:
        return values, weights
    groups = np.array_split(np.arange(256, len(values) - 256), 1024)
    means, sums = [values[group].mean() for group in groups], [weights[group].sum() for group in groups]
    return (
        np.concatenate([values[:256], means, values[-256:]]),
        np.concatenate([weights[:256], sums, weights[-256:]]),
    )


def mse_weight_scales(row: np.ndarray, bits: int) -> tuple[list[float], list[float]]:
    """Candidates of one row, and their squared errors."""
    half = 2 ** (bits - 1)
    full = np.abs(row).max() / np.float32(half - 0.5)
    factors = [0.3 + 0.025 * i for i in range(29)] + [(half - 0.5) / (half - 1)]
    scales = [float(full * np.float32(factor)) for factor in factors]
    errors = []
    for scale in scales:
        codes = row_codes(row, scale, 0, bits).astype(np.float64)
        errors.append(float(np.sum((codes * scale - row) ** 2)))
    return scales, errors


def believed(num_rows: int, half: float) -> float:
    """How far what rows show is believed."""
    return 1 / (1 + (half / num_rows) ** 2)


def believed_gram(rows: np.ndarray) -> np.ndarray:
    """Mean outer product, entry by entry, off its diagonal believed in part."""
    num_rows, num_columns = rows.shape
    gram = np.empty((num_columns, num_columns))
    for i in range(num_columns):
        for j in range(num_columns):
            trust = 1.0 if i == j else believed(num_rows, num_columns / 4)
            gram[i, j] = trust * np.mean(rows[:, i].astype(np.float64) * rows[:, j])
    return gram


def weight_ranges(
    row: np.ndarray, gram: np.ndarray, bits: int, *, is_symmetric: bool = False
) -> tuple[list[tuple[float, float]], list[float]]:
    """Candidates (scale, offset) of one row, and what they add to the squared error of the output."""
    low, high = min(np.float64(row.min()), 0), max(np.float64(row.max()), 0)
    candidates, errors = [], []
    for i in range(31):
        factor = 0.4 + 0.02 * i
        scale = (high - low) * factor / (2**bits - 1)
        offset = scale * np.round(low * factor / scale + 2 ** (bits - 1))
        if is_symmetric:
            scale, offset = max(-low, high) * factor / (2 ** (bits - 1) - 1), 0.0
        candidates.append((float(scale), float(offset)))
        difference = row_codes(row, scale, offset, bits).astype(np.float64) * scale + offset - row
        errors.append(float(difference @ gram @ difference))
    return candidates, errors


def searched_range(values: np.ndarray, weights: np.ndarray, bits: int) -> tuple[np.float32, int]:
    """Scale and zero point of a range searched over pairs of ends, coarse, then fine."""
    ends = (min(values[0], 0.0), max(values[-1], 0.0))
    for fractions in (2.0 ** (-np.arange(14) / 2), 2.0 ** np.linspace(-3 / 8, 3 / 8, 7)):
        lows, highs = sorted({ends[0] * f for f in fractions}), sorted({ends[1] * f for f in fractions})
        best = np.inf
        for low in lows:
            for high in highs:
                scale, zero_point = range_to_scale(low, high, bits)
                codes = uniform_codes(values, scale, zero_point, bits).astype(np.float64)
                error = float(((codes * np.float64(scale) - values) ** 2) @ weights)
                if error < best:
                    best, found = error, (low, high)
        ends = found
    return range_to_scale(*ends, bits)


def searched_log(
    values: np.ndarray, weights: np.ndarray, bits: int
) -> tuple[list[tuple[float, int]], list[float]]:
    """Candidates (largest, exponent) of a logarithmic quantizer, and their weighted squared errors."""
    shift = -min(values[0], 0.0)
    candidates, errors = [], []
    for fraction in (1.0, 0.9, 0.8, 0.7, 0.6, 0.5):
        largest = (values[-1] + shift) * fraction
        for exponent in range(2, 75):
            step = exponent / 37
            relative = np.clip((values + shift) / largest, 1e-30, 1)
            codes = np.minimum(np.rint(-np.log2(relative) / step), 2**bits - 1)
            scale = largest / 1023
            magnitudes = np.rint(1023 * 2 ** (-codes * step)) - np.rint(shift / scale)
            candidates.append((float(largest), exponent))
            errors.append(float(((magnitudes * scale - values) ** 2) @ weights))
    return candidates, errors


def ridge_weight(weight: np.ndarray, rows: np.ndarray, rounded: np.ndarray, ridge: float) -> np.ndarray:
    """Least squares with the rounded inputs for the exact outputs, drawn to the exact weight.

    Solved as an ordinary least squares problem: the penalty is a row of data for each input.
    """
    rows, rounded, weight = (array.astype(np.float64) for array in (rows, rounded, weight))
    strength = ridge * np.mean(rounded**2)
    penalty = np.sqrt(strength * len(rows)) * np.eye(weight.shape[1])
    design = np.concatenate([rounded, penalty])
    wanted = np.concatenate([rows @ weight.T, penalty @ weight.T])
    return np.linalg.lstsq(design, wanted, rcond=None)[0].T


def smoothing_factors(rows: np.ndarray, weight: np.ndarray, alpha: float) -> np.ndarray:
    """SmoothQuant Eq. (4), channel by channel."""
    factors = []
    for channel in range(rows.shape[1]):
        x = max(abs(float(value)) for value in rows[:, channel])
        w = max(abs(float(value)) for value in weight[:, channel])
        factors.append(max(x, 1e-5) ** alpha / max(w, 1e-5) ** (1 - alpha))
    return np.array(factors)


def smoothing_errors(rows: np.ndarray, weight: np.ndarray, alphas: Sequence[float | None]) -> list[float]:
    """Squared error of the 6-bit layer for each alpha, `None` meaning that it is left alone."""
    exact, errors = rows.astype(np.float64) @ weight.astype(np.float64).T, []
    for alpha in alphas:
        factor = np.ones(rows.shape[1]) if alpha is None else smoothing_factors(rows, weight, alpha)
        x, w = (rows / factor).astype(np.float32), (weight * factor).astype(np.float32)
        scale, zero_point = full_range(x, 6)
        x = uniform_codes(x, scale, zero_point, 6).astype(np.float64) * np.float64(scale)
        rounded = []
        for row in w:
            scales, found = mse_weight_scales(row, 6)
            best = scales[int(np.argmin(found))]
            rounded.append(row_codes(row, best, 0, 6).astype(np.float64) * best)
        errors.append(float(np.mean((x @ np.array(rounded).T - exact) ** 2)))
    return errors


def _signed(x: np.ndarray, scale: np.ndarray, bits: int) -> np.ndarray:
    half = 2 ** (bits - 1)
    return np.clip(np.rint(x / np.asarray(scale, np.float32)), -half, half - 1).astype(np.float64)


def _gelu(x: np.ndarray, scale: np.ndarray, bits: int) -> np.ndarray:
    half = 2 ** (bits - 1)
    negative = np.float32(GELU_MINIMUM / half)
    positives = np.clip(np.rint(x / np.asarray(scale, np.float32)), 0, half - 1) * np.float64(scale)
    return positives + np.clip(np.rint(x / negative), -half, 0) * np.float64(negative)


def _split(x: np.ndarray, exponent: int, bits: int) -> np.ndarray:
    most = 2 ** (bits - 1) - 1
    split = np.float32(2.0**-exponent)
    fine, coarse = split / np.float32(most), np.float32(1 / most)
    small = np.clip(np.rint(x / fine), 0, most) * np.float64(fine)
    return np.where(x < split, small, np.clip(np.rint(x / coarse), 0, most) * np.float64(coarse))


def _best(loss: Callable[[int], np.ndarray], count: int) -> np.ndarray:
    """The candidate of least loss for each group, the first of equals."""
    return np.argmin(np.stack([loss(index) for index in range(count)]), axis=0)


def ptq4vit_linear(
    x: np.ndarray,
    weight: np.ndarray,
    importance: np.ndarray,
    bits: int,
    *,
    num_matrices: int = 1,
    is_twin: bool = False,
    given: np.ndarray | None = None,
) -> tuple[np.ndarray, np.float32]:
    """Scales of a layer's matrices, `(matrices,)`, and of its input.

    Args:
        x: `(rows, in)`, float32.
        weight: `(out, in)`, float32.
        importance: `(rows, out)`, weights of squared errors.
        bits: Bits per code.
        num_matrices: How many matrices are stacked.
        is_twin: Whether the input's negative numbers have a range of their own.
        given: `(out, in)`, what the codes stand for, if they are given.
    """
    divisor = np.float32(2 ** (bits - 1) - 0.5)
    matrices = np.split(weight, num_matrices)
    weight_full = np.array([np.abs(matrix).max() for matrix in matrices], np.float32) / divisor
    input_full = (x.max() if is_twin else np.abs(x).max()) / divisor
    exact = x.astype(np.float64) @ weight.astype(np.float64).T

    def rounded_weight(scales: np.ndarray) -> np.ndarray:
        if given is not None:
            return given.astype(np.float64)
        return np.concatenate(
            [_signed(m, s, bits) * np.float64(s) for m, s in zip(matrices, scales, strict=True)]
        )

    def rounded_input(scale: np.float32) -> np.ndarray:
        return _gelu(x, scale, bits) if is_twin else _signed(x, scale, bits) * np.float64(scale)

    def losses(inputs: np.ndarray, weights: np.ndarray) -> np.ndarray:
        errors = (inputs @ weights.T - exact) ** 2 * importance
        return np.array([part.sum() for part in np.split(errors, num_matrices, axis=1)])

    weight_scales, input_scale = weight_full, input_full
    for _ in range(ROUNDS):
        inputs = rounded_input(input_scale)
        if given is None:
            found = _best(
                lambda i, a=inputs: losses(a, rounded_weight(weight_full * PTQ4VIT_FACTORS[i])), 100
            )
            weight_scales = weight_full * PTQ4VIT_FACTORS[found]
        weights = rounded_weight(weight_scales)
        at_input = _best(
            lambda i, w=weights: losses(rounded_input(input_full * PTQ4VIT_FACTORS[i]), w).sum(), 100
        )
        input_scale = input_full * PTQ4VIT_FACTORS[at_input]
    return weight_scales, input_scale


def ptq4vit_matmul(
    left: np.ndarray, right: np.ndarray, importance: np.ndarray, bits: int, *, has_split: bool
) -> tuple[np.ndarray | int, np.ndarray]:
    """Scales per head of both operands, `(heads,)` each; the left one's exponent if it has a split."""
    divisor = np.float32(2 ** (bits - 1) - 0.5)
    left_full, right_full = (np.abs(x).max(axis=(0, 2, 3)) / divisor for x in (left, right))
    exact = left.astype(np.float64) @ right.astype(np.float64)

    def rounded(x: np.ndarray, scales: np.ndarray) -> np.ndarray:
        scales = scales[:, None, None]
        return _signed(x, scales, bits) * scales.astype(np.float64)

    def losses(one: np.ndarray, other: np.ndarray) -> np.ndarray:
        return ((one @ other - exact) ** 2 * importance).sum(axis=(0, 2, 3))

    left_found: np.ndarray | int = left_full
    right_scales = right_full
    for _ in range(ROUNDS):
        if has_split:
            split = _best(lambda i: losses(_split(left, i, bits), right.astype(np.float64)).sum(), SPLITS)
            left_found, one = int(split), _split(left, int(split), bits)
        else:
            other = rounded(right, right_scales)
            found = _best(lambda i, o=other: losses(rounded(left, left_full * PTQ4VIT_FACTORS[i]), o), 100)
            left_found = left_full * PTQ4VIT_FACTORS[found]
            one = rounded(left, left_found)
        found = _best(lambda i, o=one: losses(o, rounded(right, right_full * PTQ4VIT_FACTORS[i])), 100)
        right_scales = right_full * PTQ4VIT_FACTORS[found]
    return left_found, right_scales
