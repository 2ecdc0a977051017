"""The QuEE gates: P(path is wrong) for every path that may still be taken."""

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from quee_hf.gates.features import GATE_FEATURES
from quee_hf.gates.spec import GateSpec
from quee_hf.levels import Level, level_bits
from quee_hf.paths import Path


def encode_paths(paths: Sequence[Path], levels: Sequence[Level], num_exits: int) -> list[list[float]]:
    """Encode paths as fixed-length vectors: bits per segment, zeros after the exit, then the exit's number.

    Returns:
        `paths` rows of `num_exits + 1` numbers in [0, 1].

    Source:
        Regol et al. 2024 (arXiv:2406.14404), Eq. (14). Differs: bits are divided by the most exact level's,
        the exit number by the number of exits.
    """
    bits = [level_bits(level) for level in levels]
    return [
        [bits[level] / bits[0] for level in path] + [0.0] * (num_exits - len(path)) + [len(path) / num_exits]
        for path in paths
    ]


class ErrorPredictor(nn.Module):
    """Predict how likely each of a list of paths is to be wrong.

        pe(path) = sigmoid(output(relu(features(u) + path(embed(code)))))

    This is a two-layer network on `u || embed(code)`; its first layer is linear in the concatenation, so the
    part that depends on the path is computed once for all images.

    Args:
        num_features: Size of `u`; 0 for the gate before the first segment, which knows nothing of the image.
        code_rows: One code per path to score, as `encode_paths` returns them.
        hidden_size: Width of the hidden layer.
        embedding_size: Size to which a path's code is embedded.

    Source:
        Regol et al. 2024 (arXiv:2406.14404), Eq. (15). Differs: ReLU, which the paper leaves open.
    """

    path_codes: Tensor

    def __init__(
        self, num_features: int, code_rows: list[list[float]], hidden_size: int, embedding_size: int
    ) -> None:
        super().__init__()
        self.num_features = num_features
        self.code_rows = code_rows
        self.embed = nn.Linear(len(code_rows[0]), embedding_size)
        self.path = nn.Linear(embedding_size, hidden_size, bias=False)
        self.features = nn.Linear(num_features, hidden_size) if num_features else None
        self.output = nn.Linear(hidden_size, 1)
        self.register_buffer("path_codes", torch.tensor(code_rows), persistent=False)

    def forward(self, features: Tensor, owners: Tensor | None = None) -> Tensor:
        """Map `u` to error logits of every path.

        Args:
            features: `(..., num_features)`.
            owners: `(paths,)`, int64: features are then `(..., nodes, num_features)`, and each path is scored
                by those of one node. What that takes grows with the number of paths, not with its square.

        Returns:
            `(..., paths)`.
        """
        path_part = self.path(self.embed(self.path_codes.to(self.embed.weight.dtype)))  # (paths, hidden)
        if self.features is None:
            # Computed once: rows of a larger product may be rounded differently, and so decided differently.
            same: Tensor = self.output(path_part.relu()).squeeze(-1)
            return same.expand(*features.shape[: -1 if owners is None else -2], -1)
        known = self.features(features)
        hidden = (known[..., None, :] if owners is None else known[..., owners, :]) + path_part
        logits: Tensor = self.output(hidden.relu()).squeeze(-1)
        return logits


class ErrorGates(nn.ModuleDict):
    """An `ErrorPredictor` for each depth where there is something to decide, by the number of segments run.

    Args:
        spec: What they are built from.
    """

    def __init__(self, spec: GateSpec) -> None:
        super().__init__()
        self.features, self.num_labels = spec.features, spec.num_labels
        first = 0 if len(spec.tree.children(-1)) > 1 else 1
        self.update({str(gate): self._make(spec, gate) for gate in range(first, spec.num_exits)})

    def _make(self, spec: GateSpec, gate: int) -> ErrorPredictor:
        paths = spec.tree.paths[spec.tree.first_at_depth(gate) :]
        rows = encode_paths(paths, spec.levels, spec.num_exits)
        num_features = GATE_FEATURES[spec.features].size(spec.num_labels, gate) if gate else 0
        return ErrorPredictor(num_features, rows, spec.hidden_size, spec.path_embedding_size)

    @property
    def numbers(self) -> list[int]:
        """The gates there are, by the number of segments run."""
        return [int(gate) for gate in self]

    def suit_other_classes(self, num_labels: int) -> bool:
        """Tell whether they may be kept when there are other classes, so many: never.

        They predict how often the classes that they were trained with are mistaken for each other.
        """
        return False

    def logits(self, gate: int, seen: Tensor, owners: Tensor | None = None) -> Tensor:
        """Map the summaries of the exits passed to error logits of every path of at least `gate` segments.

        Args:
            gate: Segments run so far.
            seen: `(..., gate, summary)`, or with `owners` `(..., nodes, gate, summary)`; gate 0 looks at the
                leading dimensions alone.
            owners: As `ErrorPredictor` takes them.

        Returns:
            `(..., paths)`, float32.
        """
        module = cast(ErrorPredictor, self[str(gate)])
        features = GATE_FEATURES[self.features].features(seen, self.num_labels) if gate else seen[..., 0]
        return cast(Tensor, module(features.to(module.output.weight.dtype), owners).float())
