"""The routing loop: gate, decide, advance, until every image has left.

The loop does not know how images advance: `routed_forward` runs segments, `replay` looks outputs up.
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from quee_hf.execution.network import Assessment, Network
from quee_hf.execution.rows import take_rows
from quee_hf.routing.policy import Floats, Indices
from quee_hf.routing.router import ROOT, Decision


class Advance(Protocol):
    """Take images one segment further."""

    def __call__(self, kept: Indices | None, nodes: Indices) -> Assessment:
        """Run the last segment of each image's new path.

        Args:
            kept: `(n,)`, which of the images of the call before (at first, of the batch) go on; `None`
                stands for all.
            nodes: `(n,)`, each one's new node.

        Returns:
            What the exit reached says of each.
        """


@dataclass
class Routes:
    """Where each image left, what it was given there, and what the gates expected."""

    node: Tensor  # (batch,), int64, on the CPU
    logits: Tensor  # (batch, labels), float32
    # (batch,), float32, on the CPU: predicted probability that the logits' class is wrong; NaN where no gate
    # was asked
    error: Tensor
    cost_lambda: Tensor  # (batch,), float32, on the CPU


def walk(network: Network, advance: Advance, cost_lambda: Floats) -> Routes:
    """Route images through a network.

    Args:
        network: Gates, paths and costs.
        advance: Takes the images that stay one segment further.
        cost_lambda: `(batch,)`.
    """
    batch = len(cost_lambda)
    node, error = np.full(batch, ROOT), np.full(batch, np.nan, np.float32)
    final_node, final_error = node.copy(), error.copy()
    active = np.arange(batch)  # position in the batch of each image still inside
    order: list[Indices] = []
    logits: list[Tensor] = []
    reached: Assessment | None = None
    depth = 0
    while len(active):
        before = Decision(node, error)
        next_node, error = decide_step(network, depth, before, reached, cost_lambda[active])
        stays, kept = next_node != node, None
        if not stays.all():
            gone, kept = (~stays).nonzero()[0], stays.nonzero()[0]
            left = active[gone]
            final_node[left], final_error[left] = node[gone], error[gone]
            assert reached is not None
            order.append(left)
            logits.append(take_rows(reached.logits, gone) if len(kept) else reached.logits)
            active, next_node, error = active[kept], next_node[kept], error[kept]
            if not len(active):
                break
        reached = advance(kept, next_node)
        node = next_node
        depth += 1
    return Routes(
        torch.from_numpy(final_node),
        _in_order(logits, order) if order else torch.empty(0, network.num_labels),
        torch.from_numpy(final_error),
        torch.tensor(cost_lambda),
    )


def _in_order(parts: list[Tensor], order: list[Indices]) -> Tensor:
    """Put rows together, of which each part's have been told."""
    if len(parts) == 1:
        return parts[0]
    return take_rows(torch.cat(parts), np.concatenate(order).argsort())


def decide_step(
    network: Network, depth: int, before: Decision, reached: Assessment | None, cost_lambda: Floats
) -> Decision:
    """Ask the gate at a depth, if there is something to decide there; else what was decided before holds.

    Args:
        network: Gates, paths and costs.
        depth: Segments run so far; all images stand at this depth.
        before: Each image's node, and the error expected last.
        reached: What the exit at this depth says of each; `None` before the first segment.
        cost_lambda: `(batch,)`.
    """
    node, error = before
    if reached is None:
        if (child := network.router.only_child(ROOT)) is not None:
            return Decision(np.full_like(node, child), error)
        scores = network.score(0, torch.empty(len(node), 0, 1))
    elif reached.scores is None:
        return before
    else:
        scores = reached.scores
    return network.decide(depth, node, scores.numpy(force=True), cost_lambda)
