"""Routed forward: every image runs only the segments of its own path, at its own levels."""

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import Tensor

from quee_hf.execution.network import Assessment, Network, Step
from quee_hf.execution.rows import index_on, on_host, take_rows
from quee_hf.execution.walk import Routes, walk
from quee_hf.routing.policy import Indices, cost_lambda_per_sample


class _SegmentRunner:
    """Keeps the tokens of the images that are still inside, and takes them one segment further."""

    def __init__(self, network: Network, hidden: Tensor) -> None:
        self._network, self._levels = network, network.level_list
        self._last_levels = network.router.last_levels
        self._hidden: Tensor | None = hidden
        self._seen: Tensor | None = None
        self._segment = 0

    def __call__(self, kept: Indices | None, nodes: Indices) -> Assessment:
        levels = self._last_levels[nodes]
        if (levels == levels[0]).all():
            step = self._run(levels[0], kept)
        else:
            groups = [(levels == level).nonzero()[0] for level in np.unique(levels)]
            steps = [
                self._run(levels[members[0]], members if kept is None else kept[members])
                for members in groups
            ]
            step = _merge(steps, np.concatenate(groups).argsort())
        self._hidden, self._seen = step.hidden, step.reached.seen
        self._segment += 1
        return step.reached

    def _run(self, level: int, members: Indices | None) -> Step:
        hidden, seen = (
            x if members is None or x is None else take_rows(x, members) for x in (self._hidden, self._seen)
        )
        assert hidden is not None
        return self._network.advance(self._segment, self._levels[level], hidden, seen)


def _merge(steps: Sequence[Step], order: Indices) -> Step:
    """Put together what groups of images were given, in the order of the images."""
    rows = [(step.hidden, *step.reached) for step in steps]
    hidden, logits, seen, scores = (_join(column, order) for column in zip(*rows, strict=True))
    assert logits is not None
    return Step(hidden, Assessment(logits, seen, scores))


def _join(parts: Iterable[Tensor | None], order: Indices) -> Tensor | None:
    there = [part for part in parts if part is not None]
    return torch.cat(there)[index_on(there[0].device, order)] if there else None


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
    lambdas = cost_lambda_per_sample(on_host(cost_lambda), len(pixel_values))
    return walk(network, _SegmentRunner(network, network.embed(pixel_values)), lambdas)
