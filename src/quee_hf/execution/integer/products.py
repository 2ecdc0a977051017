"""Products of codes with a weight: by oneDNN on a CPU, by `_int_mm` on CUDA, else as the model has them."""

from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from quee_hf.execution.integer.bytes import SIGN, ByteRange
from quee_hf.quantization.products import code_products

_MIN_ROWS, _MULTIPLE = 32, 8  # of matrices that `_int_mm` takes on CUDA


class PlainProduct:
    """A weight that codes are multiplied with, without any fused kernel.

        result = scale * ((codes - zero_point) @ weight.T) + bias

    Args:
        weight: `(out, in)`, int8.
        scale: `(out,)`, float32.
        bias: `(out,)`, float32.
        zero_point: Of the codes.
    """

    def __init__(self, weight: Tensor, scale: Tensor, bias: Tensor, zero_point: int) -> None:
        self._weight, self._scale, self._bias, self._zero_point = weight, scale, bias, zero_point

    def __call__(self, codes: Tensor) -> Tensor:
        """Map codes, `(rows, in)`, uint8, to `(rows, out)`, float32."""
        steps = codes.float().sub_(self._zero_point)
        products = code_products(steps, self._weight, -self._zero_point)
        return torch.addcmul(self._bias, products, self._scale)

    def add_to(self, x: Tensor, codes: Tensor) -> Tensor:
        """Add the result to `x`, `(rows, out)`, float32, in place."""
        return x.add_(self(codes))

    def gelu_codes(self, codes: Tensor, found: ByteRange) -> Tensor:
        """Return GELU of the result as codes, `(rows, out)`, uint8."""
        return found.codes(functional.gelu(self(codes)))


class IntMmProduct(PlainProduct):
    """The same by `_int_mm`, of which CUDA has a kernel for signed bytes.

    A weight's sizes must be multiples of 8. What codes lose by being signed is part of the bias.
    """

    def __init__(self, weight: Tensor, scale: Tensor, bias: Tensor, zero_point: int) -> None:
        lost = weight.sum(dim=1, dtype=torch.int32) * (SIGN - zero_point)
        super().__init__(weight, scale, torch.addcmul(bias, lost.float(), scale), zero_point)

    def __call__(self, codes: Tensor) -> Tensor:
        """Map codes to `(rows, out)`, float32."""
        return torch.addcmul(self._bias, signed_products(codes, self._weight).float(), self._scale)


class OneDnnProduct(PlainProduct):
    """The same by oneDNN, which adds, applies GELU and rounds while it has the numbers at hand.

    Codes must be unsigned: of signed ones oneDNN computes the same, thousands of times slower.
    """

    def __init__(self, weight: Tensor, scale: Tensor, bias: Tensor, zero_point: int) -> None:
        packed = torch.ops.onednn.qlinear_prepack(weight.contiguous(), None)
        super().__init__(packed, scale, bias, zero_point)
        self._zeros = torch.zeros(len(scale), dtype=torch.int32)

    def __call__(self, codes: Tensor) -> Tensor:
        """Map codes to `(rows, out)`, float32."""
        return self._run(codes, 1.0, 0, torch.float32, "none", [], "")

    def add_to(self, x: Tensor, codes: Tensor) -> Tensor:
        """Add the result to `x` in place."""
        run = torch.ops.onednn.qlinear_pointwise.binary
        weight = (self._weight, self._scale, self._zeros, x, self._bias)
        output = (1.0, 0, torch.float32, 1.0, 0, "sum", 1.0, "none", list[float](), "")
        result: Tensor = run(codes, 1.0, self._zero_point, *weight, *output)
        return result

    def gelu_codes(self, codes: Tensor, found: ByteRange) -> Tensor:
        """Return GELU of the result as codes."""
        result = self._run(codes, found.scale, found.zero_point, torch.uint8, "gelu", [], "none")
        return result if found.bits == 8 else result.clamp_(max=found.highest)

    def _run(self, codes: Tensor, *output: Any) -> Tensor:
        run = torch.ops.onednn.qlinear_pointwise.default
        weight = (self._weight, self._scale, self._zeros, self._bias)
        result: Tensor = run(codes, 1.0, self._zero_point, *weight, *output)
        return result


def make_product(weight: Tensor, scale: Tensor, bias: Tensor, zero_point: int) -> PlainProduct:
    """Return the product that suits the device of a weight."""
    kind, device = PlainProduct, weight.device.type
    if device == "cpu" and has_onednn():
        kind = OneDnnProduct
    elif device == "cuda" and not any(size % _MULTIPLE for size in weight.shape):
        kind = IntMmProduct
    return kind(weight, scale, bias, zero_point)


@cache
def has_onednn() -> bool:
    """Tell whether oneDNN multiplies codes here, and exactly.

    Without VNNI, sums of two products may overflow 16 bits.
    """
    weight = torch.full((16, 64), 127, dtype=torch.int8)
    codes = torch.full((16, 64), 255, dtype=torch.uint8)
    try:
        result = OneDnnProduct(weight, torch.ones(16), torch.zeros(16), 0)(codes)
    except (AttributeError, RuntimeError):  # no such operator, or none for this processor
        return False
    return bool((result == 255 * 127 * 64).all())


def signed_products(codes: Tensor, weight: Tensor) -> Tensor:
    """Return `(codes - 128) @ weight.T` by `_int_mm`, `(rows, out)`, int32."""
    rows = len(codes)
    signed = codes.bitwise_xor(SIGN).view(torch.int8)
    if rows < _MIN_ROWS:
        signed = functional.pad(signed, (0, 0, 0, _MIN_ROWS - rows))
    return torch._int_mm(signed, weight.t())[:rows]
