"""`min_max`: nothing is clipped."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from quee_hf.ptq.method import LinearSearch, MatmulSearch, Parameters, PTQMethod
from quee_hf.ptq.observation import Seen
from quee_hf.ptq.ranges import uniform_parameters
from quee_hf.quantization.affine import WeightCodes, quantize_weight
from quee_hf.quantization.linear import MultiLevelLinear
from quee_hf.quantization.matmul import MultiLevelMatmul


@dataclass(frozen=True)
class MinMax(PTQMethod):
    """Symmetric weights, one scale per row; activations over everything that the calibration images gave."""

    name: ClassVar[str] = "min_max"

    def prepare_linear(self, target: MultiLevelLinear, weight: Tensor, seen: Seen, seed: int) -> LinearSearch:
        """Return a function that spreads the codes over the full ranges."""

        def search(bits: int, given: WeightCodes | None) -> tuple[WeightCodes, Parameters]:
            largest = weight.abs().amax(dim=1) / (2 ** (bits - 1) - 1)
            scale = largest.where(largest > 1e-30, largest.new_ones(()))
            return given or quantize_weight(weight, scale, bits), _full_range(seen.inputs[0], bits)

        return search

    def prepare_matmul(self, target: MultiLevelMatmul, seen: Seen, seed: int) -> MatmulSearch:
        """Return a function that spreads the codes over the full ranges."""
        left, right = seen.inputs
        return lambda bits: (_full_range(left, bits), _full_range(right, bits))


def _full_range(x: Tensor, bits: int) -> Parameters:
    return uniform_parameters(x.amin(), x.amax(), bits)
