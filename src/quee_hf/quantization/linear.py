"""`MultiLevelLinear`: a frozen linear layer that can be computed at several levels."""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional

from quee_hf.levels import Level
from quee_hf.quantization.activation import QUANTIZERS, Float32Buffers, Term
from quee_hf.quantization.affine import WeightCodes, leading_bits
from quee_hf.quantization.layout import STORE_BITS, ProductLayout
from quee_hf.quantization.packing import pack_codes, packed_size, unpack_codes
from quee_hf.quantization.products import code_products


class MultiLevelLinear(Float32Buffers):
    """A frozen linear layer with weight codes for each integer level.

    Codes are stored packed to their bit-width, one set per level or one for all (`ProductLayout.is_nested`).
    They are unpacked when a level is first used and kept until the weights change or move; `release` drops
    them. The float weight is there before quantization, and afterwards only if a level needs it: in bfloat16,
    if that is "bf16" alone, however the layer is cast.

    Args:
        in_features: Size of each input.
        out_features: Size of each output.
        has_bias: Whether a bias is added.
        layout: At which levels it is computed.
        input_kind: Of `QUANTIZERS`; the layout's for linear layers if not given.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        has_bias: bool,
        layout: ProductLayout,
        input_kind: str | None = None,
    ) -> None:
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        self.layout = layout
        kind = torch.bfloat16 if layout.needs_bf16_only else None
        weight = torch.zeros(out_features, in_features, dtype=kind) if layout.needs_float else None
        self.weight = None if weight is None else _frozen(weight)
        self.bias = _frozen(torch.zeros(out_features)) if has_bias else None
        self.input = QUANTIZERS[input_kind or layout.input_kind](layout.bit_widths)
        stored = layout.bit_widths
        for bits in [STORE_BITS] if stored and layout.is_nested else stored:
            size = packed_size(in_features * out_features, bits)
            self.register_buffer(f"codes_{bits}", torch.zeros(size, dtype=torch.uint8))
        # One row per level: few tensors load fast. The kind is explicit: loading in half precision changes
        # the default.
        shape = (len(stored), out_features)
        if stored:
            self.register_buffer("weight_scale", torch.ones(shape, dtype=torch.float32))
        if stored and layout.has_offsets:
            self.register_buffer("weight_offset", torch.zeros(shape, dtype=torch.float32))
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
        """Keep a weight's codes for a level, packed.

        If levels are nested, those of `STORE_BITS` bits must come first; of lower levels only scales and
        offsets are kept.
        """
        row = self.layout.bit_widths.index(level)
        if not self.layout.is_nested:
            self.get_buffer(f"codes_{level}").copy_(pack_codes(quantized.codes, level))
        self.get_buffer("weight_scale")[row] = quantized.scale
        if self.layout.has_offsets:
            offset = torch.zeros_like(quantized.scale) if quantized.offset is None else quantized.offset
            self.get_buffer("weight_offset")[row] = offset
        self._prepared.pop(level, None)

    def store_nested(self, codes: Tensor) -> None:
        """Keep the codes that all levels share: `(out, in)`, int8, of `STORE_BITS` bits."""
        self.get_buffer(f"codes_{STORE_BITS}").copy_(pack_codes(codes, STORE_BITS))
        self._prepared.clear()

    def load_nested(self) -> Tensor:
        """Return the codes that all levels share."""
        return self._unpack(STORE_BITS)

    def _unpack(self, bits: int) -> Tensor:
        return unpack_codes(self.get_buffer(f"codes_{bits}"), (self.out_features, self.in_features), bits)

    def load_codes(self, level: int) -> WeightCodes:
        """Return the codes, scales and offsets stored for a level."""
        stored_bits = STORE_BITS if self.layout.is_nested else level
        codes = self._unpack(stored_bits)
        return WeightCodes(leading_bits(codes, stored_bits, level), *self._scale_and_offset(level))

    def _scale_and_offset(self, level: int) -> tuple[Tensor, Tensor | None]:
        row = self.layout.bit_widths.index(level)
        offset = self.get_buffer("weight_offset")[row] if self.layout.has_offsets else None
        return self.get_buffer("weight_scale")[row], offset

    def copy_levels(self, source: nn.Module) -> None:
        """Take over, at the levels that both have, what a layer has that was quantized in the same way."""
        assert isinstance(source, MultiLevelLinear)
        shared = [bits for bits in self.layout.bit_widths if bits in source.layout.bit_widths]
        if shared and self.layout.is_nested:
            self.store_nested(source.load_nested())
        for bits in shared:
            self.store(bits, source.load_codes(bits))
            self.input.store(bits, **source.input.parameters_at(bits))

    def release(self) -> None:
        """Drop unpacked codes; the next use of a level unpacks them again."""
        self._prepared.clear()

    def narrow(self) -> None:
        """Keep the float weight in bfloat16 if that is enough, whatever it was loaded as."""
        if self.weight is not None and self.layout.needs_bf16_only:
            self.weight.data = self.weight.data.bfloat16()

    def _prepare(self, level: int) -> Tensor:
        """Return the codes, `(out, in)`, int8."""
        if level not in self._prepared:
            # What is made in inference mode could not be used outside it.
            with torch.inference_mode(False):
                self._prepared[level] = self.load_codes(level).codes
        return self._prepared[level]

    def forward(self, x: Tensor, level: Level) -> Tensor:
        """Map `(..., in)` to `(..., out)`: float32, or bfloat16 at "bf16"."""
        level = self.layout.computed_at(level)
        if level == "bf16":
            bias = None if self.bias is None else self.bias.bfloat16()
            return functional.linear(x.bfloat16(), self.float_weight.bfloat16(), bias)
        if isinstance(level, str):
            return functional.linear(x.to(self.float_weight.dtype), self.float_weight, self.bias)
        codes, (weight_scale, weight_offset) = self._prepare(level), self._scale_and_offset(level)
        result = linear_output(self.input(x, level), codes, weight_scale, weight_offset)
        return result if self.bias is None else result.add_(self.bias.float())

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "MultiLevelLinear":
        before = None if self.weight is None else self.weight.data
        super()._apply(fn, recurse)
        if before is not None and self.weight is not None and self.layout.needs_bf16_only:
            self.weight.data = before.to(self.weight.device)
            self.narrow()
        self.release()
        return self


def narrow_weights(model: nn.Module) -> None:
    """Keep float weights in bfloat16 wherever that is enough."""
    for module in model.modules():
        if isinstance(module, MultiLevelLinear):
            module.narrow()


def linear_output(terms: Iterable[Term], codes: Tensor, scale: Tensor, offset: Tensor | None) -> Tensor:
    """Return what a linear layer without a bias makes of quantized inputs.

    Args:
        terms: Of the input, codes `(..., in)` each.
        codes: Of the weight, `(out, in)`, int8.
        scale: Of the weight, `(out,)`.
        offset: Of the weight, `(out,)`; `None` means zeros.
    """
    result: Tensor | None = None
    for term in terms:
        part = code_products(term.codes, codes, term.lowest).mul_(scale * term.scale)
        if offset is not None:
            # The offset of a row meets every input alike, so it meets their sum.
            part += term.codes.sum(dim=-1, keepdim=True) * (offset * term.scale)
        result = part if result is None else result.add_(part)
    assert result is not None
    return result


def _frozen(tensor: Tensor) -> nn.Parameter:
    return nn.Parameter(tensor, requires_grad=False)


def _release_prepared(module: nn.Module, _incompatible_keys: object) -> None:
    """Drop what was unpacked from the weights that a state dict has just replaced."""
    assert isinstance(module, MultiLevelLinear)
    module.release()
