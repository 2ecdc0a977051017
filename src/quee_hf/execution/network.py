"""What execution needs of a model. `QuEEForImageClassification` provides it; tests can use a toy."""

from typing import Protocol

from torch import Tensor

from quee_hf.levels import Level
from quee_hf.routing.router import Router


class Network(Protocol):
    """A network in segments, with an exit after each and a gate before each but the first (or all)."""

    @property
    def level_list(self) -> list[Level]:
        """The levels, index 0 the most exact."""

    @property
    def num_labels(self) -> int:
        """Number of classes."""

    @property
    def router(self) -> Router:
        """The paths and their costs."""

    def embed(self, pixel_values: Tensor) -> Tensor:
        """Map pixels to tokens, `(batch, tokens, hidden)`."""

    def run_segment(self, segment: int, level: Level, hidden: Tensor) -> Tensor:
        """Run one segment, counted from 0, on all images at one level."""

    def exit_logits(self, exit_index: int, hidden: Tensor) -> Tensor:
        """Class logits at an exit, counted from 0: `(batch, labels)`, float32."""

    def predict_errors(self, gate: int, current: Tensor, previous: Tensor) -> Tensor:
        """Predicted error of every path of at least `gate` segments: `(..., paths)`, float32.

        `current` and `previous` are class probabilities, `(..., labels)`, at exits `gate` and `gate - 1`.
        """
