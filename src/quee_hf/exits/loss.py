"""The loss that trains all exits together. Pure functions."""

import torch
from torch import Tensor
from torch.nn import functional


def scaled_exit_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Sum the exits' cross entropies, earlier exits weighing more.

        loss = sum over exits e = 1..E of (E - e + 1) * CE(e)

    With a frozen backbone the exits share no weights: the factors only set how strongly a global gradient
    clip or weight decay acts on each.

    Args:
        logits: `(batch, exits, labels)`.
        labels: `(batch,)`, int64.

    Returns:
        Scalar, averaged over the batch.

    Source:
        "Scaled loss" of Regol et al. 2024 (JEI-DNN, arXiv:2310.09163), as its public code has it.
    """
    losses = cross_entropies(logits, labels)
    factors = torch.arange(logits.shape[1], 0, -1, dtype=losses.dtype, device=losses.device)
    return (losses.mean(dim=0) * factors).sum()


def cross_entropies(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the cross entropy of each exit or path for each image, `(batch, exits)`.

    Args:
        logits: `(batch, exits, labels)`.
        labels: `(batch,)`, int64.
    """
    repeated = labels[:, None].expand(-1, logits.shape[1])
    return functional.cross_entropy(logits.transpose(1, 2), repeated, reduction="none")
