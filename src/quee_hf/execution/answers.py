"""What a forward returns for images that were routed, or that were all sent along one path."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from quee_hf.execution.budget import BudgetController
from quee_hf.execution.feed import Batch, Feed
from quee_hf.execution.finite import where_finite
from quee_hf.execution.network import Network, SteadyNetwork
from quee_hf.execution.routed import routed_forward
from quee_hf.execution.rows import send
from quee_hf.execution.stream import stream_routes
from quee_hf.execution.walk import Routes
from quee_hf.exits.loss import scaled_exit_losses
from quee_hf.levels import Level
from quee_hf.outputs import QuEEImageClassifierOutput
from quee_hf.paths import Path
from quee_hf.routing.policy import Floats, Indices
from quee_hf.routing.router import Router


class ForcedPath(NamedTuple):
    """A path for all images; it need not be one that gates know."""

    levels: Path
    cost: float
    num_exits: int  # of the network


def answer(
    network: Network, pixel_values: Tensor, route: float | Tensor | BudgetController | ForcedPath
) -> QuEEImageClassifierOutput:
    """Classify images, `(batch, channels, height, width)`, at a lambda, one for each, or along one path.

    Logits are NaN of an image that holds NaN or infinity, whatever runs the network.
    """
    if isinstance(route, ForcedPath):
        return _forced_output(network, pixel_values, route)
    if isinstance(route, BudgetController):
        routes = _budgeted_routes(network, pixel_values, route)
    else:
        routes = routed_forward(network, pixel_values, route)
    routes.logits = where_finite(routes.logits, pixel_values)
    return _routed_output(routes, network.router)


def answer_stream(
    network: Network,
    batches: Iterable[Batch],
    route: float | Iterable[float] | BudgetController | ForcedPath,
    batch_size: int,
    device: torch.device,
) -> Iterator[QuEEImageClassifierOutput]:
    """Classify a data set; return an iterator over the output for each image, a batch of one, on the CPU.

    Args:
        network: The model.
        batches: As `Feed` takes them.
        route: Lambda, one per image, what finds one for each, or one path for all.
        batch_size: Images that a segment runs on.
        device: The network's.

    Raises:
        TypeError, ValueError: As `Feed` does, before any image is read.
        OutdatedError: While it runs, if the network's costs or classes change.
    """
    network = SteadyNetwork(network)
    if isinstance(route, ForcedPath):
        return _forced_outputs(network, Feed(batches, 0.0, batch_size, device), route)
    if isinstance(route, BudgetController):
        return _routed_outputs(network, _budgeted_stream(network, batches, route, batch_size, device))
    return _routed_outputs(network, stream_routes(network, Feed(batches, route, batch_size, device)))


def _routed_outputs(network: Network, results: Iterator[Routes]) -> Iterator[QuEEImageClassifierOutput]:
    router = network.router
    for routes in results:
        yield from _routed_output(routes, router).split()


def _budgeted_routes(network: Network, pixel_values: Tensor, controller: BudgetController) -> Routes:
    count = len(pixel_values)
    cost_lambda = controller.next_lambda(count)
    try:
        routes = routed_forward(network, pixel_values, cost_lambda)
    except BaseException:
        controller.release(cost_lambda, count)
        raise
    controller.settle(cost_lambda, network.router.costs.numpy()[routes.node.numpy()])
    return routes


def _budgeted_stream(
    network: Network,
    batches: Iterable[Batch],
    controller: BudgetController,
    batch_size: int,
    device: torch.device,
) -> Iterator[Routes]:
    """Return results at lambdas that a controller finds; bad arguments are refused now."""
    inside: Counter[float] = Counter()  # by their lambdas, images that have not left
    costs = network.router.costs.numpy()

    def next_lambdas() -> Iterator[float]:
        while True:
            cost_lambda = controller.next_lambda()
            inside[cost_lambda] += 1
            yield cost_lambda

    def settle(cost_lambdas: Floats, nodes: Indices) -> None:
        nonlocal inside
        controller.settle(cost_lambdas, costs[nodes])
        inside = inside - Counter(cost_lambdas.tolist())  # which keeps none that is 0

    def results(feed: Feed) -> Iterator[Routes]:
        try:
            yield from stream_routes(network, feed, settle)
        finally:  # whatever ends the stream
            controller.release(list(inside.elements()), inside.total())

    return results(Feed(batches, next_lambdas(), batch_size, device))


def _routed_output(routes: Routes, router: Router) -> QuEEImageClassifierOutput:
    node, device = routes.node.numpy(), routes.logits.device
    rows = router.path_rows[node]
    return QuEEImageClassifierOutput(
        logits=routes.logits,
        exit_index=_sent((rows >= 0).sum(axis=1) - 1, device),
        path=_sent(rows, device),
        cost=_sent(router.costs.numpy()[node], device),
        # A runtime may pass over NaN where it looks for the largest, and be sure of what it found.
        error_probability=send(routes.error, device).where(routes.logits.sum(dim=1).isfinite(), torch.nan),
        cost_lambda=send(routes.cost_lambda, device),
    )


def _forced_outputs(network: Network, feed: Feed, path: ForcedPath) -> Iterator[QuEEImageClassifierOutput]:
    for pixel_values, _ in feed:
        with torch.inference_mode():
            output = _forced_output(network, pixel_values, path)
        yield from output.split()
    feed.raise_failure()


def _forced_output(network: Network, pixel_values: Tensor, path: ForcedPath) -> QuEEImageClassifierOutput:
    logits = where_finite(network.run_path(pixel_values, path.levels), pixel_values)
    batch, unused = len(logits), path.num_exits - len(path.levels)
    row = np.array([*path.levels, *[-1] * unused], np.int16)
    return QuEEImageClassifierOutput(
        logits=logits,
        exit_index=_sent(np.full(batch, len(path.levels) - 1), logits.device),
        path=_sent(np.tile(row, (batch, 1)), logits.device),
        cost=_sent(np.full(batch, path.cost, np.float32), logits.device),
        error_probability=_sent(np.full(batch, np.nan, np.float32), logits.device),
        cost_lambda=_sent(np.full(batch, np.nan, np.float32), logits.device),
    )


def _sent(values: NDArray[Any], device: torch.device) -> Tensor:
    """Return what the host has found, of which there is little: NumPy makes it sooner than PyTorch."""
    return send(torch.from_numpy(values), device)


def training_output(
    network: Network, level: Level, num_exits: int, pixel_values: Tensor, labels: Tensor | None
) -> QuEEImageClassifierOutput:
    """Run all images to the end at one level; the loss, given labels, is that of all exits."""
    hidden, logits = network.embed(pixel_values), []
    for segment in range(num_exits):
        hidden = network.run_segment(segment, level, hidden)
        logits.append(network.read_exit(segment, hidden).logits)
    loss = None if labels is None else scaled_exit_losses(torch.stack(logits, dim=1), labels).mean()
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
