"""Choosing the bits of all later segments at the earliest exit; no image leaves early."""

from copy import deepcopy

import torch
from torch import Tensor, nn
from torch.nn import functional

from quee_hf.baselines.sweep import GateData, Method, Sweep, leave_at
from quee_hf.execution.path_outputs import PathOutputs
from quee_hf.exits.loss import cross_entropies
from quee_hf.gates.features import GATE_FEATURES

PENALTIES = (0.0, 0.01, 0.05, 0.1, 0.3, 0.5, 2.0, 10.0)  # of QuEE's experiments
_FEATURES = GATE_FEATURES["confidence"]
_HIDDEN_SIZE, _DROPOUT, _TEMPERATURE = 64, 0.2, 1.0
_LEARNING_RATE, _NUM_EPOCHS, _BATCH_SIZE, _PATIENCE = 1e-3, 60, 128, 10


class _Choice:
    """The paths through the whole network that begin as the most exact one, and what is known of an image."""

    def __init__(self, data: GateData) -> None:
        tree = data.router.tree
        self.tree, self.start = tree, tree.index[(0,)]
        depth = len(tree.paths[-1])
        self.paths = [node for node in tree.descendants(self.start) if len(tree.paths[node]) == depth]
        self.costs = data.router.costs[self.paths]
        rows = [tree.paths[node][1:] for node in self.paths]
        levels = torch.tensor(rows, dtype=torch.long)  # (paths, segments)
        # A path is worth the sum of what the controller gives its levels.
        self.codes = functional.one_hot(levels, len(data.levels)).flatten(1).float()

    def features(self, outputs: PathOutputs) -> Tensor:
        """Return what the earliest exit says, `(images, features)`."""
        first = _FEATURES.summarize(outputs.probabilities[:, self.start], outputs.variance[:, self.start])
        return _FEATURES.features(first[:, None], outputs.logits.shape[-1])

    def losses(self, outputs: PathOutputs) -> Tensor:
        """Return each path's cross entropy, `(images, paths)`."""
        return cross_entropies(outputs.logits[:, self.paths], outputs.labels)


def by_bit_controller(data: GateData) -> Method:
    """Let a small network choose the level of every later segment from what the earliest exit says.

        loss = CE(chosen path) + penalty * cost(chosen path)

    The choice is a hard Gumbel softmax in training, with gradients straight through, and an argmax later.
    There is one controller for each of `PENALTIES`.

    Source:
        DQNet as Regol et al. 2024 (arXiv:2406.14404) compare with it, §7.1. Differs: the network's weights
        stay, levels do not increase along a path, so it chooses among the paths that gates know, and the
        public code's draws at evaluation are an argmax.
    """
    choice = _Choice(data)
    if len(choice.paths) == 1:  # there is nothing to choose
        only = torch.tensor(choice.paths)[:, None]
        return lambda outputs: leave_at(only.expand(-1, len(outputs)), outputs, data.router.costs)
    known = [(choice.features(part), choice.losses(part)) for part in (data.training, data.stopping)]
    controllers = []
    for penalty in PENALTIES:
        training, held_out = ((features, losses + penalty * choice.costs) for features, losses in known)
        controllers.append(_train(choice, training, held_out, data.seed))

    def method(outputs: PathOutputs) -> Sweep:
        with torch.inference_mode():
            seen = choice.features(outputs)
            chosen = torch.stack([(c(seen) @ choice.codes.T).argmax(dim=-1) for c in controllers])
        return leave_at(torch.tensor(choice.paths)[chosen], outputs, data.router.costs)

    return method


def _train(
    choice: _Choice, training: tuple[Tensor, Tensor], held_out: tuple[Tensor, Tensor], seed: int
) -> nn.Module:
    known, losses = training
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        controller = nn.Sequential(
            nn.Linear(known.shape[1], _HIDDEN_SIZE),
            nn.ReLU(),
            nn.Dropout(_DROPOUT),
            nn.Linear(_HIDDEN_SIZE, choice.codes.shape[1]),
        )
        optimizer = torch.optim.Adam(controller.parameters(), lr=_LEARNING_RATE)
        best, kept, waited = torch.inf, deepcopy(controller.state_dict()), 0
        for _ in range(_NUM_EPOCHS):
            controller.train()
            for batch in torch.randperm(len(known)).split(_BATCH_SIZE):
                scores = controller(known[batch]) @ choice.codes.T
                drawn = functional.gumbel_softmax(scores, tau=_TEMPERATURE, hard=True)
                loss = (drawn * losses[batch]).sum(dim=-1).mean()
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            found = _held_out_loss(controller, choice, held_out)
            if found < best:
                best, kept, waited = found, deepcopy(controller.state_dict()), 0
            elif (waited := waited + 1) == _PATIENCE:
                break
    controller.load_state_dict(kept)
    return controller.eval()


@torch.inference_mode()
def _held_out_loss(controller: nn.Module, choice: _Choice, held_out: tuple[Tensor, Tensor]) -> float:
    known, losses = held_out
    chosen = (controller.eval()(known) @ choice.codes.T).argmax(dim=-1)
    return float(losses.gather(1, chosen[:, None]).mean())
