"""Floor and ceiling: routing that knows nothing of an image, and routing that knows all."""

import numpy as np
import torch

from quee_hf.baselines.sweep import GateData, Method, Sweep, geometric_shares, leave_at
from quee_hf.execution.operating_points import DEFAULT_LAMBDAS
from quee_hf.execution.path_outputs import PathOutputs
from quee_hf.routing.policy import choose_paths

# An image is given up at 1 / (cost of its cheapest right path - cost of the cheapest path).
_LAMBDAS = (0.0, *(1 / saving for saving in torch.linspace(1, 0.02, 50).tolist()))


def random_exits(data: GateData) -> Method:
    """Let images leave at exits drawn at random, all at the most exact level: the floor.

    The shares are `geometric_shares`; the draws depend on the seed and the number of images alone.
    """
    nodes = torch.tensor(data.router.tree.exact_nodes)
    shares = geometric_shares(len(nodes))

    def method(outputs: PathOutputs) -> Sweep:
        random = torch.Generator().manual_seed(data.seed)
        exits = torch.multinomial(shares, len(outputs), replacement=True, generator=random)
        return leave_at(nodes[exits], outputs, data.router.costs)

    return method


def best_path(data: GateData) -> Method:
    """Let all images take the one path that was best for the gates' images: what paths give without gates.

    path(cost_lambda) = argmin over paths of error rate + cost_lambda * cost
    """
    costs = data.router.costs
    errors = data.training.is_wrong.float().mean(dim=0, keepdim=True).expand(len(DEFAULT_LAMBDAS), -1)
    lambdas = np.array(DEFAULT_LAMBDAS, np.float32)
    chosen = torch.from_numpy(choose_paths(errors.numpy(), costs.numpy(), lambdas))

    def method(outputs: PathOutputs) -> Sweep:
        return leave_at(chosen[:, None].expand(-1, len(outputs)), outputs, costs)

    return method


def oracle(data: GateData) -> Method:
    """Choose for every image as if its true errors were known: the ceiling of all that gates can do.

    That is the cheapest path that is right, and the cheapest of all if none is; with a lambda above 1 images
    are given up whose right paths are dear.
    """
    costs = data.router.costs

    def method(outputs: PathOutputs) -> Sweep:
        errors = outputs.is_wrong.float().numpy()
        lambdas = [np.full(len(outputs), value, np.float32) for value in _LAMBDAS]
        chosen = np.stack([choose_paths(errors, costs.numpy(), value) for value in lambdas])
        return leave_at(torch.from_numpy(chosen), outputs, costs)

    return method
