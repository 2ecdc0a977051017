"""`ProductLayout`: which levels one product of a model is computed at, and what it stores for them."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from quee_hf.levels import Level, is_integer_level
from quee_hf.schemes import QuantizationScheme

STORE_BITS = 8  # of the one store that nested levels share


@dataclass(frozen=True)
class ProductLayout:
    """How one product of a block is computed at each of the model's levels.

    Args:
        levels: The model's levels.
        scheme: How the model was quantized; `None` before it is.
        block: Of the product, counted from 1.
        product: One of `quee_hf.schemes.PRODUCTS`.
    """

    levels: Sequence[Level]
    scheme: QuantizationScheme | None = None
    block: int = 1
    product: str = "qkv"

    def computed_at(self, level: Level) -> Level:
        """Return the level at which the product is computed when the model runs at `level`."""
        return self._kept if self._kept is not None and is_integer_level(level) else level

    # Derived once: every forward pass asks for these.
    @cached_property
    def _kept(self) -> Level | None:
        return None if self.scheme is None else self.scheme.kept_level(self.block, self.product)

    @cached_property
    def bit_widths(self) -> list[int]:
        """The integer levels it is computed at, descending; none before quantization."""
        if self.scheme is None:
            return []
        at = {self.computed_at(level) for level in self.levels}
        return sorted((int(level) for level in at if is_integer_level(level)), reverse=True)

    @property
    def needs_float(self) -> bool:
        """Whether it needs float weights."""
        return self.scheme is None or bool(self._float_levels)

    @property
    def needs_bf16_only(self) -> bool:
        """Whether float weights of bfloat16 are enough."""
        return self.scheme is not None and self._float_levels == {"bf16"}

    @cached_property
    def _float_levels(self) -> set[str]:
        return {level for level in map(self.computed_at, self.levels) if isinstance(level, str)}

    @property
    def is_nested(self) -> bool:
        """Whether its levels share one store of codes."""
        return self.scheme is not None and self.scheme.weight_sharing == "nested"

    @property
    def has_offsets(self) -> bool:
        """Whether code 0 may stand for another weight than 0."""
        return self.scheme is not None and (self.is_nested or self.scheme.weights == "asymmetric")

    @property
    def input_kind(self) -> str:
        """Kind of the quantizer of a linear layer's input; what follows GELU may have its own."""
        return "dynamic" if self.scheme is not None and self.scheme.activations == "dynamic" else "uniform"

    @property
    def gelu_kind(self) -> str:
        """Kind of the quantizer of what an ungated MLP's activation function returns."""
        kinds = {"twin": "twin_gelu", "log": "log"}
        return self.input_kind if self.scheme is None else kinds.get(self.scheme.gelu, self.input_kind)

    @property
    def softmax_kind(self) -> str:
        """Kind of the quantizer of attention probabilities."""
        kinds = {"twin": "twin_softmax", "log": "log"}
        return "uniform" if self.scheme is None else kinds.get(self.scheme.softmax, "uniform")

    @property
    def is_per_head(self) -> bool:
        """Whether each head has ranges of its own."""
        return self.scheme is not None and self.scheme.per_head
