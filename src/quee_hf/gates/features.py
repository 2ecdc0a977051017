"""What a gate knows of an image: a summary of each exit it has passed. Pure functions."""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from quee_hf.paths import PathTree

NUM_RANKS = 3  # largest probabilities that the confidence summary looks at
SMALLEST = 1e-7  # below this a float32 softmax is noise
LOG_UNIT = 4.0  # brings logarithms of probabilities, 0 to -16, near 1


class FeatureKind(NamedTuple):
    """A way to describe an image to a gate: each exit is summarised once, a gate joins the summaries.

    Args:
        summarize: Maps an exit's class probabilities, `(..., labels)`, and spatial variance, `(...)`, to its
            summary, `(..., summary)`, float32.
        join: Maps the summaries of the exits passed, `(..., exits, summary)`, the newest last, to features,
            `(..., size)`. Of what lies before the first exit, it is given the summary of the uniform
            distribution, `(summary,)`.
        size: Maps the numbers of classes and of exits passed to the size of what `join` returns.
        is_by_class: Whether features say something of single classes.
    """

    summarize: Callable[[Tensor, Tensor], Tensor]
    join: Callable[[Tensor, Tensor], Tensor]
    size: Callable[[int, int], int]
    is_by_class: bool = False

    def features(self, summaries: Tensor, num_labels: int) -> Tensor:
        """Map the summaries of the exits passed, `(..., exits, summary)`, to features, `(..., size)`."""
        return self.join(summaries, self.unknown(num_labels, summaries.device))

    def unknown(self, num_labels: int, device: torch.device | None = None) -> Tensor:
        """Return what stands for the exit before the first, `(summary,)`."""
        uniform = torch.full((num_labels,), 1 / num_labels, device=device)
        return self.summarize(uniform, uniform.new_zeros(()))


def seen_at_depth(tree: PathTree, depth: int, summaries: Tensor) -> Tensor:
    """Return what a gate may know at each node where it may stand.

    Args:
        tree: The paths.
        depth: Segments run so far, at least 1.
        summaries: `(images, paths, summary)`, of every path's exit.

    Returns:
        `(images, nodes, depth, summary)`, at the nodes of this depth, their own summary last.
    """
    passed = [tree.ancestors[node][:depth] for node in tree.at_depth(depth)]
    return summaries[:, torch.tensor(passed, device=summaries.device)]


def _summarize_probabilities(probabilities: Tensor, _variance: Tensor) -> Tensor:
    """Keep the probabilities, their entropy, relative to the uniform distribution's, and the largest."""
    entropy = torch.special.entr(probabilities).sum(dim=-1, keepdim=True) / math.log(probabilities.shape[-1])
    return torch.cat([probabilities, entropy, probabilities.amax(dim=-1, keepdim=True)], dim=-1)


def _join_probabilities(summaries: Tensor, unknown: Tensor) -> Tensor:
    """Join the last two exits' probabilities with their entropies and maxima, as the paper does.

        u = p_j || p_{j-1} || H(p_j) || H(p_{j-1}) || max p_{j-1} || max p_j

    Source:
        Regol et al. 2024 (arXiv:2406.14404), Eq. (13). Differs: entropies are normalised.
    """
    current, previous = _last_two(summaries, unknown)
    parts = [current[..., :-2], previous[..., :-2], current[..., -2:-1], previous[..., -2:-1]]
    return torch.cat([*parts, previous[..., -1:], current[..., -1:]], dim=-1)


def _summarize_confidence(probabilities: Tensor, _variance: Tensor) -> Tensor:
    """Describe how sure an exit is, whatever the class, on a scale that resolves 0.99 from 0.999.

        log p_(1) || log p_(2) || log p_(3) || log H        where p_(k) is the k-th largest probability

    A few thousand images do not suffice to learn how each class errs, but do suffice for these few numbers;
    and the images that decide the accuracy of cheap paths are those of which an exit is 99 % sure.

    Source:
        none: our choice, in place of Eq. (13).
    """
    largest = probabilities.topk(min(NUM_RANKS, probabilities.shape[-1]), dim=-1).values
    entropy = torch.special.entr(probabilities).sum(dim=-1, keepdim=True)
    return torch.cat([largest, entropy], dim=-1).clamp_min(SMALLEST).log() / LOG_UNIT


def _join_confidence(summaries: Tensor, unknown: Tensor) -> Tensor:
    """Join the last two exits' summaries."""
    return torch.cat(_last_two(summaries, unknown), dim=-1)


def _summarize_history(probabilities: Tensor, variance: Tensor) -> Tensor:
    """Describe how sure an exit is, and of which class."""
    chosen = probabilities.argmax(dim=-1, keepdim=True).float()
    return torch.cat([_summarize_confidence(probabilities, variance), chosen], dim=-1)


def _join_history(summaries: Tensor, _unknown: Tensor) -> Tensor:
    """Join how sure every exit passed was, and which of the earlier ones chose the newest's class.

    Source:
        none: our choice. An exit that repeats what others said is more often right than its confidence says.
    """
    sure, chosen = summaries[..., :-1].flatten(-2), summaries[..., -1]
    agrees = (chosen[..., :-1] == chosen[..., -1:]).float()
    return torch.cat([sure, agrees], dim=-1)


def _summarize_space(probabilities: Tensor, variance: Tensor) -> Tensor:
    """Keep the largest probability, how far it is above the second, and the spatial variance."""
    first, second = probabilities.topk(2, dim=-1).values.unbind(dim=-1)
    return torch.stack([first, first - second, variance.expand_as(first)], dim=-1)


def _join_space(summaries: Tensor, _unknown: Tensor) -> Tensor:
    """Take the newest exit's summary.

    Source:
        The three features of LRA-EE (arXiv:2605.26415), §4.3.
    """
    return summaries[..., -1, :]


def _last_two(summaries: Tensor, unknown: Tensor) -> tuple[Tensor, Tensor]:
    current = summaries[..., -1, :]
    previous = summaries[..., -2, :] if summaries.shape[-2] > 1 else unknown.expand_as(current)
    return current, previous


def _num_confidences(num_labels: int) -> int:
    return min(NUM_RANKS, num_labels) + 1


GATE_FEATURES = {
    "confidence": FeatureKind(
        _summarize_confidence, _join_confidence, lambda labels, _: 2 * _num_confidences(labels)
    ),
    "history": FeatureKind(
        _summarize_history,
        _join_history,
        lambda labels, depth: depth * _num_confidences(labels) + depth - 1,
    ),
    "probabilities": FeatureKind(
        _summarize_probabilities, _join_probabilities, lambda labels, _: 2 * labels + 4, is_by_class=True
    ),
    "spatial": FeatureKind(_summarize_space, _join_space, lambda *_: 3),
}
