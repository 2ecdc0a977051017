"""Leaving once several exits in a row agree."""

import torch

from quee_hf.baselines.sweep import GateData, Method, Sweep, leave_at_first
from quee_hf.execution.path_outputs import PathOutputs


def by_patience(data: GateData) -> Method:
    """Let an image leave once so many exits in a row have confirmed its class; there is nothing to learn.

    Settings are patience 1, 2, ... and, last, never to leave early.

    Source:
        Zhou et al. 2020 (PABEE, arXiv:2006.04152). Differs: each image counts for itself; the public code
        waits until a whole batch agrees.
    """
    router = data.router

    def method(outputs: PathOutputs) -> Sweep:
        classes = outputs.logits[:, router.tree.exact_nodes].argmax(dim=-1)  # (images, exits)
        agrees = classes[:, 1:] == classes[:, :-1]
        confirmed = torch.zeros_like(classes)
        for position in range(1, classes.shape[1]):
            confirmed[:, position] = (confirmed[:, position - 1] + 1) * agrees[:, position - 1]
        patience = torch.arange(1, classes.shape[1] + 1)
        return leave_at_first(confirmed >= patience[:, None, None], router, outputs)

    return method
