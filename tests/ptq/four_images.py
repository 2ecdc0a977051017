"""One block of a tiny model, quantized from four images, and what its products saw as NumPy arrays."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from tests.tiny import VARIANTS, images, wrap
from torch import Tensor

from quee_hf import QuEEForImageClassification, quantize
from quee_hf.ptq.calibration import Calibration
from quee_hf.ptq.observation import Seen
from quee_hf.quantization.linear import MultiLevelLinear
from quee_hf.quantization.matmul import MultiLevelMatmul

LINEARS = ("qkv", "output", "fc1", "fc2")
MATMULS = ("scores", "mix")
LEVELS = (8, 4, 3)


@dataclass(frozen=True)
class FourImages:
    """A quantized model of one block and the calibration that it was made from."""

    model: QuEEForImageClassification
    calibration: Calibration

    @cached_property
    def seen(self) -> dict[str, Seen]:
        return self.calibration.observe(1)

    def product(self, name: str) -> Any:
        """The quantized module."""
        return self.model.trunk.blocks[0].products[name]

    def weight(self, name: str) -> np.ndarray:
        """The float weight that was quantized."""
        return self.calibration.blocks[0].products[name].float_weight.detach().numpy()

    def rows(self, name: str) -> np.ndarray:
        return self.seen[name].rows.numpy()

    def operands(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        left, right = self.seen[name].inputs
        return left.numpy(), right.numpy()

    def sides(self) -> Iterator[tuple[Any, Tensor]]:
        """Every quantizer of an operand of attention, and the operand."""
        for name in MATMULS:
            product = self.product(name)
            assert isinstance(product, MultiLevelMatmul)
            yield from zip((product.left, product.right), self.seen[name].inputs, strict=True)

    def inputs(self) -> Iterator[tuple[str, Any, Tensor]]:
        """Every linear layer's name, its input's quantizer, and its input."""
        for name in LINEARS:
            product = self.product(name)
            assert isinstance(product, MultiLevelLinear)
            yield name, product.input, self.seen[name].inputs[0]


def quantized(method: str, variant: str = "vit", levels: Any = LEVELS, **options: Any) -> FourImages:
    kind = VARIANTS[variant]
    model = wrap(kind.build(num_blocks=1), levels=list(levels))
    calibration = quantize(model, images(4, kind.image_size), method=method, **options)
    return FourImages(model, calibration)


def importance(calibrated: FourImages, name: str) -> np.ndarray:
    """Squared gradients of a product's output."""
    gradient = calibrated.seen[name].gradient
    assert gradient is not None
    return gradient.double().square().numpy()


def uniform_parameters(quantizer: Any, bits: int) -> tuple[np.ndarray, np.ndarray]:
    """Scale and zero point stored for a level."""
    stored = quantizer.parameters_at(bits)
    return stored["scale"].numpy(), stored["zero_point"].numpy()
