"""`torch_dynamic`: PyTorch's own dynamic quantization, the baseline of LRA-EE."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from quee_hf.ptq.method import LinearSearch, MatmulSearch, Parameters, PTQMethod
from quee_hf.ptq.observation import Seen
from quee_hf.quantization.affine import WeightCodes
from quee_hf.quantization.linear import MultiLevelLinear
from quee_hf.quantization.matmul import MultiLevelMatmul


@dataclass(frozen=True)
class TorchDynamic(PTQMethod):
    """What `torch.ao.quantization.quantize_dynamic` does to linear layers, at any bit-width.

    Weights are symmetric with one scale per matrix (queries, keys and values are three), inputs have the
    range of the image at hand, and products of activations stay float32. At 8 bits and batch size 1 it gives
    what PyTorch gives on x86 (at larger batches PyTorch takes the range of the whole batch). Other widths
    follow the same rule. Calibration images do not matter.

    Source:
        Baseline of LRA-EE (arXiv:2605.26415).
    """

    name: ClassVar[str] = "torch_dynamic"

    def layout(self) -> dict[str, Any]:
        """Return that inputs are dynamic and attention is not quantized."""
        return {"activations": "dynamic", "kept": {"*.scores": "fp32", "*.mix": "fp32"}}

    def prepare_linear(self, target: MultiLevelLinear, weight: Tensor, seen: Seen, seed: int) -> LinearSearch:
        """Return a function that gives each matrix the scale of its largest weight."""
        matrices = weight.chunk(3 if target.layout.product == "qkv" else 1)

        def search(bits: int, given: WeightCodes | None) -> tuple[WeightCodes, Parameters]:
            largest = torch.stack([matrix.abs().amax() for matrix in matrices])
            scale = largest.clamp_min(torch.finfo(torch.float32).eps) / ((2**bits - 1) / 2)
            rows = scale.repeat_interleave(len(matrices[0]))
            half = 2 ** (bits - 1)
            # PyTorch multiplies by the inverse: the largest weight lies on a tie, where that matters.
            codes = (weight * rows.reciprocal()[:, None]).round_().clamp_(-half, half - 1)
            return given or WeightCodes(codes.to(torch.int8), rows), {}

        return search

    def prepare_matmul(self, target: MultiLevelMatmul, seen: Seen, seed: int) -> MatmulSearch:
        """Refuse: products of activations stay float32."""
        raise ValueError("`torch_dynamic` keeps products of activations in float32.")
