"""`MultiLevelMatmul`: a product of two activations that can be computed at several levels."""

from torch import Tensor, nn

from quee_hf.levels import Level
from quee_hf.quantization.activation import QUANTIZERS
from quee_hf.quantization.layout import ProductLayout


class MultiLevelMatmul(nn.Module):
    """Multiply two activations, both quantized at integer levels.

    Args:
        layout: At which levels it is computed.
        num_heads: Size of the second dimension of both operands.
        left_kind: Of `QUANTIZERS`, for the left operand; the right one's steps are uniform.
    """

    def __init__(self, layout: ProductLayout, num_heads: int, left_kind: str = "uniform") -> None:
        super().__init__()
        self.layout = layout
        heads = num_heads if layout.is_per_head else None
        # Splits and bases suit all heads alike, as in the papers they are from.
        self.left = QUANTIZERS[left_kind](layout.bit_widths, heads if left_kind == "uniform" else None)
        self.right = QUANTIZERS["uniform"](layout.bit_widths, heads)

    def copy_levels(self, source: nn.Module) -> None:
        """Take over, at the levels that both have, what a product has that was quantized in the same way."""
        assert isinstance(source, MultiLevelMatmul)
        for bits in (bits for bits in self.layout.bit_widths if bits in source.layout.bit_widths):
            self.left.store(bits, **source.left.parameters_at(bits))
            self.right.store(bits, **source.right.parameters_at(bits))

    def forward(self, left: Tensor, right: Tensor, level: Level) -> Tensor:
        """Map `(batch, heads, n, k)` and `(batch, heads, k, m)` to `(batch, heads, n, m)`."""
        level = self.layout.computed_at(level)
        if level == "bf16":
            return left.bfloat16() @ right.bfloat16()
        if isinstance(level, str):
            return left.float() @ right.float() if left.dtype != right.dtype else left @ right
        result: Tensor | None = None
        (right_term,) = self.right(right, level)
        for term in self.left(left, level):
            products: Tensor = (term.codes @ right_term.codes).mul_(term.scale * right_term.scale)
            result = products if result is None else result + products
        assert result is not None
        return result
