"""Quantized linear layers as 8-bit integer kernels compute them."""

from typing import NamedTuple

import torch
from torch import Tensor

from quee_hf.quantization.activation import UniformQuantizer
from quee_hf.quantization.affine import WeightCodes
from quee_hf.quantization.linear import MultiLevelLinear

_ROUNDING = 1e-6  # of a float32, relative


class IntegerLinear(NamedTuple):
    """A linear layer at one level.

    input = input_scale * (round(x / input_scale)),  clipped to `input_range`
    result = scale * (input @ codes.T) + offset * sum(input) + bias
    """

    codes: Tensor  # (out, in), int8
    scale: Tensor  # (out,), float32
    offset: Tensor | None  # (out,), float32, what code 0 stands for; None stands for zeros
    bias: Tensor | None  # (out,), float32
    input_scale: float
    input_zero_point: int  # the code of 0.0, from 0 to 2**input_bits - 1
    input_bits: int

    def rows(self, start: int, stop: int, factor: Tensor | float = 1.0) -> "IntegerLinear":
        """Return the layer of some of the outputs, each times a factor."""
        part = slice(start, stop)
        offset = None if self.offset is None else self.offset[part] * factor
        bias = None if self.bias is None else self.bias[part] * factor
        return self._replace(
            codes=self.codes[part], scale=self.scale[part] * factor, offset=offset, bias=bias
        )

    @property
    def input_range(self) -> tuple[float, float]:
        """The smallest and the largest input that has a code of its own."""
        low = -self.input_zero_point * self.input_scale
        return low, low + (2**self.input_bits - 1) * self.input_scale


def integer_linear(linear: MultiLevelLinear, level: int) -> IntegerLinear:
    """Return what a layer computes at an integer level.

    Raises:
        ValueError: If its inputs are not quantized in equal steps of a range known beforehand.
    """
    if not isinstance(linear.input, UniformQuantizer):
        raise ValueError(f"No integer kernel computes inputs quantized by {type(linear.input).__name__}.")
    found = linear.input.parameters_at(level)
    bias = None if linear.bias is None else linear.bias.detach().float()
    weight = centred(linear.load_codes(level))
    return IntegerLinear(*weight, bias, float(found["scale"]), int(found["zero_point"]), level)


def uniform_steps(quantizer: object, level: int) -> tuple[Tensor, Tensor]:
    """Return scale and zero point of one side of a product of two activations, as they are stored.

    Raises:
        ValueError: If its steps are not equal steps of a range known beforehand.
    """
    if not isinstance(quantizer, UniformQuantizer):
        raise ValueError(f"No integer kernel computes activations quantized by {type(quantizer).__name__}.")
    found = quantizer.parameters_at(level)
    return found["scale"], found["zero_point"]


def centred(quantized: WeightCodes) -> WeightCodes:
    """Move codes so that their offset is as near 0 as 8 bits allow; the weight stays the same.

    Kernels want codes of which 0 stands for 0. An offset of whole steps, as of most asymmetric quantizers,
    disappears if codes have fewer than 8 bits.

    Example:
        >>> given = WeightCodes(torch.tensor([[-2, 1]]).char(), torch.ones(1), torch.ones(1))
        >>> codes, _, offset = centred(given)
        >>> codes.tolist(), offset
        ([[-1, 2]], None)
    """
    codes, scale, offset = quantized
    if offset is None:
        return quantized
    wide = codes.short()
    low, high = (-128 - wide.amin(dim=1)).float(), (127 - wide.amax(dim=1)).float()
    steps = torch.round(offset / scale).clamp(low, high)
    left = offset - steps * scale
    # What rounding of float32 leaves over is no offset.
    is_whole = bool((left.abs() <= _ROUNDING * offset.abs()).all())
    moved = (wide + steps[:, None].short()).to(torch.int8)
    return WeightCodes(moved, scale, None if is_whole else left)
