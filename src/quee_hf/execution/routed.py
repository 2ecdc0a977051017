"""Routed forward: every image runs only the segments of its own path, at its own levels."""

import numpy as np
import torch
from torch import Tensor

from quee_hf.execution.network import Assessment, Network
from quee_hf.execution.walk import Routes, walk
from quee_hf.paths import Path
from quee_hf.routing.policy import Indices, cost_lambda_per_sample


class _SegmentRunner:
    """Keeps the tokens of the images that are still inside, and takes them one segment further."""

    def __init__(self, network: Network, hidden: Tensor) -> None:
        self._network = network
        self._hidden = hidden
        self._seen: Tensor | None = None
        self._segment = 0

    def __call__(self, kept: Indices | None, nodes: Indices) -> Assessment:
        levels = self._network.router.last_levels[nodes]
        if (levels == levels[0]).all():
            hidden = self._run(levels[0], kept)
        else:
            hidden = torch.empty_like(self._hidden[: len(nodes)])
            for level in np.unique(levels):
                members = (levels == level).nonzero()[0]
                hidden[_index(members)] = self._run(level, members if kept is None else kept[members])
        seen = self._seen if kept is None or self._seen is None else self._seen[_index(kept)]
        reached = self._network.assess(self._segment, hidden, seen)
        self._hidden, self._seen = hidden, reached.seen
        self._segment += 1
        return reached

    def _run(self, level: int, members: Indices | None) -> Tensor:
        hidden = self._hidden if members is None else self._hidden[_index(members)]
        return self._network.run_segment(self._segment, self._network.level_list[level], hidden)


def _index(members: Indices) -> Tensor:
    return torch.from_numpy(members)


def routed_forward(network: Network, pixel_values: Tensor, cost_lambda: float | Tensor) -> Routes:
    """Run each image along the path that its gates choose.

    At each segment the images still inside are grouped by level; those that leave are taken out of the batch.

    Args:
        network: The model.
        pixel_values: `(batch, channels, height, width)`.
        cost_lambda: At least 0; one number, or one per image, `(batch,)`.

    Raises:
        ValueError: If `cost_lambda` is none of these.
    """
    lambdas = cost_lambda_per_sample(cost_lambda, len(pixel_values))
    return walk(network, _SegmentRunner(network, network.embed(pixel_values)), lambdas)


def run_path(network: Network, pixel_values: Tensor, path: Path) -> Tensor:
    """Run all images along one path and return its logits, `(batch, labels)`, float32."""
    hidden = network.embed(pixel_values)
    for segment, level_index in enumerate(path):
        hidden = network.run_segment(segment, network.level_list[level_index], hidden)
    return network.read_exit(len(path) - 1, hidden).logits
