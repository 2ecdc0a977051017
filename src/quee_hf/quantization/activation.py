"""Quantizers of activations: each turns a tensor into whole-number codes, at every integer level."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from quee_hf.quantization.affine import activation_codes, range_to_scale


class Float32Buffers(nn.Module):
    """A module whose float buffers stay float32 when the model is cast to half precision.

    A scale rounded to bfloat16 would move every code; casts of the whole model must not reach it.
    """

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "Float32Buffers":
        exact = {name: buffer for name, buffer in self._buffers.items() if buffer is not None}
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for name, before in exact.items():
            after = self._buffers[name]
            if after is not None and after.dtype != before.dtype:
                self._buffers[name] = before.to(after.device)
        return self


class Term(NamedTuple):
    """One part of a quantized activation, which is the sum of `codes * scale` over its terms.

    Products are computed term by term, so that each is a product of small whole numbers, which float32
    computes exactly (`activation_codes`) and an integer kernel can compute, too.
    """

    codes: Tensor  # float32 whole numbers
    scale: Tensor  # activation units per code step; broadcasts against a product
    lowest: Tensor | int | None = None  # what codes can be at least, if they span at most 256 numbers


def restore_terms(terms: Sequence[Term]) -> Tensor:
    """Return what terms stand for."""
    return torch.stack([term.codes * term.scale for term in terms]).sum(dim=0)


class ActivationQuantizer(Float32Buffers, ABC):
    """Turn activations into codes.

    Args:
        bit_widths: Integer levels that have parameters; none before quantization.
        num_heads: How many ranges there are for a `(batch, heads, ...)` tensor; `None` means one for all.
    """

    # Name -> value before calibration. The buffer of that name has one row per level: few tensors load fast.
    defaults: dict[str, Tensor]

    def __init__(self, bit_widths: Sequence[int] = (), num_heads: int | None = None) -> None:
        super().__init__()
        self.bit_widths, self.num_heads = list(bit_widths), num_heads
        shape = () if num_heads is None else (num_heads, 1, 1)
        for name, value in self.defaults.items() if self.bit_widths else ():
            size = (len(self.bit_widths), *shape)
            self.register_buffer(name, torch.full(size, value.item(), dtype=value.dtype))

    def store(self, level: int, **values: Tensor) -> None:
        """Keep the parameters of a level, one of `bit_widths`."""
        row = self.bit_widths.index(level)
        for name, value in values.items():
            self.get_buffer(name)[row] = value

    def parameters_at(self, level: int) -> dict[str, Tensor]:
        """Return what was stored for a level."""
        row = self.bit_widths.index(level)
        return {name: self.get_buffer(name)[row] for name in self.defaults}

    @abstractmethod
    def forward(self, x: Tensor, level: int) -> tuple[Term, ...]:
        """Return the terms of `x`, each with codes shaped like it."""

    def restore(self, x: Tensor, level: int) -> Tensor:
        """Return what the codes of `x` stand for, float32."""
        return restore_terms(self(x, level))


class UniformQuantizer(ActivationQuantizer):
    """Equal steps over one range, whose zero has a code."""

    defaults = {  # noqa: RUF012
        "scale": torch.tensor(1.0),
        "zero_point": torch.tensor(0, dtype=torch.int32),
    }

    def set_range(self, level: int, low: Tensor, high: Tensor) -> None:
        """Store the range `[low, high]` for a level: scalars, or `(heads,)`."""
        if self.num_heads is not None:
            low, high = (end.expand(self.num_heads)[:, None, None] for end in (low, high))
        scale, zero_point = range_to_scale(low, high, level)
        self.store(level, scale=scale, zero_point=zero_point)

    def scale_at(self, level: int) -> Tensor:
        """Activation units per code step, float32: a scalar, or `(heads, 1, 1)`."""
        return self.parameters_at(level)["scale"]

    def forward(self, x: Tensor, level: int) -> tuple[Term, ...]:
        """Return one term; its codes count from the zero point."""
        scale, zero_point = self.parameters_at(level).values()
        return (Term(activation_codes(x, scale, zero_point, level), scale, -zero_point),)


class DynamicQuantizer(ActivationQuantizer):
    """Equal steps over each image's own range, as PyTorch's dynamic quantization at batch size 1.

    PyTorch takes the range of the whole batch; here an image's result must not depend on its neighbours.
    Like PyTorch's kernels for x86, it uses one bit less than it could: sums of products of full 8-bit
    numbers could overflow their 16-bit intermediate results.
    """

    defaults = {}  # noqa: RUF012

    def forward(self, x: Tensor, level: int) -> tuple[Term, ...]:
        """Return one term; the first dimension of `x` is the batch."""
        low, high = torch.aminmax(x.float().flatten(1), dim=1)
        shape = (-1, *[1] * (x.ndim - 1))
        scale, zero_point = range_to_scale(low.view(shape), high.view(shape), level - 1)
        return (Term(activation_codes(x, scale, zero_point, level - 1), scale, -zero_point),)


class TwinSoftmaxQuantizer(ActivationQuantizer):
    """Two uniform ranges for numbers in [0, 1]: below `2**-exponent` fine steps, above it coarse ones.

    Source:
        Yuan et al. 2022 (PTQ4ViT, arXiv:2111.12293), §3.1.
    """

    defaults = {"exponent": torch.tensor(0, dtype=torch.int32)}  # noqa: RUF012

    def forward(self, x: Tensor, level: int) -> tuple[Term, ...]:
        """Return the small numbers' term and the large ones'."""
        return self.terms(x, self.parameters_at(level)["exponent"], level)

    @staticmethod
    def terms(x: Tensor, exponent: Tensor, bits: int) -> tuple[Term, ...]:
        """Quantize with a given split; one bit says which range, the others hold the magnitude."""
        x, largest = x.float(), 2 ** (bits - 1) - 1
        split = torch.exp2(-exponent.float())
        fine, coarse = split / largest, torch.full_like(split, 1 / largest)
        is_small = x < split
        small = torch.where(is_small, (x / fine).round(), 0).clamp_(0, largest)
        large = torch.where(is_small, 0, (x / coarse).round()).clamp_(0, largest)
        return Term(small, fine, 0), Term(large, coarse, 0)


class TwinGeluQuantizer(ActivationQuantizer):
    """Two uniform ranges, one for positive and one for the small negative numbers that GELU returns.

    Source:
        Yuan et al. 2022 (PTQ4ViT, arXiv:2111.12293), §3.1.
    """

    defaults = {  # noqa: RUF012
        "scale": torch.tensor(1.0),
        "negative_scale": torch.tensor(1.0),
    }

    def forward(self, x: Tensor, level: int) -> tuple[Term, ...]:
        """Return the positive numbers' term and the negative ones'."""
        return self.terms(x, **self.parameters_at(level), bits=level)

    @staticmethod
    def terms(x: Tensor, scale: Tensor, negative_scale: Tensor, *, bits: int) -> tuple[Term, ...]:
        """Quantize with given scales."""
        x, half, positive, negative = x.float(), 2 ** (bits - 1), scale, negative_scale
        return (
            Term((x / positive).round().clamp_(0, half - 1), positive, 0),
            Term((x / negative).round().clamp_(-half, 0), negative, -half),
        )


class LogQuantizer(ActivationQuantizer):
    """Steps that are equal on a logarithmic scale whose base is searched, for long-tailed numbers.

    A number is first shifted to be positive. Codes are looked up in a table of whole numbers, so that
    products stay exact; numbers below half of `largest / RESOLUTION` become zero.

    Source:
        Wu et al. 2024 (AdaLog, arXiv:2407.12951): base `2**(exponent / 37)`.
    """

    RESOLUTION = 1023
    BASE_PARTS = 37
    defaults = {  # noqa: RUF012
        "largest": torch.tensor(1.0),
        "shift": torch.tensor(0.0),
        "exponent": torch.tensor(BASE_PARTS, dtype=torch.int32),
    }

    def forward(self, x: Tensor, level: int) -> tuple[Term, ...]:
        """Return one term."""
        return self.terms(x, **self.parameters_at(level), bits=level)

    @classmethod
    def terms(
        cls, x: Tensor, largest: Tensor, shift: Tensor, exponent: Tensor, *, bits: int
    ) -> tuple[Term, ...]:
        """Quantize with given parameters, which broadcast against `x`."""
        step = exponent.float() / cls.BASE_PARTS
        # 1e-30 stands for zero and below, which have no logarithm.
        relative = ((x.float() + shift) / largest).clamp(1e-30, 1)
        codes = (-torch.log2(relative) / step).round_().clamp_(max=2**bits - 1)
        magnitudes = (cls.RESOLUTION * torch.exp2(-codes * step)).round_()
        scale = largest / cls.RESOLUTION
        return (Term(magnitudes - (shift / scale).round(), scale),)


QUANTIZERS: dict[str, type[ActivationQuantizer]] = {
    "uniform": UniformQuantizer,
    "dynamic": DynamicQuantizer,
    "twin_softmax": TwinSoftmaxQuantizer,
    "twin_gelu": TwinGeluQuantizer,
    "log": LogQuantizer,
}
