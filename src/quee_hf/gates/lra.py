"""The LRA-EE gates: P(this exit is right), and how high it must be to leave here."""

from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from quee_hf.gates.features import GATE_FEATURES
from quee_hf.gates.spec import GateSpec

MAX_SETTINGS = 64  # lambdas for which thresholds can be kept; the last is infinity
_LARGEST = torch.finfo(torch.float32).max  # stands for lambdas that are not used: files hold finite numbers
NEVER = 2.0  # a threshold that no probability reaches


class LRAGates(nn.Module):
    """One linear layer and a sigmoid for each exit but the last, and thresholds for several lambdas.

        right(exit) = sigmoid(w . [confidence, margin, spatial variance] + b)

    An image leaves at the first exit whose value reaches the exit's threshold. Thresholds are those of the
    largest lambda, of those kept, that is not above the one asked for; until they are fitted nothing leaves.

    Args:
        spec: What they are built from; levels and paths have no part in it.

    Source:
        LRA-EE (arXiv:2605.26415), §4.3 and §4.4.
    """

    lambdas: Tensor
    thresholds: Tensor

    def __init__(self, spec: GateSpec) -> None:
        super().__init__()
        self.features, self.num_labels = spec.features, spec.num_labels
        gates = range(1, spec.num_exits)
        self.layers = nn.ModuleDict(
            {
                str(gate): nn.Linear(GATE_FEATURES[spec.features].size(spec.num_labels, gate), 1)
                for gate in gates
            }
        )
        self.register_buffer("lambdas", torch.full((MAX_SETTINGS,), _LARGEST))
        self.register_buffer("thresholds", torch.full((MAX_SETTINGS, len(gates)), NEVER))

    @property
    def numbers(self) -> list[int]:
        """The gates there are, by the number of segments run."""
        return [int(gate) for gate in self.layers]

    def logits(self, gate: int, seen: Tensor) -> Tensor:
        """Map summaries of the exits passed, `(..., gate, summary)`, to the logit of being right, `(...)`.

        Of gate 0, which no exit comes before, it is not a number.
        """
        if not gate:
            return seen.new_full(seen.shape[:-2], torch.nan)
        layer = cast(nn.Linear, self.layers[str(gate)])
        logits: Tensor = layer(self.describe(seen).to(layer.weight.dtype)).float().squeeze(-1)
        return logits

    def suit_other_classes(self, num_labels: int) -> bool:
        """Tell whether they may be kept when there are other classes, so many.

        They may if they look at how sure an exit is, and not of which class.
        """
        kind = GATE_FEATURES[self.features]
        return not kind.is_by_class and all(
            kind.size(num_labels, gate) == kind.size(self.num_labels, gate) for gate in self.numbers
        )

    def describe(self, seen: Tensor) -> Tensor:
        """Map summaries of the exits passed, `(..., gate, summary)`, to a gate's features."""
        return GATE_FEATURES[self.features].features(seen, self.num_labels)

    @torch.no_grad()
    def set_layer(self, gate: int, weight: Tensor, bias: float) -> None:
        """Give a gate its weights, `(features,)`."""
        layer = cast(nn.Linear, self.layers[str(gate)])
        layer.weight.copy_(weight[None])
        layer.bias.fill_(bias)

    def threshold(self, gate: int, cost_lambda: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return what the sigmoid must reach for an image to leave, `(batch,)`, for lambdas `(batch,)`."""
        lambdas, thresholds = (x.float().numpy(force=True) for x in (self.lambdas, self.thresholds))
        return threshold_at(lambdas, thresholds[:, gate - 1], cost_lambda)

    @torch.no_grad()
    def set_thresholds(self, lambdas: Tensor, thresholds: Tensor) -> None:
        """Keep thresholds.

        Args:
            lambdas: `(settings,)`, ascending, fewer than `MAX_SETTINGS`; at infinity all leave at once.
            thresholds: `(settings, exits - 1)`; above 1 nothing leaves.
        """
        count = len(lambdas)
        if not 1 <= count < MAX_SETTINGS or not bool((lambdas.diff() > 0).all()):
            raise ValueError(
                f"There must be 1 to {MAX_SETTINGS - 1} lambdas, ascending, got {lambdas.tolist()}."
            )
        self.lambdas.fill_(_LARGEST)
        self.thresholds.zero_()
        self.lambdas[:count] = lambdas
        self.thresholds[:count] = thresholds.clamp(max=NEVER)


def threshold_at(
    lambdas: NDArray[np.float32], thresholds: NDArray[np.float32], cost_lambda: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Return the thresholds of the largest lambdas that are not above those asked for; `NEVER` below all.

    Args:
        lambdas: `(settings,)`, ascending.
        thresholds: `(settings,)`, of one exit.
        cost_lambda: `(batch,)`.
    """
    position = np.searchsorted(lambdas, cost_lambda, side="right") - 1
    found = np.where(position < 0, np.float32(NEVER), thresholds[position])
    return found.astype(np.float32, copy=False)
