"""The ways to route that are compared: each is fitted to outputs of gate images, and routes test images."""

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm
from transformers import set_seed

from quee_hf.baselines import BASELINES, Fit, GateData, Sweep
from quee_hf.baselines.class_token import train_class_heads
from quee_hf.baselines.confidence import certainty, threshold_exits
from quee_hf.baselines.joint_training import LAMBDAS, leave_by_gates, train_jointly
from quee_hf.baselines.sweep import leave_at
from quee_hf.blueprint import head_spec, segment_costs, uniform_paths
from quee_hf.build.rebuild import rebuild
from quee_hf.build.training import Schedule, fit_gates
from quee_hf.diagnostics.report import as_sweep, route_images
from quee_hf.diagnostics.static_paths import AllOutputs
from quee_hf.execution.operating_points import DEFAULT_LAMBDAS
from quee_hf.exits.heads import ExitHead, cls_head
from quee_hf.modeling import QuEEForImageClassification
from quee_hf.routing.costs import path_costs
from quee_hf.training.error_targets import ErrorTargets
from quee_hf.training.gates import gate_arguments

_GATES = "gates."


class Fitted(NamedTuple):
    """What a fitted method gives test images; and, if they are of QuEE's kind, its gates' tensors."""

    sweep: Sweep
    gates: Mapping[str, Tensor]


Run = Callable[[QuEEForImageClassification, GateData, AllOutputs, int], Fitted]


@dataclass(frozen=True)
class OwnGates:
    """How QuEE's gates are fitted.

    Args:
        fields: Of the model's config, where they are to differ, and the type of gate.
        has_clusters: Whether gates learn error rates of clusters, as in the paper, or each image's outcome.
        num_clusters: Of them; chosen by their error on held-out images if not given.
        sees_test: Whether gates learn from the test images themselves: a ceiling, not a method. What it gains
            is lost to learning from few images; what the oracle gains beyond, exits do not know.
    """

    fields: Mapping[str, Any] = field(default_factory=lambda: {"gate_type": "error_predictor"})
    has_clusters: bool = False
    num_clusters: int | None = None
    sees_test: bool = False

    def __call__(
        self, model: QuEEForImageClassification, data: GateData, test: AllOutputs, num_epochs: int
    ) -> Fitted:
        """Fit gates anew, and route the test images at each of `DEFAULT_LAMBDAS`."""
        with torch.random.fork_rng(devices=[]), tempfile.TemporaryDirectory() as folder:
            set_seed(data.seed)
            fresh = self._fresh(model)
            training = test.routable if self.sees_test else data.training
            targets = ErrorTargets.outcomes()
            if self.has_clusters:  # other images than gates are trained on
                order = torch.randperm(len(training)).tensor_split(2)
                targets = ErrorTargets.fit(
                    fresh, training.select(order[0]), num_clusters=self.num_clusters, seed=data.seed
                )
                training = training.select(order[1])
            rate = gate_arguments(fresh.config.gate_type)["learning_rate"]
            schedule = Schedule(num_epochs, rate, data.seed)
            parts = (training, training if self.sees_test else data.stopping)
            if fresh.gates.numbers:  # else there is nothing to decide
                fit_gates(fresh, parts, schedule, Path(folder) / "checkpoints", targets=targets)
        sweep = as_sweep(route_images(fresh, test.routable, DEFAULT_LAMBDAS))
        tensors = {name: value for name, value in fresh.state_dict().items() if name.startswith(_GATES)}
        return Fitted(sweep, tensors)

    def restore(
        self, model: QuEEForImageClassification, gates: Mapping[str, Tensor]
    ) -> QuEEForImageClassification:
        """Return a model with gates that were fitted before."""
        fresh = self._fresh(model)
        fresh.load_state_dict(gates, strict=False)
        return fresh

    def _fresh(self, model: QuEEForImageClassification) -> QuEEForImageClassification:
        fields = dict(self.fields)
        if model.config.gate_type != fields["gate_type"]:
            fields.setdefault("gate_features", None)  # the model's are for gates of its own type
        return rebuild(model, **fields)


def _static(model: QuEEForImageClassification, _data: GateData, test: AllOutputs, _num_epochs: int) -> Fitted:
    """Run the whole network at each single level; these paths are counted after the model's own."""
    costs = path_costs(uniform_paths(model.config), segment_costs(model.config))
    is_correct = ~test.uniform.is_wrong.T
    nodes = torch.arange(len(costs), dtype=torch.int32) + len(model.paths)
    spread = (row[:, None].expand_as(is_correct).clone() for row in (costs, nodes))
    return Fitted(Sweep(is_correct, *spread), {})


def _joint(model: QuEEForImageClassification, data: GateData, test: AllOutputs, _num_epochs: int) -> Fitted:
    """Train heads and gates together, once for each price."""
    settings, routable = [], test.routable
    if routable.pooled is None:  # one exit: there is nothing to leave
        nodes = torch.tensor(model.router.tree.exact_nodes)[:, None].expand(-1, len(routable))
        return Fitted(leave_at(nodes, routable, model.router.costs), {})
    for price in tqdm(LAMBDAS, desc="Training jei-dnn", unit="price", leave=False):
        twin = rebuild(model)
        heads = nn.ModuleList(cast(ExitHead, head).network for head in twin.heads[:-1])
        compute = partial(_head_logits, twin, heads)
        gates = train_jointly(heads, compute, data, cost_lambda=price)
        with torch.inference_mode():
            logits = compute(routable.pooled)
            settings.append((logits, gates(logits)))
    return Fitted(leave_by_gates(settings, model.router, routable), {})


def _class_token(
    model: QuEEForImageClassification, data: GateData, test: AllOutputs, _num_epochs: int
) -> Fitted:
    """Train heads on the class token of each exit, and leave where their entropy is low."""
    routable, exits = test.routable, model.router.tree.exact_nodes[:-1]
    if routable.class_tokens is not None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(data.seed)
            heads = nn.ModuleList(cls_head(head_spec(model.config)) for _ in exits)
        compute = partial(_head_logits, model, heads)
        train_class_heads(heads, compute, data)
        with torch.inference_mode():
            logits = routable.logits.index_copy(1, torch.tensor(exits), compute(routable.class_tokens))
        routable = replace(routable, logits=logits)
    return Fitted(threshold_exits(model.router, routable, score=certainty), {})


def _head_logits(model: QuEEForImageClassification, heads: nn.ModuleList, read: Tensor) -> Tensor:
    """Return the logits of heads, `(images, heads, labels)`, of what each reads, `(images, heads, size)`."""
    return torch.stack([model.as_logits(head(read[:, i])) for i, head in enumerate(heads)], dim=1)


def _baseline(fit: Fit) -> Run:
    def run(_model: QuEEForImageClassification, data: GateData, test: AllOutputs, _num_epochs: int) -> Fitted:
        return Fitted(fit(data)(test.routable), {})

    return run


OWN = "quee"
_PAPERS = OwnGates(
    {"gate_type": "error_predictor", "gate_features": "probabilities", "gate_hidden_size": 32},
    has_clusters=True,
)
METHODS: dict[str, Run] = {
    OWN: OwnGates(),
    "quee-paper": _PAPERS,
    "lra-ee": OwnGates({"gate_type": "lra", "gate_features": "spatial"}),
    "static": _static,
    "cls-ee": _class_token,
    "jei-dnn": _joint,
    **{name: _baseline(fit) for name, fit in BASELINES.items()},
}
DEFAULT_METHODS = tuple(METHODS)
CLUSTER_METHODS = {f"clusters-{count}": count for count in (2, 5, 10, 20, 40, 70)}
METHODS |= {"quee-seeing-test": OwnGates(sees_test=True)}
METHODS |= {name: replace(_PAPERS, num_clusters=count) for name, count in CLUSTER_METHODS.items()}
