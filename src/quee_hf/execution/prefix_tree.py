"""Prefix-tree forward: the output of every path, each tree node's segment run once per batch."""

import torch
from torch import Tensor

from quee_hf.execution.finite import where_finite
from quee_hf.execution.network import Network
from quee_hf.exits.reading import ExitReading
from quee_hf.routing.router import ROOT


def tree_forward(network: Network, pixel_values: Tensor) -> ExitReading:
    """Return what the exit of every path in the network's tree says.

    Nodes are visited depth first, so at most one batch of tokens per depth is alive.

    Args:
        network: The model.
        pixel_values: `(batch, channels, height, width)`.

    Returns:
        Logits `(batch, paths, labels)`, variances `(batch, paths)`, paths in the tree's order.
    """
    tree = network.router.tree
    hidden = network.embed(pixel_values)
    logits = torch.empty(len(hidden), len(tree.paths), network.num_labels, device=hidden.device)
    variance = torch.empty(logits.shape[:2], device=hidden.device)
    pending = [(node, hidden) for node in tree.children(ROOT)]
    while pending:
        node, hidden = pending.pop()
        path = tree.paths[node]
        hidden = network.run_segment(len(path) - 1, network.level_list[path[-1]], hidden)
        logits[:, node], variance[:, node] = network.read_exit(len(path) - 1, hidden)
        pending += [(child, hidden) for child in tree.children(node)]
    return ExitReading(logits, variance)


def tree_logits(network: Network, pixel_values: Tensor) -> Tensor:
    """Return the logits of every path, `(batch, paths, labels)`, by the steps that routing takes.

    Args:
        network: The model.
        pixel_values: `(batch, channels, height, width)`.
    """
    tree = network.router.tree
    hidden: Tensor | None = network.embed(pixel_values)
    logits = torch.empty(len(pixel_values), len(tree.paths), network.num_labels, device=pixel_values.device)
    seen: Tensor | None = None
    pending = [(node, hidden, seen) for node in tree.children(ROOT)]
    while pending:
        node, hidden, seen = pending.pop()
        assert hidden is not None
        path = tree.paths[node]
        step = network.advance(len(path) - 1, network.level_list[path[-1]], hidden, seen)
        logits[:, node] = step.reached.logits
        pending += [(child, step.hidden, step.reached.seen) for child in tree.children(node)]
    return where_finite(logits, pixel_values)
