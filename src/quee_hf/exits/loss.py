"""The loss that trains all exits together. Pure function."""

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
    num_exits = logits.shape[1]
    losses = functional.cross_entropy(
        logits.transpose(1, 2), labels[:, None].expand(-1, num_exits), reduction="none"
    )  # (batch, exits)
    factors = torch.arange(num_exits, 0, -1, dtype=losses.dtype, device=losses.device)
    return (losses.mean(dim=0) * factors).sum()
