"""`GateSpec`: everything that gates are built from, whatever their type."""

from collections.abc import Sequence
from dataclasses import dataclass

from quee_hf.levels import Level
from quee_hf.paths import PathTree


@dataclass(frozen=True)
class GateSpec:
    """What a model's gates are built from.

    Args:
        tree: The paths.
        levels: From most to least exact.
        num_labels: Classes.
        features: Name of what is known of an image, of `GATE_FEATURES`.
        hidden_size: Width of the hidden layer, of gates that have one.
        path_embedding_size: Size to which a path's code is embedded, by gates that score paths.
    """

    tree: PathTree
    levels: Sequence[Level]
    num_labels: int
    features: str
    hidden_size: int
    path_embedding_size: int

    @property
    def num_exits(self) -> int:
        """Number of exits."""
        return len(self.tree.paths[-1])
