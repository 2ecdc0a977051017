"""Predicting what each next step is worth, instead of how likely each path is to err."""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap
from tqdm.auto import tqdm

from quee_hf.baselines.sweep import GateData, Method, Sweep, leave_at
from quee_hf.execution.operating_points import DEFAULT_LAMBDAS
from quee_hf.execution.path_outputs import PathOutputs
from quee_hf.gates.error_predictor import ErrorPredictor, encode_paths
from quee_hf.gates.features import GATE_FEATURES, seen_at_depth
from quee_hf.paths import PathTree
from quee_hf.routing.router import ROOT

_FEATURES = GATE_FEATURES["confidence"]
_HIDDEN_SIZE, _EMBEDDING_SIZE = 32, 8  # as the gates that it is compared with
_LEARNING_RATE, _NUM_EPOCHS, _BATCH_SIZE, _PATIENCE = 5e-3, 40, 128, 5
_CHUNK = 128  # images judged at once: each takes lambdas x options x hidden numbers


class _Depth(NamedTuple):
    """What can be done at one depth: leave at a node, or go on to one of its children."""

    depth: int
    nodes: list[int]  # where an image may stand
    options: list[int]  # nodes: those of this depth, to leave at, then those of the next
    is_open: Tensor  # (nodes, options), bool
    owners: Tensor  # (options,), int64: the position of the one node where each is open


class _Gates(nn.Module):
    """One predictor for each lambda, with equal shapes, so that all run as one."""

    def __init__(self, place: _Depth, data: GateData) -> None:
        super().__init__()
        self.place = place
        tree = data.router.tree
        paths = [tree.paths[node] for node in place.options]
        rows = encode_paths(paths, data.levels, len(tree.paths[-1]))
        size = _FEATURES.size(data.training.logits.shape[-1], place.depth) if place.depth else 0
        gates = [ErrorPredictor(size, rows, _HIDDEN_SIZE, _EMBEDDING_SIZE) for _ in DEFAULT_LAMBDAS]
        parameters, self._buffers_of_all = stack_module_state(list(gates))
        self._template = [gates[0].to("meta")]  # in a list: its parameters are not ours
        self.names = list(parameters)
        self.stacked = nn.ParameterList(parameters.values())

    def forward(self, features: Tensor) -> Tensor:
        """Map `(images, nodes, features)` to values, `(lambdas, images, options)`: each where it is open."""

        def run(parameters: dict[str, Tensor], buffers: dict[str, Tensor]) -> Tensor:
            values: Tensor = functional_call(
                self._template[0], (parameters, buffers), (features, self.place.owners)
            )
            return values

        parameters = dict(zip(self.names, self.stacked, strict=True))
        values: Tensor = vmap(run)(parameters, self._buffers_of_all)
        return values


def by_next_best_step(data: GateData) -> Method:
    """Predict for every step what the best path through it is worth, and take the best step.

        value(step) = min over the paths through it of error + cost_lambda * cost

    Lambda is part of what is learnt: there is one set of gates for each of `DEFAULT_LAMBDAS`, all trained
    side by side.

    Source:
        Regol et al. 2024 (arXiv:2406.14404), §7.3. Differs: errors are each image's own, and features the
        confidences, as for the gates that it is compared with.
    """
    places = _places(data.router.tree)
    gates = [_train(place, data) for place in tqdm(places, desc="Training next-best-step", unit="gate")]

    def method(outputs: PathOutputs) -> Sweep:
        chunks = torch.arange(len(outputs)).split(_CHUNK)
        nodes = [_walk(data.router.tree, gates, outputs.select(chunk)) for chunk in chunks]
        return leave_at(torch.cat(nodes, dim=1), outputs, data.router.costs)

    return method


def _places(tree: PathTree) -> list[_Depth]:
    """Return the depths at which there is something to choose."""
    places = []
    for depth in range(len(tree.paths[-1])):
        nodes = tree.at_depth(depth) if depth else [ROOT]
        options = [*(nodes if depth else []), *tree.at_depth(depth + 1)]
        rows = [[option == node or tree.parents[option] == node for option in options] for node in nodes]
        if any(sum(row) > 1 for row in rows):
            is_open = torch.tensor(rows)
            places.append(_Depth(depth, nodes, options, is_open, is_open.int().argmax(dim=0)))
    return places


def _features(place: _Depth, tree: PathTree, outputs: PathOutputs) -> Tensor:
    """Return what is known at each node of a depth, `(images, nodes, features)`."""
    if not place.depth:
        return torch.empty(len(outputs), 1, 0)
    summaries = _FEATURES.summarize(outputs.probabilities, outputs.variance)
    return _FEATURES.features(seen_at_depth(tree, place.depth, summaries), outputs.logits.shape[-1])


def _values(place: _Depth, data: GateData, outputs: PathOutputs) -> Tensor:
    """Return what each option was worth for each image, `(lambdas, images, options)`."""
    lambdas = torch.tensor(DEFAULT_LAMBDAS)[:, None, None]
    losses = outputs.is_wrong.float() + lambdas * data.router.costs
    tree, columns = data.router.tree, []
    for option in place.options:
        leaves = len(tree.paths[option]) == place.depth
        columns.append(losses[..., [option] if leaves else tree.descendants(option)].amin(dim=-1))
    return torch.stack(columns, dim=-1)


def _train(place: _Depth, data: GateData) -> _Gates:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(data.seed)
        gates = _Gates(place, data)
        optimizer = torch.optim.Adam(gates.parameters(), lr=_LEARNING_RATE)
        known, held_out = (
            (_features(place, data.router.tree, part), _values(place, data, part))
            for part in (data.training, data.stopping)
        )
        best = torch.full((len(DEFAULT_LAMBDAS),), torch.inf)
        kept, waited = [part.detach().clone() for part in gates.parameters()], 0
        for _ in range(_NUM_EPOCHS):
            for batch in torch.randperm(len(known[0])).split(_BATCH_SIZE):
                loss = _losses(gates, known[0][batch], known[1][:, batch]).sum()
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            losses = _held_out_losses(gates, *held_out)
            is_better = losses < best
            best = torch.where(is_better, losses, best)
            for saved, part in zip(kept, gates.parameters(), strict=True):
                saved[is_better] = part.detach()[is_better]
            waited = 0 if is_better.any() else waited + 1
            if waited == _PATIENCE:
                break
        with torch.no_grad():
            for saved, part in zip(kept, gates.parameters(), strict=True):
                part.copy_(saved)
    return gates


@torch.no_grad()
def _held_out_losses(gates: _Gates, features: Tensor, values: Tensor) -> Tensor:
    """Return what `_losses` does, chunk by chunk."""
    chunks = torch.arange(len(features)).split(_CHUNK)
    losses = [_losses(gates, features[chunk], values[:, chunk]) * len(chunk) for chunk in chunks]
    return torch.stack(losses).sum(dim=0) / len(features)


def _losses(gates: _Gates, features: Tensor, values: Tensor) -> Tensor:
    """Return the mean squared error of each lambda's gates, `(lambdas,)`."""
    losses: Tensor = (gates(features) - values).square().mean(dim=(1, 2))
    return losses


@torch.inference_mode()
def _walk(tree: PathTree, all_gates: list[_Gates], outputs: PathOutputs) -> Tensor:
    """Return where every image leaves for every lambda, `(lambdas, images)`."""
    node = torch.full((len(DEFAULT_LAMBDAS), len(outputs)), ROOT)
    only = tree.children(ROOT)
    if len(only) == 1:
        node.fill_(only[0])
    for gates in all_gates:
        place = gates.place
        values = gates(_features(place, tree, outputs))  # (lambdas, images, options)
        options, before = torch.tensor(place.options), node
        for position, stands_at in enumerate(place.nodes):
            best = values.masked_fill(~place.is_open[position], torch.inf).argmin(dim=-1)
            node = torch.where(before == stands_at, options[best], node)
    return node
