"""`mse`: ranges that minimise the squared rounding error of each weight row and each activation tensor."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from quee_hf.ptq.method import LinearSearch, MatmulSearch, Parameters, PTQMethod
from quee_hf.ptq.observation import Seen
from quee_hf.ptq.ranges import sample_points, search_parameters, search_weight_scale
from quee_hf.quantization.affine import WeightCodes, quantize_weight
from quee_hf.quantization.linear import MultiLevelLinear
from quee_hf.quantization.matmul import MultiLevelMatmul


@dataclass(frozen=True)
class MSE(PTQMethod):
    """Symmetric weights, one scale per row; asymmetric activations, one range per tensor."""

    name: ClassVar[str] = "mse"

    def prepare_linear(self, target: MultiLevelLinear, weight: Tensor, seen: Seen, seed: int) -> LinearSearch:
        """Return a search over scales of the weight and ranges of the input, apart from each other."""
        points = sample_points(seen.inputs[0], seed=seed)

        def search(bits: int, given: WeightCodes | None) -> tuple[WeightCodes, Parameters]:
            codes = given or quantize_weight(weight, search_weight_scale(weight, bits), bits)
            return codes, search_parameters(target.input, points, bits)

        return search

    def prepare_matmul(self, target: MultiLevelMatmul, seen: Seen, seed: int) -> MatmulSearch:
        """Return a search over the ranges of both operands, apart from each other."""
        left, right = (sample_points(operand, seed=seed) for operand in seen.inputs)
        return lambda bits: (
            search_parameters(target.left, left, bits),
            search_parameters(target.right, right, bits),
        )
