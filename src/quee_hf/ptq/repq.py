"""`repq`: norms re-parameterised for one range, asymmetric weights, ranges by what they do to outputs."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from quee_hf.backbones.block import Block
from quee_hf.ptq.method import LinearSearch, MatmulSearch, Parameters, PTQMethod
from quee_hf.ptq.observation import Seen
from quee_hf.ptq.ranges import (
    sample_points,
    search_parameters,
    search_weight_range,
)
from quee_hf.ptq.smoothquant import fold_channels
from quee_hf.quantization.activation import ActivationQuantizer
from quee_hf.quantization.affine import WeightCodes
from quee_hf.quantization.layout import STORE_BITS
from quee_hf.quantization.linear import MultiLevelLinear
from quee_hf.quantization.matmul import MultiLevelMatmul

_FEW_TOKENS = 100  # so many are believed half


@dataclass(frozen=True)
class RepQ(PTQMethod):
    """Calibrate-only quantization without gradients; the default.

    1. Each norm is re-parameterised so that all its channels share one range, and the linear layer after it
       undoes that. The network computes the same, but one scale now suits every channel.
    2. Weights have a scale and an offset per row, searched for the least error of the layer's output; an
       offset is a whole number of steps, and 0 at 8 bits.
    3. Ranges of a layer's input are searched coarse to fine; an error in a channel counts as much as the
       weights that read it. Queries, keys, values and probabilities have ranges per head.

    What a handful of tokens show of channels' ranges and correlations is believed in part only, so that one
    image is enough for 8 bits; from 1,000 tokens on this changes nothing that can be measured.

    Args:
        ridge: Strength of a ridge regression that corrects weights for the rounding of their inputs, relative
            to the inputs' mean square; 0 leaves them. 0.01 helps below 6 bits.
        log: Whether probabilities and what GELU returns get logarithmic steps; more accurate at few bits, but
            no integer kernel computes with them.

    Source:
        Li et al. 2023 (RepQ-ViT, arXiv:2212.08254), Eq. (8)-(12); the correction is from Zhong et al. 2024
        (ERQ, arXiv:2407.06794), the logarithmic steps from AdaLog (arXiv:2407.12951). Unlike RepQ-ViT,
        which keeps the ranges of log steps for all widths, softmax has uniform steps unless asked.
    """

    name: ClassVar[str] = "repq"
    ridge: float = 0.0
    log: bool = False

    def __post_init__(self) -> None:
        """Check the options."""
        if not self.ridge >= 0:
            raise ValueError(f"`ridge` must be at least 0, got {self.ridge}.")

    def layout(self) -> dict[str, Any]:
        """Return that weights have offsets and heads have ranges."""
        logs = {"softmax": "log", "gelu": "log"} if self.log else {}
        return {"weights": "asymmetric", "per_head": True, **logs}

    @torch.no_grad()
    def fold(self, block: Block, seen: dict[str, Seen], *, is_smoothed: bool) -> None:
        """Align the channels' ranges; if they have been smoothed, their lower ends only."""
        _align(block.norm1, block.attention.qkv, seen["qkv"].rows, keep_scales=is_smoothed)
        _align(block.norm2, block.mlp.fc1, seen["fc1"].rows, keep_scales=is_smoothed)

    def prepare_linear(self, target: MultiLevelLinear, weight: Tensor, seen: Seen, seed: int) -> LinearSearch:
        """Return a search over the input's range first, then over the weight's."""
        rows = seen.rows
        gram = _shrink(rows.T @ rows / len(rows), len(rows))
        # What an error in a channel of the input adds to the squared error of the output.
        points = sample_points(rows, weight.square().sum(dim=0), seed=seed)

        # At 8 bits offsets gain nothing, and integer kernels would have to mend them. (Of a store of which
        # other levels are the leading bits they do gain.)
        def search_weight(weight: Tensor, gram: Tensor, bits: int) -> WeightCodes:
            is_symmetric = bits == STORE_BITS and not target.layout.is_nested
            return search_weight_range(weight, gram, bits, is_symmetric=is_symmetric)

        def search(bits: int, given: WeightCodes | None) -> tuple[WeightCodes, Parameters]:
            parameters = search_parameters(target.input, points, bits)
            if given is not None:
                return given, parameters
            if self.ridge == 0:
                return search_weight(weight, gram, bits), parameters
            rounded = _restore(target.input, seen.inputs[0], parameters, bits).flatten(0, -2)
            rounded_gram = rounded.T @ rounded / len(rounded)
            corrected = _correct(weight, rows, rounded, rounded_gram, self.ridge)
            return search_weight(corrected, _shrink(rounded_gram, len(rows)), bits), parameters

        return search

    def prepare_matmul(self, target: MultiLevelMatmul, seen: Seen, seed: int) -> MatmulSearch:
        """Return a search over the ranges of both operands, per head where they are."""
        sides = [
            (quantizer, [sample_points(part, seed=seed) for part in _parts(quantizer, operand)])
            for quantizer, operand in zip((target.left, target.right), seen.inputs, strict=True)
        ]

        def search(bits: int) -> tuple[Parameters, Parameters]:
            left, right = (
                _join([search_parameters(quantizer, part, bits) for part in parts], quantizer)
                for quantizer, parts in sides
            )
            return left, right

        return search


def _align(norm: nn.LayerNorm, linear: MultiLevelLinear, rows: Tensor, *, keep_scales: bool) -> None:
    """Give all channels the same range (the same lower end, if scales are kept).

        scale_c = range_c / mean range;  shift_c such that (low_c + shift_c) / scale_c is the same for all c

    (of few tokens, that to a power below 1). Both are independent of the bit-width: RepQ-ViT's ratio of
    scales is this ratio of ranges, and its shift of zero points is this shift, except that it rounds zero
    points first.
    """
    low, high = rows.amin(dim=0), rows.amax(dim=0)
    spread = (high - low).clamp_min(1e-3 * (high - low).mean() + 1e-12)
    # Ranges of few tokens are known badly: the fewer there are, the more alike channels are taken to be.
    trust = _trust(len(rows), _FEW_TOKENS)
    factor = torch.ones_like(spread) if keep_scales else (spread / spread.mean()) ** trust
    shift = None
    if linear.bias is not None:
        shift = (low / factor).mean() * factor - low
    fold_channels(norm, linear, factor, shift)


def _shrink(gram: Tensor, num_rows: int) -> Tensor:
    """Pull a mean outer product of few rows towards its diagonal."""
    trust = _trust(num_rows, len(gram) / 4)
    shrunk: Tensor = trust * gram
    shrunk.diagonal().add_((1 - trust) * gram.diagonal())
    return shrunk


def _trust(num_rows: int, half: float) -> float:
    """How far what `num_rows` tokens show is believed, 0 to 1; `half` of them are believed half."""
    return num_rows**2 / (num_rows**2 + half**2)


def _restore(quantizer: ActivationQuantizer, x: Tensor, parameters: Parameters, bits: int) -> Tensor:
    """Round `x` with parameters that the quantizer does not have yet."""
    trial = type(quantizer)([bits]).to(x.device)
    trial.store(bits, **parameters)
    return trial.restore(x, bits)


def _correct(weight: Tensor, rows: Tensor, rounded: Tensor, gram: Tensor, ridge: float) -> Tensor:
    """Return the weight that on rounded inputs comes closest to what the exact one gives on exact inputs."""
    strength = ridge * gram.diagonal().mean() + 1e-12
    wanted = rounded.T @ ((rounded - rows) @ weight.T) / len(rows)  # (in, out)
    step = torch.linalg.solve(gram + strength * torch.eye(len(gram), device=gram.device), wanted)
    corrected: Tensor = weight - step.T
    return corrected


def _parts(quantizer: ActivationQuantizer, operand: Tensor) -> list[Tensor]:
    return [operand] if quantizer.num_heads is None else list(operand.unbind(dim=1))


def _join(found: list[Parameters], quantizer: ActivationQuantizer) -> Parameters:
    """Stack the parameters of the heads to `(heads, 1, 1)`; those of all together stay scalars."""
    if quantizer.num_heads is None:
        return found[0]
    return {name: torch.stack([one[name] for one in found])[:, None, None] for name in found[0]}
