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
