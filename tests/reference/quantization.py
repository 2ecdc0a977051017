"""Quantization with Python integers, one number at a time."""

from collections.abc import Sequence

import numpy as np


def pack(codes: Sequence[int], bits: int) -> bytes:
    """Lay codes, shifted to start at 0, one after another in one large integer, lowest bits first."""
    stream = 0
    for index, code in enumerate(codes):
        stream |= (code + 2 ** (bits - 1)) << (index * bits)
    return stream.to_bytes(-(-len(codes) * bits // 8), "little")


def weight_code(weight: float, scale: float, bits: int) -> int:
    """Round a weight to the nearest code, ties to even, and clip it."""
    nearest = int(np.rint(np.float32(weight) / np.float32(scale)))
    return max(-(2 ** (bits - 1)), min(2 ** (bits - 1) - 1, nearest))


def activation_code(x: float, scale: float, zero_point: int, bits: int) -> int:
    """Round an activation to an unsigned code, clip it, and count it from the zero point."""
    unsigned = int(np.rint(x / scale)) + zero_point
    return max(0, min(2**bits - 1, unsigned)) - zero_point


def integer_linear(inputs: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Multiply codes `(n, in)` with codes `(out, in)` in Python integers: `(n, out)`, as float32."""
    products = [
        [sum(int(a) * int(b) for a, b in zip(row, weight, strict=True)) for weight in weights]
        for row in inputs
    ]
    return np.asarray(products, dtype=np.float32)


def squared_error(values: np.ndarray, scale: float, low_code: int, high_code: int) -> float:
    """Sum the squared errors of values rounded to whole multiples of `scale`, in float64."""
    values = np.asarray(values, dtype=np.float64)
    codes = np.clip(np.rint(values / scale), low_code, high_code)
    return float(np.sum((codes * scale - values) ** 2))


def range_to_scale(low: float, high: float, bits: int) -> tuple[np.float32, int]:
    """Scale and zero point of a range widened to contain 0, in float32 as they are stored."""
    low, high = np.float32(min(low, 0)), np.float32(max(high, 0))
    scale = (high - low) / np.float32(2**bits - 1)
    if scale < np.finfo(np.float32).tiny:
        scale = np.float32(1)
    return scale, int(np.rint(-low / scale))


def uniform_codes(x: np.ndarray, scale: np.ndarray, zero_point: np.ndarray, bits: int) -> np.ndarray:
    """Codes counted from the zero point; float32, by multiplication with the inverse, as a device does it."""
    codes = np.rint(np.asarray(x, np.float32) * (np.float32(1) / np.asarray(scale, np.float32)))
    return np.clip(codes, -np.asarray(zero_point), 2**bits - 1 - np.asarray(zero_point))


def dynamic_codes(x: np.ndarray, bits: int) -> tuple[np.ndarray, list[np.float32]]:
    """Codes and scale of each image on its own, one bit fewer than asked for."""
    codes, scales = [], []
    for image in x:
        scale, zero_point = range_to_scale(image.min(), image.max(), bits - 1)
        codes.append(uniform_codes(image, scale, zero_point, bits - 1))
        scales.append(scale)
    return np.stack(codes), scales


def twin_softmax_number(x: float, exponent: int, bits: int) -> tuple[int, int]:
    """Codes in steps of `2**-exponent / most` and of `1 / most`, of which one is 0; `most = 2**(bits-1) - 1`."""
    most, split = 2 ** (bits - 1) - 1, np.float32(2.0**-exponent)
    if np.float32(x) < split:
        return min(most, int(np.rint(np.float32(x) / (split / np.float32(most))))), 0
    return 0, min(most, int(np.rint(np.float32(x) / np.float32(1 / most))))


def twin_gelu_number(x: float, scale: float, negative_scale: float, bits: int) -> tuple[int, int]:
    """Codes of a number's positive and negative part."""
    half = 2 ** (bits - 1)
    positive = int(np.rint(np.float32(x) / np.float32(scale)))
    negative = int(np.rint(np.float32(x) / np.float32(negative_scale)))
    return max(0, min(half - 1, positive)), max(-half, min(0, negative))


def log_number(x: float, largest: float, shift: float, exponent: int, bits: int) -> tuple[int, float]:
    """AdaLog's code as a whole multiple of `largest / 1023`, and how near it was to be rounded otherwise.

    The second number is the distance of the quotients that are rounded to the nearest half, at least.
    """
    step = exponent / 37
    relative = max(min((x + shift) / largest, 1.0), 1e-30)
    quotient = -np.log2(relative) / step
    code = min(2**bits - 1, int(np.rint(quotient)))
    magnitude, zero = 1023 * 2 ** (-code * step), shift / (largest / 1023)
    near = 1.0 if code == 2**bits - 1 else abs(quotient % 1 - 0.5)
    return int(np.rint(magnitude)) - int(np.rint(zero)), min(
        near, abs(magnitude % 1 - 0.5), abs(zero % 1 - 0.5)
    )


def leading_bits(code: int, bits: int, kept_bits: int) -> int:
    """Drop the last bits of a signed code, seen as an unsigned number that starts at 0."""
    unsigned = code + 2 ** (bits - 1)
    return int(format(unsigned, f"0{bits}b")[:kept_bits], 2) - 2 ** (kept_bits - 1)


def fitted_line(codes: np.ndarray, weights: np.ndarray) -> tuple[float, float]:
    """Scale and offset of least squares for one row, by NumPy's own fit."""
    design = np.stack([codes, np.ones(len(codes))], axis=1).astype(np.float64)
    (scale, offset), *_ = np.linalg.lstsq(design, np.asarray(weights, np.float64), rcond=None)
    return float(scale), float(offset)
