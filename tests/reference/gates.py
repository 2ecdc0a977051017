"""QuEE's gate from its formulas, one image and one path at a time."""

import math
from collections.abc import Sequence

import numpy as np


def features(current: Sequence[float], previous: Sequence[float]) -> list[float]:
    """Eq. (13): p_j, p_{j-1}, H(p_j), H(p_{j-1}), max p_{j-1}, max p_j; entropies relative to the uniform one's."""

    def entropy(probabilities: Sequence[float]) -> float:
        return -sum(p * math.log(p) for p in probabilities if p > 0) / math.log(len(probabilities))

    return [*current, *previous, entropy(current), entropy(previous), max(previous), max(current)]


def code(bits: Sequence[int], num_exits: int, most_bits: int) -> list[float]:
    """Eq. (14): the bits of each segment run, zeros, and how many segments run; all scaled to [0, 1]."""
    padded = [0.0] * (num_exits + 1)
    for segment, width in enumerate(bits):
        padded[segment] = width / most_bits
    padded[-1] = len(bits) / num_exits
    return padded


def error_probability(
    u: Sequence[float], path_code: Sequence[float], weights: dict[str, np.ndarray]
) -> float:
    """Eq. (15): a plain two-layer network on the concatenation of `u` and the embedded code."""
    embedded = weights["embed.weight"] @ np.asarray(path_code) + weights["embed.bias"]
    joined = np.concatenate([np.asarray(u), embedded])
    first = np.concatenate([weights["features.weight"], weights["path.weight"]], axis=1)
    hidden = np.maximum(first @ joined + weights["features.bias"], 0)
    logit = weights["output.weight"] @ hidden + weights["output.bias"]
    return float(1 / (1 + np.exp(-logit[0])))
