"""`MultiLevelLinear`: a frozen linear layer that can be computed at several levels."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from quee_hf.levels import Level, is_integer_level
from quee_hf.quantization.activation import ActivationQuantizer, Float32Buffers
from quee_hf.quantization.affine import WeightCodes
from quee_hf.quantization.packing import pack_codes, packed_size, unpack_codes


class MultiLevelLinear(Float32Buffers):
    """A frozen linear layer with one set of weight codes per integer level.

    Codes are stored packed to their bit-width. They are unpacked when a level is first used and kept until
    the weights change or move; `release` drops them. The float weight is there before quantization, and
    afterwards only if a float level needs it.

    Args:
        in_features: Size of each input.
        out_features: Size of each output.
        has_bias: Whether a bias is added.
        levels: The model's levels.
        is_quantized: Whether the integer levels have codes yet.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        has_bias: bool,
        levels: Sequence[Level],
        is_quantized: bool,
    ) -> None:
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        bit_widths = [level for level in levels if is_integer_level(level)] if is_quantized else []
        keeps_float = not is_quantized or len(bit_widths) < len(levels)
        self.weight = _frozen(torch.zeros(out_features, in_features)) if keeps_float else None
        self.bias = _frozen(torch.zeros(out_features)) if has_bias else None
        self.input = ActivationQuantizer(levels, is_quantized=is_quantized)
        for bits in bit_widths:
            size = packed_size(in_features * out_features, int(bits))
            self.register_buffer(f"codes_{bits}", torch.zeros(size, dtype=torch.uint8))
            self.register_buffer(f"weight_scale_{bits}", torch.ones(out_features, dtype=torch.float32))
        self._prepared: dict[int, Tensor] = {}
        self.register_load_state_dict_post_hook(_release_prepared)

    @property
    def float_weight(self) -> Tensor:
        """The exact weight, `(out, in)`."""
        if self.weight is None:
            raise ValueError(
                "The float weight was dropped when the model was quantized to integer levels only."
            )
        return self.weight

    def store(self, level: int, quantized: WeightCodes) -> None:
        """Keep a weight's codes for a level, packed."""
        self.register_buffer(f"codes_{level}", pack_codes(quantized.codes, level))
        self.register_buffer(f"weight_scale_{level}", quantized.scale)
        self._prepared.pop(level, None)

    def load_codes(self, level: int) -> WeightCodes:
        """Return the codes and scales stored for a level."""
        packed = self.get_buffer(f"codes_{level}")
        codes = unpack_codes(packed, (self.out_features, self.in_features), level)
        return WeightCodes(codes, self.get_buffer(f"weight_scale_{level}"))

    def drop_float_weight(self) -> None:
        """Forget the exact weight, once no level needs it."""
        self.weight = None

    def release(self) -> None:
        """Drop unpacked codes; the next use of a level unpacks them again."""
        self._prepared.clear()

    def _prepare(self, level: int) -> Tensor:
        """Return the codes, `(out, in)`, as float32."""
        if level not in self._prepared:
            # What is made in inference mode could not be used outside it.
            with torch.inference_mode(False):
                self._prepared[level] = self.load_codes(level).codes.float()
        return self._prepared[level]

    def forward(self, x: Tensor, level: Level) -> Tensor:
        """Map `(..., in)` to `(..., out)`: float32, or bfloat16 at "bf16"."""
        if level == "bf16":
            bias = None if self.bias is None else self.bias.bfloat16()
            return functional.linear(x.bfloat16(), self.float_weight.bfloat16(), bias)
        if isinstance(level, str):
            return functional.linear(x.to(self.float_weight.dtype), self.float_weight, self.bias)
        products = functional.linear(self.input(x, level), self._prepare(level))
        scale = self.get_buffer(f"weight_scale_{level}") * self.input.scale(level)
        return products * scale if self.bias is None else torch.addcmul(self.bias.float(), products, scale)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "MultiLevelLinear":
        super()._apply(fn, recurse)
        self.release()
        return self


def _frozen(tensor: Tensor) -> nn.Parameter:
    return nn.Parameter(tensor, requires_grad=False)


def _release_prepared(module: nn.Module, _incompatible_keys: object) -> None:
    """Drop what was unpacked from the weights that a state dict has just replaced."""
    assert isinstance(module, MultiLevelLinear)
    module.release()
