"""`ActivationQuantizer`: one tensor's range at every integer level."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from quee_hf.levels import Level, is_integer_level
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


class ActivationQuantizer(Float32Buffers):
    """Turn activations into integer codes, with one range per level for the whole tensor.

    Args:
        levels: The model's levels; float ones need no range.
        is_quantized: Whether ranges exist yet.
    """

    def __init__(self, levels: Sequence[Level], *, is_quantized: bool) -> None:
        super().__init__()
        for bits in filter(is_integer_level, levels if is_quantized else ()):
            self.register_buffer(f"scale_{bits}", torch.ones((), dtype=torch.float32))
            self.register_buffer(f"zero_point_{bits}", torch.zeros((), dtype=torch.int32))

    def set_range(self, level: int, low: Tensor, high: Tensor) -> None:
        """Store the range `[low, high]` (scalars) for a level."""
        scale, zero_point = range_to_scale(low, high, level)
        self.register_buffer(f"scale_{level}", scale)
        self.register_buffer(f"zero_point_{level}", zero_point)

    def scale(self, level: int) -> Tensor:
        """Activation units per code step, scalar float32."""
        return self.get_buffer(f"scale_{level}")

    def forward(self, x: Tensor, level: int) -> Tensor:
        """Return codes counted from the zero point, shaped like `x`, float32 whole numbers."""
        return activation_codes(x, self.scale(level), self.get_buffer(f"zero_point_{level}"), level)
