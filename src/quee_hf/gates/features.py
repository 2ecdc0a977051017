"""What a gate knows of an image: the class probabilities at this exit and the one before. Pure functions."""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from quee_hf.paths import PathTree

_NUM_RANKS = 3  # largest probabilities that the confidence features look at
_SMALLEST = 1e-7  # below this a float32 softmax is noise
_LOG_UNIT = 4.0  # brings logarithms of probabilities, 0 to -16, near 1


def unknown_probabilities(batch_size: int, num_labels: int, *, device: torch.device | None = None) -> Tensor:
    """Return what is known before any exit: the uniform distribution, `(batch, labels)` float32."""
    return torch.full((batch_size, num_labels), 1 / num_labels, device=device)


def known_at_depth(tree: PathTree, depth: int, probabilities: Tensor) -> tuple[Tensor, Tensor]:
    """Return what a gate may know at each node where it may stand: class probabilities there and before.

    Args:
        tree: The paths.
        depth: Segments run so far; 0 is before the first, where nothing is known.
        probabilities: `(images, paths, labels)`, of every path.

    Returns:
        Twice `(images, nodes, labels)`, at the nodes of this depth and at their parents.
    """
    batch, _, num_labels = probabilities.shape
    unknown = unknown_probabilities(batch, num_labels, device=probabilities.device)[:, None]
    if not depth:
        return unknown, unknown
    nodes = tree.at_depth(depth)
    current = probabilities[:, nodes]
    if depth == 1:
        return current, unknown.expand_as(current)
    return current, probabilities[:, [tree.parents[node] for node in nodes]]


def probability_features(current: Tensor, previous: Tensor) -> Tensor:
    """Join two exits' probabilities with their entropies and maxima, as the paper does.

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


def confidence_features(current: Tensor, previous: Tensor) -> Tensor:
    """Describe how sure two exits are, whatever the class, on a scale that resolves 0.99 from 0.999.

        u = log p_(1) || log p_(2) || log p_(3) || log H        for p_j, then for p_{j-1}

    where `p_(k)` is the k-th largest probability. A few thousand images do not suffice to learn how each
    class errs, but do suffice for these few numbers; and the images that decide the accuracy of cheap paths
    are those of which an exit is 99 % sure.

    Args:
        current: `(..., labels)`, probabilities at this exit.
        previous: The same at the exit before; uniform if there is none.

    Returns:
        `(..., confidence_size(labels))`, float32.

    Source:
        none: our choice, in place of Eq. (13).
    """
    both = torch.stack([current, previous], dim=-2)  # (..., 2, labels)
    largest = both.topk(min(_NUM_RANKS, current.shape[-1]), dim=-1).values
    entropy = torch.special.entr(both).sum(dim=-1, keepdim=True)
    return torch.cat([largest, entropy], dim=-1).clamp_min(_SMALLEST).log().flatten(-2) / _LOG_UNIT


def probability_size(num_labels: int) -> int:
    """Size of what `probability_features` returns."""
    return 2 * num_labels + 4


def confidence_size(num_labels: int) -> int:
    """Size of what `confidence_features` returns."""
    return 2 * (min(_NUM_RANKS, num_labels) + 1)


class FeatureKind(NamedTuple):
    """A way to describe an image to a gate."""

    size: Callable[[int], int]
    compute: Callable[[Tensor, Tensor], Tensor]


GATE_FEATURES = {
    "confidence": FeatureKind(confidence_size, confidence_features),
    "probabilities": FeatureKind(probability_size, probability_features),
}
