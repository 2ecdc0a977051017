"""The ways to route that are compared: each is fitted to outputs of gate images, and routes test images."""

import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import Tensor
from tqdm.auto import tqdm
from transformers import set_seed

from quee_hf.baselines import BASELINES, Fit, GateData, Sweep
from quee_hf.baselines.joint_training import LAMBDAS, leave_by_gates, train_jointly
from quee_hf.baselines.sweep import exact_nodes, leave_at
from quee_hf.blueprint import segment_costs
from quee_hf.build.rebuild import rebuild
from quee_hf.build.training import Schedule, fit_gates
from quee_hf.diagnostics.report import as_sweep, route_images
from quee_hf.diagnostics.static_paths import AllOutputs, uniform_paths
from quee_hf.execution.operating_points import DEFAULT_LAMBDAS
from quee_hf.modeling import QuEEForImageClassification
from quee_hf.routing.costs import path_costs
from quee_hf.training.error_targets import ErrorTargets
from quee_hf.training.gates import GATE_ARGUMENTS

Run = Callable[[QuEEForImageClassification, GateData, AllOutputs, int], Sweep]


def _own(clusters: bool, features: str | None) -> Run:
    """Return how QuEE's gates are fitted and swept."""

    def run(model: QuEEForImageClassification, data: GateData, test: AllOutputs, num_epochs: int) -> Sweep:
        fields = {} if features is None else {"gate_features": features}
        with torch.random.fork_rng(devices=[]), tempfile.TemporaryDirectory() as folder:
            set_seed(data.seed)
            fresh = rebuild(model, **fields)
            training, targets = data.training, ErrorTargets.outcomes()
            if clusters:  # other images than gates are trained on
                order = torch.randperm(len(training)).tensor_split(2)
                targets = ErrorTargets.fit(fresh, training.select(order[0]), seed=data.seed)
                training = training.select(order[1])
            schedule = Schedule(num_epochs, GATE_ARGUMENTS["learning_rate"], data.seed)
            parts = (training, data.stopping)
            fit_gates(fresh, parts, schedule, Path(folder) / "checkpoints", targets=targets)
        return as_sweep(route_images(fresh, test.routable, DEFAULT_LAMBDAS))

    return run


def _static(model: QuEEForImageClassification, _data: GateData, test: AllOutputs, _num_epochs: int) -> Sweep:
    """Run the whole network at each single level."""
    costs = path_costs(uniform_paths(model), segment_costs(model.config))
    is_correct = ~test.uniform.is_wrong.T
    return Sweep(is_correct, costs[:, None].expand(-1, is_correct.shape[1]))


def _joint(model: QuEEForImageClassification, data: GateData, test: AllOutputs, _num_epochs: int) -> Sweep:
    """Train heads and gates together, once for each price."""
    settings, routable = [], test.routable
    if routable.pooled is None:  # one exit: there is nothing to leave
        nodes = torch.tensor(exact_nodes(model.router.tree))[:, None].expand(-1, len(routable))
        return leave_at(nodes, routable, model.router.costs)
    for price in tqdm(LAMBDAS, desc="Training jei-dnn", unit="price", leave=False):
        twin = rebuild(model)
        compute = partial(_head_logits, twin)
        gates = train_jointly(
            twin.heads[:-1], compute, model.router, data.training, cost_lambda=price, seed=data.seed
        )
        with torch.inference_mode():
            logits = compute(routable.pooled)
            settings.append((logits, gates(logits)))
    return leave_by_gates(settings, model.router, routable)


def _head_logits(model: QuEEForImageClassification, pooled: Tensor) -> Tensor:
    """Return the logits of all heads but the last, `(images, exits - 1, labels)`."""
    return torch.stack([model.head_logits(i, pooled[:, i]) for i in range(pooled.shape[1])], dim=1)


def _baseline(fit: Fit) -> Run:
    def run(_model: QuEEForImageClassification, data: GateData, test: AllOutputs, _num_epochs: int) -> Sweep:
        return fit(data)(test.routable)

    return run


OWN = "quee"
METHODS: dict[str, Run] = {
    OWN: _own(clusters=False, features=None),
    "quee-paper": _own(clusters=True, features="probabilities"),
    "static": _static,
    "jei-dnn": _joint,
    **{name: _baseline(fit) for name, fit in BASELINES.items()},
}
