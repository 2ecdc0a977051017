"""Routed stream: the images of successive batches run together, so that every segment's batch stays full.

A routed batch shrinks as its images leave. Here those that stay wait, before each segment and for each level,
until there are enough of them for a batch, wherever they come from.
"""

from collections import defaultdict, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from quee_hf.execution.feed import Feed
from quee_hf.execution.finite import are_finite
from quee_hf.execution.network import Assessment, Network
from quee_hf.execution.rows import copy_rows, new_rows
from quee_hf.execution.walk import Routes, decide_step
from quee_hf.routing.policy import Floats, Indices
from quee_hf.routing.router import ROOT, Decision

# Batches by which the oldest image inside may be behind the newest: results wait for it.
MAX_LAG = 16
# A batch of which this part or less goes on at a level is copied, so that few images do not keep a whole one.
_SPARSE = 0.25

_IMAGE = np.dtype(
    [
        ("row", np.int64),  # in the tensors of the batch that it ran in last
        ("number", np.int64),  # in the order of input
        ("node", np.int64),
        ("error", np.float32),
        ("cost_lambda", np.float32),
        ("is_finite", np.bool_),  # as pixels
    ],
    align=True,  # PyTorch takes no columns that are not
)
_Images = NDArray[np.void]
# Told of images as they leave, which is before their results come: their lambdas and their last nodes.
Left = Callable[[Floats, Indices], None]


@dataclass
class _Group:
    """Images of one batch that go on together: some of its rows."""

    hidden: Tensor
    seen: Tensor | None
    images: _Images

    def split(self, count: int) -> tuple["_Group", "_Group"]:
        """Return the first `count` images, and the others."""
        return (
            _Group(self.hidden, self.seen, self.images[:count]),
            _Group(self.hidden, self.seen, self.images[count:]),
        )


class _Queue:
    """Images that wait for one segment at one level."""

    def __init__(self) -> None:
        self._groups: deque[_Group] = deque()
        self.size = 0

    def put(self, group: _Group) -> None:
        if len(group.images) <= _SPARSE * len(group.hidden):
            group = _gather([group])
            group.images["row"] = np.arange(len(group.images))
        self._groups.append(group)
        self.size += len(group.images)

    def holds(self, number: int) -> bool:
        return any((group.images["number"] == number).any() for group in self._groups)

    def take(self, count: int) -> _Group:
        """Return the images that came first, as rows of tensors of their own."""
        groups: list[_Group] = []
        self.size -= count
        while count:
            group = self._groups.popleft()
            if len(group.images) > count:
                group, rest = group.split(count)
                self._groups.appendleft(rest)
            groups.append(group)
            count -= len(group.images)
        return _gather(groups)


def _gather(groups: list[_Group]) -> _Group:
    """Copy what is needed of some groups' tensors, once; nothing of a group that is a whole batch."""
    if len(groups) == 1 and len(groups[0].images) == len(groups[0].hidden):
        return groups[0]
    images = np.concatenate([group.images for group in groups])
    hidden = _rows([group.hidden for group in groups], groups)
    seen = [group.seen for group in groups if group.seen is not None]
    return _Group(hidden, _rows(seen, groups) if seen else None, images)


def _rows(tensors: list[Tensor], groups: list[_Group]) -> Tensor:
    """Return one tensor of each group's rows of its own."""
    count = sum(len(group.images) for group in groups)
    gathered = new_rows(tensors[0], count)
    parts = gathered.split([len(group.images) for group in groups])
    for tensor, group, part in zip(tensors, groups, parts, strict=True):
        copy_rows(tensor, group.images["row"], part)
    return gathered


class _Pool:
    """The images inside a network, and results that wait for those of images before."""

    def __init__(self, network: Network, batch_size: int, left: Left | None) -> None:
        self._network = network
        self._left = left
        self._batch_size = batch_size
        self._last_levels = network.router.last_levels
        # By the segment that images wait for, counted from 0, and the index of its level.
        self._queues: dict[tuple[int, int], _Queue] = defaultdict(_Queue)
        # Node, error, lambda and logits.
        self._finished: dict[int, tuple[int, float, float, Floats]] = {}
        self._num_admitted = 0
        self._num_out = 0  # and so the number of the oldest image that is not out

    @torch.inference_mode()
    def admit(self, pixel_values: Tensor, cost_lambda: Floats) -> None:
        """Let images enter."""
        images = np.zeros(len(cost_lambda), _IMAGE)
        images["number"] = np.arange(self._num_admitted, self._num_admitted + len(images))
        images["node"], images["error"], images["cost_lambda"] = ROOT, np.nan, cost_lambda
        images["is_finite"] = are_finite(pixel_values).numpy(force=True)
        self._num_admitted += len(images)
        self._send_on(0, self._network.embed(pixel_values), None, images)

    @torch.inference_mode()
    def run(self, key: tuple[int, int]) -> None:
        """Run a batch of those that wait in a queue."""
        segment, level = key
        queue = self._queues[key]
        batch = queue.take(min(queue.size, self._batch_size))
        step = self._network.advance(segment, self._network.level_list[level], batch.hidden, batch.seen)
        self._send_on(segment + 1, step.hidden, step.reached, batch.images)

    def due(self) -> tuple[int, int] | None:
        """Return the queue to be run before further images enter, if there is one.

        It is the furthest of those that hold a batch: what it lets through cannot fill those before it. Else
        it is that of an image for which too many others wait.
        """
        full = [key for key, queue in self._queues.items() if queue.size >= self._batch_size]
        if full:
            return max(full)
        if self._num_admitted - self._num_out <= MAX_LAG * self._batch_size:
            return None
        return next(key for key, queue in self._queues.items() if queue.holds(self._num_out))

    def earliest(self) -> tuple[int, int] | None:
        """Return the queue to be run when no more images enter: later ones may then still fill up."""
        return min((key for key, queue in self._queues.items() if queue.size), default=None)

    def results(self) -> Iterator[Routes]:
        """Yield, together, what waits for no image before, if there is anything."""
        found = []
        while (result := self._finished.pop(self._num_out, None)) is not None:
            self._num_out += 1
            found.append(result)
        if found:
            node, error, cost_lambda, logits = zip(*found, strict=True)
            floats = (np.array(each, np.float32) for each in (error, cost_lambda))
            arrays = (np.array(node), np.stack(logits), *floats)
            yield Routes(*map(torch.from_numpy, arrays))

    def _send_on(
        self, depth: int, hidden: Tensor | None, reached: Assessment | None, images: _Images
    ) -> None:
        """Decide where images go that have run so many segments: out, or into a queue."""
        before = Decision(images["node"], images["error"])
        next_node, error = decide_step(self._network, depth, before, reached, images["cost_lambda"])
        stays = next_node != images["node"]
        images["row"], images["error"] = np.arange(len(images)), error
        if reached is not None and not stays.all():
            self._finish(images[~stays], reached.logits)
        images["node"] = next_node
        levels = np.where(stays, self._last_levels[next_node], -1)
        for level in np.unique(levels[stays]).tolist():
            assert hidden is not None
            group = _Group(hidden, None if reached is None else reached.seen, images[levels == level])
            self._queues[depth, level].put(group)

    def _finish(self, images: _Images, logits: Tensor) -> None:
        """Keep the results of images that leave."""
        rows = logits.numpy(force=True)[images["row"]]
        rows[~images["is_finite"]] = np.nan
        columns = (images[name].tolist() for name in ("node", "error", "cost_lambda"))
        results = zip(*columns, rows, strict=True)
        self._finished.update(zip(images["number"].tolist(), results, strict=True))
        if self._left is not None:
            self._left(images["cost_lambda"], images["node"])


def stream_routes(network: Network, feed: Feed, left: Left | None = None) -> Iterator[Routes]:
    """Run each image along the path that its gates choose, and yield results as they come.

    Results come in the order of input, as soon as those before them are there, on the CPU. A segment at a
    level runs when a whole batch waits for it, or when the oldest image waits there and is `MAX_LAG` batches
    behind the newest; at the end of input, with what there is. So at most a batch waits in each queue, and at
    most `MAX_LAG` and one batches of results wait for others.

    Args:
        network: The model.
        feed: The images.
        left: Called for images as they leave.

    Yields:
        What `quee_hf.execution.routed.routed_forward` gives, for those images that come next.
    """
    pool = _Pool(network, feed.batch_size, left)
    for pixel_values, cost_lambda in feed:
        pool.admit(pixel_values, cost_lambda)
        while (key := pool.due()) is not None:
            pool.run(key)
            yield from pool.results()
    while (key := pool.due() or pool.earliest()) is not None:
        pool.run(key)
        yield from pool.results()
    feed.raise_failure()
