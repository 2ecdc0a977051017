"""A small path tree and outputs from which something can be learnt."""

import pytest
import torch

from quee_hf.baselines import GateData
from quee_hf.execution.path_outputs import PathOutputs
from quee_hf.paths import PathRules, PathTree
from quee_hf.routing.costs import path_costs
from quee_hf.routing.router import Router

NUM_EXITS, NUM_LABELS, LEVELS = 3, 4, [8, 4]


def router(first_level: str = "highest") -> Router:
    rules = PathRules(NUM_EXITS, num_levels=2, is_first_highest=first_level == "highest")
    paths = rules.enumerate()
    return Router(PathTree(tuple(paths)), path_costs(paths, [[8.0, 4.0]] * NUM_EXITS))


def outputs(router: Router, num_images: int = 200, seed: int = 0) -> PathOutputs:
    """Of images of different difficulty; deeper and more exact paths see more."""
    random = torch.Generator().manual_seed(seed)
    labels = torch.randint(NUM_LABELS, (num_images,), generator=random)
    sight = 6 * router.costs * torch.rand(num_images, 1, generator=random)
    noise = torch.randn(num_images, len(router.tree.paths), NUM_LABELS, generator=random)
    signal = torch.nn.functional.one_hot(labels, NUM_LABELS)[:, None] * sight[..., None]
    logits = signal + noise
    return PathOutputs(logits, logits[..., 0].square(), labels)


@pytest.fixture(params=["highest", "any"])
def data(request) -> GateData:
    tree = router(request.param)
    return GateData(tree, LEVELS, outputs(tree, 400, seed=1), outputs(tree, 200, seed=2), seed=0)
