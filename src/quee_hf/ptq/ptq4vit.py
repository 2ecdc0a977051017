"""`ptq4vit`: symmetric scales by alternating search, gradients as weights, twin ranges."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from quee_hf.ptq.alternating_search import LinearData, LinearScales, MatmulScales, SplitScales
from quee_hf.ptq.exact_search import split_rows
from quee_hf.ptq.gradients import GRADIENT_SOURCES
from quee_hf.ptq.method import LinearSearch, MatmulSearch, PTQMethod
from quee_hf.ptq.observation import Seen
from quee_hf.quantization.activation import TwinSoftmaxQuantizer
from quee_hf.quantization.linear import MultiLevelLinear
from quee_hf.quantization.matmul import MultiLevelMatmul


@dataclass(frozen=True)
class PTQ4ViT(PTQMethod):
    """Post-training quantization for vision transformers as published.

    Symmetric scales: one per weight matrix (queries, keys and values are three), one per layer input, one per
    head for the operands of attention. They are searched in turn, three rounds of 100 candidates each,
    for the least error of the product's output, weighed by squared gradients. Attention
    probabilities and what GELU returns have two ranges.

    Unlike the public code, norms, embeddings and heads stay float, the gradient is by default one that is
    not zero in exact arithmetic, and the ranges after softmax are those of the paper (the code adds both
    parts of a number above the split).

    Args:
        gradient_source: "fisher" (labels sampled from the model), "as_coded" (rounding noise, as in the
            public code) or "perturbed" (differences of gradients). See `quee_hf.ptq.gradients`.

    Source:
        Yuan et al. 2022 (PTQ4ViT, arXiv:2111.12293), §3; its public code for candidates and rounds.
    """

    name: ClassVar[str] = "ptq4vit"
    gradient_source: str = "fisher"

    def __post_init__(self) -> None:
        """Check the options."""
        if self.gradient_source not in GRADIENT_SOURCES:
            raise ValueError(
                f"`gradient_source` must be one of {sorted(GRADIENT_SOURCES)}, got {self.gradient_source!r}."
            )

    @property
    def gradients(self) -> str:
        """Which gradients it needs."""
        return self.gradient_source

    def layout(self) -> dict[str, Any]:
        """Return that heads have ranges and softmax and GELU have two."""
        return {"softmax": "twin", "gelu": "twin", "per_head": True}

    def _importance(self, seen: Seen) -> Tensor:
        """Return what a squared error of each output counts, `(images, ...)`."""
        assert seen.gradient is not None
        gradient = _scaled(seen.gradient)
        if self.gradient_source == "perturbed":
            # A difference of gradients is a second derivative already; its mean over images is steadier.
            return gradient.abs().mean(dim=0, keepdim=True).expand_as(gradient)
        return gradient.square()

    def prepare_linear(self, target: MultiLevelLinear, weight: Tensor, seen: Seen, seed: int) -> LinearSearch:
        """Return the alternating search over the scales of weight and input."""
        importance = self._importance(seen).flatten(0, -2)
        order, parts = _by_importance(importance)
        data = LinearData(seen.rows[order], weight, importance[order].sqrt(), parts, target)
        return lambda bits, given: LinearScales(data, bits, given).run()

    def prepare_matmul(self, target: MultiLevelMatmul, seen: Seen, seed: int) -> MatmulSearch:
        """Return the alternating search over the scales, or the split, of both operands."""
        importance = self._importance(seen)
        order, parts = _by_importance(importance)
        left, right = (operand[order] for operand in seen.inputs)
        kind = SplitScales if isinstance(target.left, TwinSoftmaxQuantizer) else MatmulScales
        return lambda bits: kind(left, right, importance[order], parts, bits).run()


def _scaled(gradient: Tensor) -> Tensor:
    """Scale gradients by a power of two, which rounds nothing, so that their squares do not vanish.

    Where a model is so sure that all are zero, every error counts the same.
    """
    largest = gradient.abs().amax()
    if not largest:
        return torch.ones_like(gradient)
    exponent = min(126, -int(torch.frexp(largest).exponent))  # 2 ** 127 is the last power in float32
    return gradient * float(2**exponent) if exponent >= 0 else gradient / float(2**-exponent)


def _by_importance(importance: Tensor) -> tuple[Tensor, list[slice]]:
    """Return the order of rows, the most important first, and the parts into which a search cuts them."""
    ordered, order = importance.flatten(1).sum(dim=1).sort(descending=True)
    return order, split_rows(ordered)
