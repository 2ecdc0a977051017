"""Linear layers of a block at one level, prepared: on codes, or on floats."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from quee_hf.execution.integer.bytes import ByteRange
from quee_hf.execution.integer.products import make_product
from quee_hf.levels import Level
from quee_hf.quantization.integer import IntegerLinear, integer_linear
from quee_hf.quantization.linear import MultiLevelLinear


class CodeLinear:
    """A linear layer on codes.

        result = factor * (scale * (input @ codes.T) + offset * sum(input) + bias) + shift

    Args:
        layer: Codes, scales, offsets and bias.
        factor: `(out,)`, float32; `None` means ones.
        shift: `(out,)`, float32; `None` means zeros.
    """

    def __init__(self, layer: IntegerLinear, factor: Tensor | None, shift: Tensor | None) -> None:
        self.range = ByteRange(layer.input_scale, layer.input_zero_point, layer.input_bits)
        scale, offset = layer.scale * layer.input_scale, layer.offset
        bias = torch.zeros_like(scale) if layer.bias is None else layer.bias
        offset = None if offset is None else offset * layer.input_scale
        if factor is not None:
            scale, bias = scale * factor, bias * factor
            offset = None if offset is None else offset * factor
        self._offset = offset
        bias = bias if shift is None else bias + shift
        self._product = make_product(layer.codes, scale, bias, layer.input_zero_point)
        self._zero_sum = layer.input_zero_point * layer.codes.shape[1]

    def after(self, norm: nn.LayerNorm) -> Callable[[Tensor], Tensor]:
        """Return what maps `(rows, in)` to codes of the normalised rows."""
        weight = norm.weight.detach().float() / self.range.scale
        bias = norm.bias.detach().float() / self.range.scale + self.range.shift
        size, eps, codes_of_steps = tuple(norm.normalized_shape), norm.eps, self.range.codes_of_steps
        return lambda x: codes_of_steps(functional.layer_norm(x, size, weight, bias, eps))

    def encode(self, x: Tensor) -> Tensor:
        """Round numbers to codes; what `x` holds may be lost."""
        return self.range.codes(x)

    def __call__(self, codes: Tensor) -> Tensor:
        """Map codes `(rows, in)` to `(rows, out)`, float32."""
        result = self._product(codes)
        return result if self._offset is None else result.addcmul_(self._sums(codes), self._offset)

    def add_to(self, x: Tensor, codes: Tensor) -> None:
        """Add the result to `(rows, out)` in place."""
        if self._offset is not None:
            x.addcmul_(self._sums(codes), self._offset)
        self._product.add_to(x, codes)

    def gelu_codes(self, codes: Tensor, found: ByteRange) -> Tensor:
        """Return GELU of the result as codes of a range."""
        if self._offset is None:
            return self._product.gelu_codes(codes, found)
        return found.codes(torch.ops.aten.gelu_(self(codes)))

    def _sums(self, codes: Tensor) -> Tensor:
        """Return the sum of each row's codes from the zero point, `(rows, 1)`."""
        return codes.sum(dim=1, keepdim=True, dtype=torch.float32).sub_(self._zero_sum)


class FloatLinear:
    """A linear layer on floats, in bfloat16 or as the model stores its weight.

        result = factor * (input @ weight.T + bias) + shift

    Args:
        linear: With a float weight.
        level: A float level.
        factor: `(out,)`, float32; `None` means ones.
        shift: `(out,)`, float32, only with a factor; `None` means zeros.
    """

    def __init__(
        self, linear: MultiLevelLinear, level: str, factor: Tensor | None, shift: Tensor | None
    ) -> None:
        weight = linear.float_weight.detach()
        self._weight = weight.bfloat16() if level == "bf16" else weight
        self._bias = None if linear.bias is None else linear.bias.detach().to(self._weight.dtype)
        self._factor, self._shift = factor, shift

    def after(self, norm: nn.LayerNorm) -> Callable[[Tensor], Tensor]:
        """Return what maps `(rows, in)` to the normalised rows."""
        weight, bias = norm.weight.detach().float(), norm.bias.detach().float()
        size, eps, kind = tuple(norm.normalized_shape), norm.eps, self._weight.dtype
        return lambda x: functional.layer_norm(x, size, weight, bias, eps).to(kind)

    def encode(self, x: Tensor) -> Tensor:
        """Cast numbers to what the weight is."""
        return x.to(self._weight.dtype)

    def __call__(self, x: Tensor) -> Tensor:
        """Map `(rows, in)` to `(rows, out)`: float32 if there is a factor."""
        result = functional.linear(x, self._weight, self._bias)
        if self._factor is None:
            return result
        result = result.float() * self._factor
        return result if self._shift is None else result.add_(self._shift)

    def add_to(self, x: Tensor, value: Tensor) -> None:
        """Add the result to `(rows, out)` in place."""
        x.add_(self(value))


def prepare_linear(
    linear: MultiLevelLinear, level: Level, factor: Tensor | None = None, shift: Tensor | None = None
) -> CodeLinear | FloatLinear:
    """Return a layer as it is computed when the model runs at a level.

    Raises:
        ValueError: If no integer kernel can.
    """
    level = linear.layout.computed_at(level)
    if isinstance(level, str):
        return FloatLinear(linear, level, factor, shift)
    return CodeLinear(integer_linear(linear, level), factor, shift)
