"""The routing loop: gate, decide, advance, until every image has left.

The loop does not know how images advance: `routed_forward` runs segments, `replay` looks outputs up.
"""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from quee_hf.execution.network import Network
from quee_hf.exits.reading import ExitReading
from quee_hf.routing.router import ROOT


class Advance(Protocol):
    """Take images one segment further."""

    def __call__(self, kept: Tensor, nodes: Tensor) -> ExitReading:
        """Run the last segment of each image's new path.

        Args:
            kept: `(n,)`, int64, which of the images of the call before (at first, of the batch) go on.
            nodes: `(n,)`, int64, each one's new node.

        Returns:
            What the exit reached says of each.
        """


@dataclass
class Routes:
    """Where each image left, what it was given there, and what the gates expected."""

    node: Tensor  # (batch,), int64
    logits: Tensor  # (batch, labels), float32
    # (batch,), float32: predicted probability that the logits' class is wrong; NaN where no gate was asked
    error: Tensor


def walk(network: Network, advance: Advance, cost_lambda: Tensor) -> Routes:
    """Route images through a network.

    Args:
        network: Gates, paths and costs.
        advance: Takes the images that stay one segment further.
        cost_lambda: `(batch,)`, float32.
    """
    router, device = network.router.to(cost_lambda.device), cost_lambda.device
    batch = len(cost_lambda)
    routes = Routes(
        node=torch.full((batch,), ROOT, device=device),
        logits=torch.zeros(batch, network.num_labels, device=device),
        error=torch.full((batch,), torch.nan, device=device),
    )
    active = torch.arange(batch, device=device)  # position in the batch of each image still inside
    node, error = routes.node.clone(), routes.error.clone()
    seen = torch.empty(batch, 0, 1, device=device)  # of each exit passed what gates keep of it
    depth, num_exits, logits = 0, len(router.tree.paths[-1]), routes.logits
    while len(active):
        if (child := router.only_child(ROOT)) is not None and depth == 0:
            next_node = torch.full_like(node, child)
        elif depth < num_exits:
            next_node, error = network.decide(depth, node, seen, cost_lambda[active])
        else:
            next_node = node
        stays = next_node != node
        kept = stays.nonzero().squeeze(1)
        if len(kept) < len(active):
            left = (~stays).nonzero().squeeze(1)
            routes.node[active[left]] = node[left]
            routes.logits[active[left]] = logits[left]
            routes.error[active[left]] = error[left]
            active, next_node, error, seen = active[kept], next_node[kept], error[kept], seen[kept]
            if not len(active):
                break
        reading = advance(kept, next_node)
        summary = network.summarize(reading)[:, None]
        seen = torch.cat([seen, summary], dim=1) if depth else summary
        node, logits = next_node, reading.logits
        depth += 1
    return routes
