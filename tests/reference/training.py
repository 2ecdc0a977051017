"""Losses and targets with loops."""

import math
from collections.abc import Mapping, Sequence

import numpy as np

Path = tuple[int, ...]


def cross_entropy(logits: Sequence[float], label: int) -> float:
    """Minus the logarithm of the label's softmax probability."""
    return math.log(sum(math.exp(logit) for logit in logits)) - logits[label]


def scaled_loss(logits: np.ndarray, labels: Sequence[int]) -> float:
    """Sum exits' cross entropies, the first of E exits weighing E, the last 1; mean over images."""
    num_images, num_exits, _ = logits.shape
    total = 0.0
    for image in range(num_images):
        for exit_number in range(1, num_exits + 1):
            factor = num_exits - exit_number + 1
            total += factor * cross_entropy(logits[image, exit_number - 1].tolist(), labels[image])
    return total / num_images


def cluster_error(assigned: Sequence[int], is_wrong: Sequence[bool], num_clusters: int) -> list[float]:
    """Share of wrong images per cluster, shrunk by one image towards the share over all."""
    overall = sum(is_wrong) / len(is_wrong)
    errors = []
    for cluster in range(num_clusters):
        members = [wrong for where, wrong in zip(assigned, is_wrong, strict=True) if where == cluster]
        errors.append((sum(members) + overall) / (len(members) + 1))
    return errors


def nearest(points: np.ndarray, centers: np.ndarray) -> list[int]:
    """Index of each point's nearest centre."""
    return [
        min(range(len(centers)), key=lambda k: float(np.sum((point - centers[k]) ** 2))) for point in points
    ]


def gate_loss(
    paths: Sequence[Path],
    gates: Sequence[int],
    predicted: Mapping[tuple[int, int, Path], Mapping[Path, float]],
    targets: np.ndarray,
    kind: str,
) -> float:
    """Sum over gates the mean loss over images, places to stand, and paths that start there.

    Args:
        paths: All paths.
        gates: The gates' numbers; gate g stands after g segments.
        predicted: Error per path, for (image, gate, place to stand).
        targets: `(images, paths)`.
        kind: "outcome": logistic loss; "cluster": squared error.
    """
    total = 0.0
    for gate in gates:
        losses = []
        for here in [path for path in paths if len(path) == gate] or [()]:
            for column, target in enumerate(paths):
                if target[: len(here)] != here:
                    continue
                for image in range(len(targets)):
                    error, wanted = predicted[image, gate, here][target], float(targets[image, column])
                    if kind == "cluster":
                        losses.append((error - wanted) ** 2)
                    else:
                        losses.append(-wanted * math.log(error) - (1 - wanted) * math.log(1 - error))
        total += sum(losses) / len(losses)
    return total
