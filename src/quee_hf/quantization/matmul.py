"""`MultiLevelMatmul`: a product of two activations that can be computed at several levels."""

from collections.abc import Sequence

from torch import Tensor, nn

from quee_hf.levels import Level
from quee_hf.quantization.activation import ActivationQuantizer


class MultiLevelMatmul(nn.Module):
    """Multiply two activations, both quantized at integer levels.

    Args:
        levels: The model's levels.
        is_quantized: Whether the integer levels have ranges yet.
    """

    def __init__(self, levels: Sequence[Level], *, is_quantized: bool) -> None:
        super().__init__()
        self.left = ActivationQuantizer(levels, is_quantized=is_quantized)
        self.right = ActivationQuantizer(levels, is_quantized=is_quantized)

    def forward(self, left: Tensor, right: Tensor, level: Level) -> Tensor:
        """Map `(..., n, k)` and `(..., k, m)` to `(..., n, m)`."""
        if isinstance(level, str):
            return left @ right
        products: Tensor = self.left(left, level) @ self.right(right, level)
        return products.mul_(self.left.scale(level) * self.right.scale(level))
