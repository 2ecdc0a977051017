"""What a forward returns for images that were routed, or that were all sent along one path."""

from collections.abc import Sequence

import torch
from torch import Tensor

from quee_hf.execution.network import Network
from quee_hf.execution.routed import routed_forward, run_path
from quee_hf.exits.loss import scaled_exit_loss
from quee_hf.levels import Level
from quee_hf.outputs import QuEEImageClassifierOutput
from quee_hf.paths import Path


def routed_output(
    network: Network, pixel_values: Tensor, cost_lambda: float | Tensor
) -> QuEEImageClassifierOutput:
    """Route images, `(batch, channels, height, width)`, at one lambda for all or one for each."""
    routes, router = routed_forward(network, pixel_values, cost_lambda), network.router
    rows, device = router.path_rows[routes.node], routes.logits.device
    return QuEEImageClassifierOutput(
        logits=routes.logits,
        exit_index=((rows >= 0).sum(dim=1) - 1).to(device),
        path=rows.to(device),
        cost=router.costs[routes.node].to(device),
        error_probability=routes.error.to(device),
    )


def forced_output(
    network: Network, pixel_values: Tensor, path: Path, cost: float, num_exits: int
) -> QuEEImageClassifierOutput:
    """Run all images along one path, which costs so much and need not be one that gates know."""
    logits = run_path(network, pixel_values, path)
    batch, unused = len(logits), num_exits - len(path)
    row = torch.tensor([*path, *[-1] * unused], dtype=torch.int16, device=logits.device)
    return QuEEImageClassifierOutput(
        logits=logits,
        exit_index=torch.full((batch,), len(path) - 1, device=logits.device),
        path=row.repeat(batch, 1),
        cost=torch.full((batch,), cost, device=logits.device),
        error_probability=torch.full((batch,), torch.nan, device=logits.device),
    )


def training_output(
    network: Network, level: Level, num_exits: int, pixel_values: Tensor, labels: Tensor | None
) -> QuEEImageClassifierOutput:
    """Run all images to the end at one level; the loss, given labels, is that of all exits."""
    hidden, logits = network.embed(pixel_values), []
    for segment in range(num_exits):
        hidden = network.run_segment(segment, level, hidden)
        logits.append(network.read_exit(segment, hidden).logits)
    loss = None if labels is None else scaled_exit_loss(torch.stack(logits, dim=1), labels)
    return QuEEImageClassifierOutput(loss=loss, logits=logits[-1])


def path_of_levels(path: Sequence[Level] | None, levels: Sequence[Level], num_exits: int) -> Path:
    """Return a path that was given by its levels; `None` stands for the most exact to the end.

    Raises:
        ValueError: If it is empty, too long, or holds another level.
    """
    if path is None:
        return (0,) * num_exits
    if not 1 <= len(path) <= num_exits or any(level not in levels for level in path):
        raise ValueError(f"`path` must hold 1 to {num_exits} of the levels {list(levels)}, got {list(path)}.")
    return tuple(levels.index(level) for level in path)
