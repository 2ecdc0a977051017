"""What a gate knows of an image: the class probabilities at this exit and the one before. Pure functions."""

import math

import torch
from torch import Tensor


def num_gate_features(num_labels: int) -> int:
    """Size of the vector that `gate_features` returns."""
    return 2 * num_labels + 4


def unknown_probabilities(batch_size: int, num_labels: int, *, device: torch.device | None = None) -> Tensor:
    """Return what is known before any exit: the uniform distribution, `(batch, labels)` float32."""
    return torch.full((batch_size, num_labels), 1 / num_labels, device=device)


def gate_features(current: Tensor, previous: Tensor) -> Tensor:
    """Join two exits' probabilities with their entropies and maxima.

        u = p_j || p_{j-1} || H(p_j) || H(p_{j-1}) || max p_{j-1} || max p_j

    Entropies are divided by the entropy of the uniform distribution, so that all entries lie in [0, 1].

    Args:
        current: `(..., labels)`, probabilities at this exit.
        previous: The same at the exit before; uniform if there is none.

    Returns:
        `(..., 2 * labels + 4)`, float32.

    Source:
        Regol et al. 2024 (arXiv:2406.14404), Eq. (13). Differs: entropies are normalised.
    """
    both = torch.stack([current, previous], dim=-2)  # (..., 2, labels)
    entropies = torch.special.entr(both).sum(dim=-1) / math.log(current.shape[-1])
    return torch.cat([both.flatten(-2), entropies, both.amax(dim=-1).flip(-1)], dim=-1)
