"""Early exits that read the class token, and are left where they are sure (CLS-EE)."""

from collections.abc import Callable
from copy import deepcopy

import torch
from torch import Tensor, nn

from quee_hf.baselines.sweep import GateData
from quee_hf.execution.path_outputs import PathOutputs
from quee_hf.exits.loss import cross_entropies

_LEARNING_RATE, _NUM_EPOCHS, _BATCH_SIZE, _PATIENCE = 1e-3, 40, 64, 5

# From class tokens, (images, exits - 1, hidden), to logits, (images, exits - 1, labels).
Heads = Callable[[Tensor], Tensor]


def train_class_heads(heads: nn.Module, compute: Heads, data: GateData) -> None:
    """Train heads on the class tokens of `data.training`, in place, until `data.stopping` gains no more.

    Args:
        heads: New ones, for the exits before the last.
        compute: Applies them.
        data: With `class_tokens`.

    Source:
        CLS-EE of LRA-EE (arXiv:2605.26415), table 2, after Teerapittayanon et al. 2016 (BranchyNet,
        arXiv:1709.01686). Differs: a frozen backbone; two layers, as the heads that they are compared with;
        and they learn from the images for gates.
    """
    best, kept, waited = torch.inf, deepcopy(heads.state_dict()), 0
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        torch.manual_seed(data.seed)
        optimizer = torch.optim.AdamW(heads.parameters(), lr=_LEARNING_RATE)
        for _ in range(_NUM_EPOCHS):
            for batch in torch.randperm(len(data.training)).split(_BATCH_SIZE):
                loss = _loss(data.training.select(batch), compute)
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                optimizer.step()
            with torch.no_grad():
                found = float(_loss(data.stopping, compute))
            if found < best:
                best, kept, waited = found, deepcopy(heads.state_dict()), 0
            elif (waited := waited + 1) == _PATIENCE:
                break
    heads.load_state_dict(kept)


def _loss(outputs: PathOutputs, compute: Heads) -> Tensor:
    assert outputs.class_tokens is not None
    return cross_entropies(compute(outputs.class_tokens), outputs.labels).sum(dim=1).mean()
