"""Heads and gates trained together, in turns, for one price of depth each (JEI-DNN)."""

from collections.abc import Callable
from copy import deepcopy
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from quee_hf.baselines.confidence import largest_probability, margin
from quee_hf.baselines.sweep import GateData, Sweep, leave_at_first
from quee_hf.execution.path_outputs import PathOutputs
from quee_hf.exits.loss import cross_entropies
from quee_hf.routing.router import Router

LAMBDAS = (0.0, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 5.0)  # QuEE sweeps 0 to 5, too
_TURN, _BATCH_SIZE, _NUM_EPOCHS = 200, 64, 30  # batches in a turn; images; epochs
_HEAD_RATE, _GATE_RATE = 1e-4, 2e-2  # four numbers and a bias learn nothing at the rate of heads
_LARGEST_WEIGHT = 5.0  # of images that should leave
_NUM_FEATURES = 4

# From what the trainable heads read, (images, exits - 1, size), to their logits, (images, exits - 1, labels).
Heads = Callable[[Tensor], Tensor]


class JointGates(nn.Module):
    """One gate for each exit but the last: a linear layer on four numbers, and a sigmoid."""

    def __init__(self, num_gates: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(num_gates, _NUM_FEATURES) / _NUM_FEATURES**0.5)
        self.bias = nn.Parameter(torch.zeros(num_gates))

    def forward(self, logits: Tensor) -> Tensor:
        """Map the exits' logits, `(images, gates, labels)`, to the logit of leaving there."""
        scores: Tensor = (exit_scores(logits.detach()) * self.weight).sum(dim=-1) + self.bias
        return scores


def exit_scores(logits: Tensor) -> Tensor:
    """Return how sure exits are: largest probability, entropy, margin, entropy of squared probabilities.

    Args:
        logits: `(..., labels)`.

    Returns:
        `(..., 4)`, float32.
    """
    probabilities = logits.softmax(dim=-1)
    squared = functional.normalize(probabilities.square(), p=1, dim=-1)
    entropies = [torch.special.entr(part).sum(dim=-1) for part in (probabilities, squared)]
    scores = [largest_probability(probabilities), entropies[0], margin(probabilities), entropies[1]]
    return torch.stack(scores, dim=-1)


def leaving_shares(leaving: Tensor) -> Tensor:
    """Return how likely an image leaves at each exit.

        share(exit) = max(0, min(leaving(exit), 1 - sum of the shares before)), and the rest at the last

    Args:
        leaving: `(images, exits - 1)`, what the gates say, from 0 to 1.

    Returns:
        `(images, exits)`; rows sum to 1.
    """
    shares, rest = [], torch.ones_like(leaving[:, 0])
    for value in leaving.unbind(dim=1):
        shares.append(torch.minimum(value, rest).clamp_min(0))
        rest = rest - shares[-1]
    return torch.stack([*shares, rest], dim=1)


def train_jointly(
    heads: nn.Module, compute: Heads, data: GateData, *, cost_lambda: float, num_epochs: int = _NUM_EPOCHS
) -> JointGates:
    """Train heads, in place, and gates in turns of 200 batches.

    Heads learn the cross entropy of every exit, weighed by how likely an image leaves there; gates learn to
    leave at the exit of least doubt + cost_lambda * cost, and at those after it. Of the turns, what
    was best on `data.stopping` is kept.

    Args:
        heads: Those before the last exit, trained on their own already.
        compute: Applies them.
        data: With `pooled` outputs; half of the training images are for heads, half for gates.
        cost_lambda: What the cost of the full path is worth in probability of the right class.
        num_epochs: How often all images are gone through.

    Source:
        Regol et al. 2024 (JEI-DNN, arXiv:2310.09163), and its public code for features, turns and weights.
        Differs: the backbone's own head at the last exit stays; gates learn from other images than heads,
        which with a few thousand images know theirs by heart; what gates are taught to weigh against cost is
        one less the probability of the right class, as the code offers, since cross entropies of images that
        all exits find easy differ by chance; Adam, as in QuEE's experiments; and gates' weights are at least
        1 / 5, or a gate at which all should leave would learn nothing.
    """
    nodes = data.router.tree.exact_nodes
    prices = cost_lambda * data.router.costs[nodes]
    num_steps = 2 * _TURN * max(1, round(num_epochs * len(data.training) / _BATCH_SIZE / 2 / _TURN))
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        torch.manual_seed(data.seed)
        gates = JointGates(len(nodes) - 1)
        modules = nn.ModuleList([heads, gates])
        halves = map(data.training.select, torch.randperm(len(data.training)).tensor_split(2))
        for_heads, for_gates, held_out = (_Images.of(part, nodes[-1]) for part in (*halves, data.stopping))
        rates = {heads: _HEAD_RATE, gates: _GATE_RATE}
        optimizer = torch.optim.Adam(
            [{"params": list(part.parameters()), "lr": rate} for part, rate in rates.items()]
        )
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, num_steps)
        best, kept = torch.inf, deepcopy(modules.state_dict())
        for step in range(num_steps):
            if step % (2 * _TURN) < _TURN:
                loss = _loss_of_heads(for_heads.draw(), compute, gates)
            else:
                if step % _TURN == 0:
                    weights = _gate_weights(for_gates.doubts(compute), prices)
                loss = _loss_of_gates(for_gates.draw(), compute, gates, prices, weights)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            schedule.step()
            if (step + 1) % (2 * _TURN) == 0:
                found = _held_out_loss(held_out, compute, gates, prices)
                if found < best:
                    best, kept = found, deepcopy(modules.state_dict())
        modules.load_state_dict(kept)
    return gates


@torch.inference_mode()
def leave_by_gates(settings: list[tuple[Tensor, Tensor]], router: Router, outputs: PathOutputs) -> Sweep:
    """Let images leave at the first exit whose gate says at least one half.

    Args:
        settings: For each price the logits of the heads before the last exit, `(images, exits - 1, labels)`,
            and of leaving, `(images, exits - 1)`.
        router: The paths and their costs.
        outputs: Of all paths; the classes of the last exit are taken from here.
    """
    nodes = router.tree.exact_nodes
    sweeps = []
    for logits, leaving in settings:
        may_leave = functional.pad(leaving >= 0, (0, 1))  # whatever is said of the last
        own = outputs.logits.clone()
        own[:, nodes[:-1]] = logits
        changed = PathOutputs(own, outputs.variance, outputs.labels)
        sweeps.append(leave_at_first(may_leave[None], router, changed))
    return Sweep(*(torch.cat(parts) for parts in zip(*sweeps, strict=True)))


class _Images(NamedTuple):
    """What the trainable heads read of images, and what the last exit says of them."""

    pooled: Tensor  # (images, exits - 1, size)
    last: Tensor  # (images, 1, labels), logits
    labels: Tensor  # (images,)

    @classmethod
    def of(cls, outputs: PathOutputs, last_node: int) -> "_Images":
        assert outputs.pooled is not None
        return cls(outputs.pooled, outputs.logits[:, [last_node]], outputs.labels)

    def draw(self) -> "_Images":
        """Return a batch of them."""
        chosen = torch.randint(len(self.labels), (_BATCH_SIZE,))
        return _Images(*(part[chosen] for part in self))

    def losses(self, compute: Heads) -> Tensor:
        """Return each exit's cross entropy, `(images, exits)`."""
        return cross_entropies(torch.cat([compute(self.pooled), self.last], dim=1), self.labels)

    def doubts(self, compute: Heads) -> Tensor:
        """Return one less each exit's probability of the right class, `(images, exits)`."""
        return 1 - (-self.losses(compute)).exp()


@torch.no_grad()
def _held_out_loss(images: _Images, compute: Heads, gates: JointGates, prices: Tensor) -> float:
    """Return what images lose where their gates let them leave: doubt and price of depth."""
    leaving = functional.pad(gates(compute(images.pooled)) >= 0, (0, 1), value=True)
    exits = leaving.int().argmax(dim=1, keepdim=True)
    return float((images.doubts(compute) + prices).gather(1, exits).mean())


def _loss_of_heads(images: _Images, compute: Heads, gates: JointGates) -> Tensor:
    """Weigh exits by their shares; an image counts as much as it does without weights."""
    logits = compute(images.pooled)
    losses = cross_entropies(torch.cat([logits, images.last], dim=1), images.labels)
    shares = leaving_shares(gates(logits).sigmoid()).detach()
    weighed, total = (losses * shares).sum(dim=1), losses.detach().sum(dim=1)
    return (weighed * total / weighed.detach().clamp_min(torch.finfo(losses.dtype).eps)).mean()


def _loss_of_gates(
    images: _Images, compute: Heads, gates: JointGates, prices: Tensor, weights: Tensor
) -> Tensor:
    with torch.no_grad():
        logits, wanted = compute(images.pooled), _should_leave(images.doubts(compute), prices)
    return functional.binary_cross_entropy_with_logits(gates(logits), wanted, pos_weight=weights)


def _should_leave(losses: Tensor, prices: Tensor) -> Tensor:
    """Return 1 for the best exit and those after it, `(images, exits - 1)`."""
    best = (losses + prices).argmin(dim=1)
    return (torch.arange(len(prices) - 1) >= best[:, None]).float()


@torch.no_grad()
def _gate_weights(losses: Tensor, prices: Tensor) -> Tensor:
    """Return for each gate how many images should stay for one that should leave, from 1 / 5 to 5."""
    leave = _should_leave(losses, prices).sum(dim=0)
    return ((len(losses) - leave) / leave.clamp_min(1)).clamp(1 / _LARGEST_WEIGHT, _LARGEST_WEIGHT)
