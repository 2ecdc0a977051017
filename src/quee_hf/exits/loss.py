"""The loss that trains all exits together. Pure functions."""

import torch
from torch import Tensor
from torch.nn import functional

_TEMPERATURE = 2.0


def scaled_exit_losses(logits: Tensor, labels: Tensor) -> Tensor:
    """Sum the exits' cross entropies, earlier exits weighing more.

        loss(image) = sum over exits e = 1..E of (E - e + 1) * CE(e)

    With a frozen backbone the exits share no weights: the factors only set how strongly a global gradient
    clip or weight decay acts on each.

    Args:
        logits: `(batch, exits, labels)`.
        labels: `(batch,)`, int64.

    Returns:
        `(batch,)`.

    Source:
        "Scaled loss" of Regol et al. 2024 (JEI-DNN, arXiv:2310.09163), as its public code has it.
    """
    return _scaled(cross_entropies(logits, labels))


def cosine_distillation_losses(outputs: Tensor, teacher: Tensor) -> Tensor:
    """Sum how far the exits' directions are from the teacher's, earlier exits weighing more.

        loss(image) = sum over exits e = 1..E of (E - e + 1) * (1 - cos(output_e, teacher))

    Args:
        outputs: `(batch, exits, size)`, embeddings (CLIP) or class logits (others).
        teacher: `(batch, size)`, the same of a full-precision network's last exit.

    Returns:
        `(batch,)`.

    Source:
        Full-precision distillation of LRA-EE (arXiv:2605.26415), §5.1. Differs: class logits where there is
        no embedding, and the factors, which are those of the cross entropy beside it.
    """
    return _scaled(1 - functional.cosine_similarity(outputs, teacher[:, None], dim=-1))


def soft_distillation_losses(logits: Tensor, teacher: Tensor) -> Tensor:
    """Sum how far the exits' softened probabilities are from the teacher's, earlier exits weighing more.

        loss(image) = sum over exits e = 1..E of (E - e + 1) * T^2 * KL(p(teacher), p(logits_e)),
        p(x) = softmax(x / T)

    Args:
        logits: `(batch, exits, labels)`.
        teacher: `(batch, labels)`, class logits of a full-precision network's last exit.

    Returns:
        `(batch,)`.

    Source:
        Hinton et al. 2015 (arXiv:1503.02531), §2.1, with T = 2.
    """
    student, wanted = (part.div(_TEMPERATURE).log_softmax(dim=-1) for part in (logits, teacher[:, None]))
    gaps = functional.kl_div(student, wanted.expand_as(student), reduction="none", log_target=True)
    return _TEMPERATURE**2 * _scaled(gaps.sum(dim=-1))


def _scaled(losses: Tensor) -> Tensor:
    factors = torch.arange(losses.shape[1], 0, -1, dtype=losses.dtype, device=losses.device)
    return (losses * factors).sum(dim=1)


def cross_entropies(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the cross entropy of each exit or path for each image, `(batch, exits)`.

    Args:
        logits: `(batch, exits, labels)`.
        labels: `(batch,)`, int64.
    """
    repeated = labels[:, None].expand(-1, logits.shape[1])
    return functional.cross_entropy(logits.transpose(1, 2), repeated, reduction="none")
