"""Heads and gates trained together, in turns, for one price of depth each (JEI-DNN)."""

from collections.abc import Callable, Iterator
from itertools import islice

import torch
from torch import Tensor, nn
from torch.nn import functional

from quee_hf.baselines.confidence import largest_probability, margin
from quee_hf.baselines.sweep import Sweep, leave_at_first
from quee_hf.execution.path_outputs import PathOutputs
from quee_hf.exits.loss import cross_entropies
from quee_hf.routing.router import Router

LAMBDAS = (0.0, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0, 1.5, 2.0, 3.0, 5.0)  # from 0 to 5 in QuEE's experiments
_TURN, _BATCH_SIZE, _NUM_EPOCHS = 200, 64, 15  # batches in a turn; images; epochs of the smaller networks
_LEARNING_RATE, _LAST_RATE, _MOMENTUM, _WEIGHT_DECAY = 0.01, 2e-4, 0.9, 5e-4
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
    heads: nn.Module, compute: Heads, router: Router, training: PathOutputs, *, cost_lambda: float, seed: int
) -> JointGates:
    """Train heads, in place, and gates in turns of 200 batches.

    Heads learn the cross entropy of every exit, weighed by how likely an image leaves there; gates learn to
    leave at the exit of least cross entropy + cost_lambda * cost, and at those after it.

    Args:
        heads: Those before the last exit, trained on their own already.
        compute: Applies them.
        router: The paths and their costs.
        training: Outputs with `pooled`, of images to learn from.
        cost_lambda: What the cost of the full path is worth in cross entropy.
        seed: Of the order of the images.

    Source:
        Regol et al. 2024 (JEI-DNN, arXiv:2310.09163), and its public code for features, turns and weights.
        Differs: the backbone's own head at the last exit stays, and gates' weights are at least 1 / 5, or a
        gate at which all should leave would learn nothing.
    """
    nodes = router.tree.exact_nodes
    costs = router.costs.cpu()[nodes]
    assert training.pooled is not None
    gates = JointGates(len(nodes) - 1)
    last = training.logits[:, nodes[-1:]]
    num_steps = _NUM_EPOCHS * -(-len(training) // _BATCH_SIZE)
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        torch.manual_seed(seed)
        parameters = [*heads.parameters(), *gates.parameters()]
        optimizer = torch.optim.SGD(
            parameters, lr=_LEARNING_RATE, momentum=_MOMENTUM, weight_decay=_WEIGHT_DECAY
        )
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, num_steps, eta_min=_LAST_RATE)
        weights = torch.ones(len(nodes) - 1)
        for step, batch in enumerate(islice(_batches(len(training)), num_steps)):
            teaches_gates = step // _TURN % 2 == 1
            if teaches_gates and not step % _TURN:
                weights = _gate_weights(compute(training.pooled), last, training.labels, costs, cost_lambda)
            logits, labels = compute(training.pooled[batch]), training.labels[batch]
            losses = cross_entropies(torch.cat([logits, last[batch]], dim=1), labels)
            leaving = gates(logits)
            if teaches_gates:
                wanted = _should_leave(losses.detach(), costs, cost_lambda)
                loss = functional.binary_cross_entropy_with_logits(leaving, wanted, pos_weight=weights)
            else:
                loss = _weighed(losses, leaving_shares(leaving.sigmoid()).detach())
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            schedule.step()
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
    correct, costs = [], []
    for logits, leaving in settings:
        may_leave = functional.pad(leaving >= 0, (0, 1))  # whatever is said of the last
        own = outputs.logits.clone()
        own[:, nodes[:-1]] = logits
        sweep = leave_at_first(may_leave[None], router, PathOutputs(own, outputs.variance, outputs.labels))
        correct.append(sweep.is_correct)
        costs.append(sweep.cost)
    return Sweep(torch.cat(correct), torch.cat(costs))


def _batches(num_images: int) -> Iterator[Tensor]:
    while True:
        yield from torch.randperm(num_images).split(_BATCH_SIZE)


def _weighed(losses: Tensor, shares: Tensor) -> Tensor:
    """Weigh exits by their shares; an image counts as much as it does without weights."""
    weighed = (losses * shares).sum(dim=1)
    total = losses.detach().sum(dim=1)
    return (weighed * total / weighed.detach().clamp_min(torch.finfo(losses.dtype).eps)).mean()


def _should_leave(losses: Tensor, costs: Tensor, cost_lambda: float) -> Tensor:
    """Return 1 for the best exit and those after it, `(images, exits - 1)`."""
    best = (losses + cost_lambda * costs).argmin(dim=1)
    return (torch.arange(len(costs) - 1) >= best[:, None]).float()


@torch.no_grad()
def _gate_weights(logits: Tensor, last: Tensor, labels: Tensor, costs: Tensor, cost_lambda: float) -> Tensor:
    """Return for each gate how many images should stay for one that should leave, from 1 / 5 to 5."""
    losses = cross_entropies(torch.cat([logits, last], dim=1), labels)
    leave = _should_leave(losses, costs, cost_lambda).sum(dim=0)
    return ((len(labels) - leave) / leave.clamp_min(1)).clamp(1 / _LARGEST_WEIGHT, _LARGEST_WEIGHT)
