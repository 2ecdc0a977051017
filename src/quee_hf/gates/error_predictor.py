"""`ErrorPredictor`: the QuEE gate, P(path is wrong) for every path that may still be taken."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

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

    def forward(self, features: Tensor) -> Tensor:
        """Map `u`, `(..., num_features)`, to error logits, `(..., paths)`."""
        path_part = self.path(self.embed(self.path_codes.to(self.embed.weight.dtype)))  # (paths, hidden)
        if self.features is None:
            # Computed once: rows of a larger product may be rounded differently, and so decided differently.
            same: Tensor = self.output(path_part.relu()).squeeze(-1)
            return same.expand(*features.shape[:-1], -1)
        hidden = self.features(features)[..., None, :] + path_part
        logits: Tensor = self.output(hidden.relu()).squeeze(-1)
        return logits
