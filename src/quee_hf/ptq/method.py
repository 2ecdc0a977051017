"""`PTQMethod`: what a post-training quantization method decides."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

from torch import Tensor

from quee_hf.backbones.block import Block
from quee_hf.ptq.observation import Seen
from quee_hf.quantization.affine import WeightCodes
from quee_hf.quantization.linear import MultiLevelLinear
from quee_hf.quantization.matmul import MultiLevelMatmul

Parameters = dict[str, Tensor]  # of an activation quantizer at one level
# Find, at a bit-width, codes of a linear layer's weight and parameters of its input's quantizer. If codes are
# given, they are taken as they are.
LinearSearch = Callable[[int, WeightCodes | None], tuple[WeightCodes, Parameters]]
# Find, at a bit-width, parameters of both quantizers of a matrix product.
MatmulSearch = Callable[[int], tuple[Parameters, Parameters]]


@dataclass(frozen=True)
class PTQMethod(ABC):
    """Chooses codes and ranges for the products of a trunk; its fields are its options."""

    name: ClassVar[str]

    @property
    def gradients(self) -> str | None:
        """Which gradients it needs, of `quee_hf.ptq.gradients.GRADIENT_SOURCES`; `None` for none."""
        return None

    def layout(self) -> dict[str, Any]:
        """Return the fields of `QuantizationScheme` in which its tensors differ from the default."""
        return {}

    def options(self) -> dict[str, Any]:
        """Return its options, for the record."""
        return asdict(self)

    def fold(self, block: Block, seen: dict[str, Seen], *, is_smoothed: bool) -> None:
        """Re-parameterise a float block, in place, so that it quantizes better but computes the same.

        Args:
            block: To change.
            seen: What its products see.
            is_smoothed: Whether channels have already been given their scales.
        """
        return None

    @abstractmethod
    def prepare_linear(self, target: MultiLevelLinear, weight: Tensor, seen: Seen, seed: int) -> LinearSearch:
        """Do what all levels share and return the search for one level.

        Args:
            target: The layer to quantize; it is not changed.
            weight: `(out, in)`, float32.
            seen: What the layer sees.
            seed: Of random samples.
        """

    @abstractmethod
    def prepare_matmul(self, target: MultiLevelMatmul, seen: Seen, seed: int) -> MatmulSearch:
        """Do the same for a product of two activations."""
