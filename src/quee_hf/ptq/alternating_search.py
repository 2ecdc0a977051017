"""PTQ4ViT's search: the scales of a product's two operands in turn, and the split of probabilities."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from quee_hf.ptq.exact_search import alternate, best_candidates
from quee_hf.ptq.method import Parameters
from quee_hf.quantization.activation import Term, TwinGeluQuantizer, TwinSoftmaxQuantizer, restore_terms
from quee_hf.quantization.affine import WeightCodes
from quee_hf.quantization.linear import MultiLevelLinear, linear_output

NUM_CANDIDATES = 100
SEARCH_ROUNDS = 3
SMALLEST_FACTOR, LARGEST_FACTOR = 0.01, 1.2  # of the scale that clips nothing
NUM_SPLITS = 20
GELU_MINIMUM = 0.16997  # the public code's constant, whatever the activation function
# Scales tried, relative to the one that clips nothing. The end of the range itself is never tried, as coded.
FACTORS = [
    SMALLEST_FACTOR + step * (LARGEST_FACTOR - SMALLEST_FACTOR) / NUM_CANDIDATES
    for step in range(NUM_CANDIDATES)
]
_NONE = -1  # no candidate: a search starts at the scale that clips nothing, which is none
_TINY = torch.finfo(torch.float32).tiny


class LinearData:
    """A layer's data, most important rows first; all levels share it."""

    def __init__(
        self, x: Tensor, weight: Tensor, root: Tensor, parts: Sequence[slice], target: MultiLevelLinear
    ) -> None:
        self.x, self.weight, self.root, self.parts = x, weight, root, parts
        self.output = x @ weight.t()
        num_matrices = 3 if target.layout.product == "qkv" else 1
        size = len(weight) // num_matrices
        self.matrices = [slice(start, start + size) for start in range(0, len(weight), size)]
        self.is_twin = isinstance(target.input, TwinGeluQuantizer)

    def loss(self, output: Tensor, rows: slice, columns: slice = slice(None)) -> Tensor:
        """Weighed squared error of an output (overwritten) on some rows, `(1,)`."""
        errors = output.sub_(self.output[rows, columns]).mul_(self.root[rows, columns]).flatten()
        return torch.dot(errors, errors).double()[None]


class LinearScales:
    """The scales of one linear layer at one bit-width."""

    def __init__(self, data: LinearData, bits: int, given: WeightCodes | None) -> None:
        self.data, self.bits, self.half, self.given = data, bits, 2 ** (bits - 1), given
        self.factors = torch.tensor(FACTORS, device=data.x.device)
        largest = torch.stack([data.weight[matrix].abs().amax() for matrix in data.matrices])
        self.full_weight = (largest / (self.half - 0.5)).clamp_min(_TINY)
        largest = data.x.amax() if data.is_twin else data.x.abs().amax()
        self.full_input = (largest / (self.half - 0.5)).clamp_min(_TINY)
        self.at_weight = torch.full((len(data.matrices),), _NONE, device=data.x.device)
        self.at_input = torch.full((1,), _NONE, device=data.x.device)
        # The first round starts at the scales that clip nothing.
        self.input_scale = self.full_input
        self.codes = given or self._weight_codes(self.full_weight)

    def run(self) -> tuple[WeightCodes, Parameters]:
        """Search, and return codes and the parameters of the input's quantizer."""
        steps = [self._improve_input] if self.given else [self._improve_weight, self._improve_input]
        alternate(SEARCH_ROUNDS, *steps)
        if self.data.is_twin:
            return self.codes, {"scale": self.input_scale, "negative_scale": self._negative_scale()}
        zero_point = torch.full_like(self.input_scale, self.half)
        return self.codes, {"scale": self.input_scale, "zero_point": zero_point}

    def _improve_weight(self) -> bool:
        before, terms = self.at_weight, self._input_terms(self.data.x, self.input_scale)
        found = [
            self._best_factor(terms, matrix, full)
            for matrix, full in zip(self.data.matrices, self.full_weight, strict=True)
        ]
        self.at_weight = torch.cat(found)
        self.codes = self._weight_codes(self.full_weight * self.factors[self.at_weight])
        return not torch.equal(before, self.at_weight)

    def _best_factor(self, terms: Sequence[Term], matrix: slice, full: Tensor) -> Tensor:
        data, weight = self.data, self.data.weight[matrix]

        def losses(candidate: int) -> Callable[[slice], Tensor]:
            scale = (full * self.factors[candidate]).expand(len(weight))
            codes = _weight_codes(weight, scale, self.bits)

            def on_rows(rows: slice) -> Tensor:
                part = [term._replace(codes=term.codes[rows]) for term in terms]
                return data.loss(_output(part, codes), rows, matrix)

            return on_rows

        return best_candidates(losses, data.parts, NUM_CANDIDATES)

    def _improve_input(self) -> bool:
        data, before = self.data, self.at_input

        def losses(candidate: int) -> Callable[[slice], Tensor]:
            scale = self.full_input * self.factors[candidate]

            def on_rows(rows: slice) -> Tensor:
                terms = self._input_terms(data.x[rows], scale)
                return data.loss(_output(terms, self.codes), rows)

            return on_rows

        self.at_input = best_candidates(losses, data.parts, NUM_CANDIDATES)
        self.input_scale = self.full_input * self.factors[self.at_input[0]]
        return not torch.equal(before, self.at_input)

    def _weight_codes(self, scales: Tensor) -> WeightCodes:
        by_row = scales.repeat_interleave(len(self.data.weight) // len(scales))
        return _weight_codes(self.data.weight, by_row, self.bits)

    def _negative_scale(self) -> Tensor:
        return torch.full_like(self.full_input, GELU_MINIMUM / self.half)

    def _input_terms(self, x: Tensor, scale: Tensor) -> tuple[Term, ...]:
        if not self.data.is_twin:
            return (Term(_signed(x, scale, self.bits), scale),)
        return TwinGeluQuantizer.terms(x, scale, self._negative_scale(), bits=self.bits)


def _signed(x: Tensor, scale: Tensor, bits: int) -> Tensor:
    half = 2 ** (bits - 1)
    return (x / scale).round_().clamp_(-half, half - 1)


def _weight_codes(weight: Tensor, scale: Tensor, bits: int) -> WeightCodes:
    return WeightCodes(_signed(weight, scale[:, None], bits).to(torch.int8), scale)


def _output(terms: Sequence[Term], weight: WeightCodes) -> Tensor:
    """Return what a layer gives, without its bias."""
    return linear_output(
        # All codes are signed numbers of 8 bits: nothing needs to be shifted.
        [term._replace(lowest=-128) for term in terms],
        weight.codes,
        weight.scale,
        weight.offset,
    )


class MatmulScales:
    """The scales of both operands of a matrix product, per head, at one bit-width."""

    def __init__(
        self,
        left: Tensor,
        right: Tensor,
        importance: Tensor,
        parts: Sequence[slice],
        bits: int,
    ) -> None:
        self.left, self.right, self.importance, self.parts = left, right, importance, parts
        self.bits, self.half = bits, 2 ** (bits - 1)
        self.output, self.factors = left @ right, torch.tensor(FACTORS, device=left.device)
        self.full_left, self.full_right = (
            (x.abs().amax(dim=(0, 2, 3)) / (self.half - 0.5)).clamp_min(_TINY)[:, None, None]
            for x in (left, right)
        )
        self.at_left = self.at_right = torch.full((left.shape[1],), _NONE, device=left.device)
        self.left_scale, self.right_scale = self.full_left, self.full_right
        self.rounded_left = left

    def run(self) -> tuple[Parameters, Parameters]:
        """Search, and return the parameters of both quantizers."""
        alternate(SEARCH_ROUNDS, self._improve_left, self._improve_right)
        return self._left_parameters(), self._parameters(self.right_scale)

    def _left_parameters(self) -> Parameters:
        return self._parameters(self.left_scale)

    def _parameters(self, scale: Tensor) -> Parameters:
        return {"scale": scale, "zero_point": torch.full_like(scale, self.half)}

    def _improve_left(self) -> bool:
        before, rounded_right = self.at_left, self._round(self.right, self.right_scale)

        def losses(candidate: int) -> Callable[[slice], Tensor]:
            scale = self.full_left * self.factors[candidate]
            return lambda rows: self._losses(self._round(self.left[rows], scale), rounded_right[rows], rows)

        self.at_left = best_candidates(losses, self.parts, NUM_CANDIDATES)
        self.left_scale = self.full_left * self.factors[self.at_left][:, None, None]
        self.rounded_left = self._round(self.left, self.left_scale)
        return not torch.equal(before, self.at_left)

    def _improve_right(self) -> bool:
        before = self.at_right

        def losses(candidate: int) -> Callable[[slice], Tensor]:
            scale = self.full_right * self.factors[candidate]
            return lambda rows: self._losses(
                self.rounded_left[rows], self._round(self.right[rows], scale), rows
            )

        self.at_right = best_candidates(losses, self.parts, NUM_CANDIDATES)
        self.right_scale = self.full_right * self.factors[self.at_right][:, None, None]
        return not torch.equal(before, self.at_right)

    def _round(self, x: Tensor, scale: Tensor) -> Tensor:
        return _signed(x, scale, self.bits).mul_(scale)

    def _losses(self, left: Tensor, right: Tensor, rows: slice) -> Tensor:
        errors = (left @ right).sub_(self.output[rows]).square_().mul_(self.importance[rows])
        return errors.sum(dim=(0, 2, 3)).double()


class SplitScales(MatmulScales):
    """The split of attention probabilities, one for all heads, and the values' scales."""

    def __init__(self, left: Tensor, *data: Any) -> None:
        super().__init__(left, *data)
        self.at_left = torch.full((1,), _NONE, device=left.device)

    def _left_parameters(self) -> Parameters:
        return {"exponent": self.at_left[0]}

    def _improve_left(self) -> bool:
        before = self.at_left

        def losses(candidate: int) -> Callable[[slice], Tensor]:
            # As coded, the split is searched with values in full precision.
            return lambda rows: self._losses(
                self._round_split(self.left[rows], candidate), self.right[rows], rows
            ).sum()[None]

        self.at_left = best_candidates(losses, self.parts, NUM_SPLITS)
        self.rounded_left = self._round_split(self.left, int(self.at_left))
        return not torch.equal(before, self.at_left)

    def _round_split(self, x: Tensor, exponent: int) -> Tensor:
        split = torch.tensor(exponent, device=x.device)
        return restore_terms(TwinSoftmaxQuantizer.terms(x, split, self.bits))
