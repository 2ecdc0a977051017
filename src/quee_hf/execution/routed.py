"""Routed forward: every image runs only the segments of its own path, at its own levels."""

import torch
from torch import Tensor

from quee_hf.execution.network import Network
from quee_hf.execution.walk import Routes, walk
from quee_hf.exits.reading import ExitReading
from quee_hf.paths import Path


class _SegmentRunner:
    """Keeps the tokens of the images that are still inside, and takes them one segment further."""

    def __init__(self, network: Network, hidden: Tensor) -> None:
        self._network = network
        self._hidden = hidden
        self._segment = 0
        self._level_of_node = torch.tensor(
            [path[-1] for path in network.router.tree.paths], device=hidden.device
        )

    def __call__(self, kept: Tensor, nodes: Tensor) -> ExitReading:
        levels = self._level_of_node[nodes]
        is_whole = len(kept) == len(self._hidden)
        groups = torch.unique(levels).tolist()
        if len(groups) == 1:
            hidden = self._run(groups[0], self._hidden if is_whole else self._hidden[kept])
        else:
            hidden = torch.empty_like(self._hidden[: len(kept)])
            for level in groups:
                members = (levels == level).nonzero().squeeze(1)
                hidden[members] = self._run(level, self._hidden[kept[members]])
        self._hidden = hidden
        self._segment += 1
        return self._network.read_exit(self._segment - 1, hidden)

    def _run(self, level_index: int, hidden: Tensor) -> Tensor:
        return self._network.run_segment(self._segment, self._network.level_list[level_index], hidden)


def routed_forward(network: Network, pixel_values: Tensor, cost_lambda: Tensor) -> Routes:
    """Run each image along the path that its gates choose.

    At each segment the images still inside are grouped by level; those that leave are taken out of the batch.

    Args:
        network: The model.
        pixel_values: `(batch, channels, height, width)`.
        cost_lambda: `(batch,)`, float32, at least 0.
    """
    return walk(network, _SegmentRunner(network, network.embed(pixel_values)), cost_lambda)


def run_path(network: Network, pixel_values: Tensor, path: Path) -> Tensor:
    """Run all images along one path and return its logits, `(batch, labels)`, float32."""
    hidden = network.embed(pixel_values)
    for segment, level_index in enumerate(path):
        hidden = network.run_segment(segment, network.level_list[level_index], hidden)
    return network.read_exit(len(path) - 1, hidden).logits
