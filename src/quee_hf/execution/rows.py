"""Taking some images out of a batch."""

import torch
from torch import Tensor

from quee_hf.routing.policy import Indices


def take_rows(x: Tensor, rows: Indices) -> Tensor:
    """Return a copy of some rows of a tensor.

    On the CPU this is one thread's work: PyTorch would wake all of its threads, which then wait for more and
    keep those of an engine from running.
    """
    if x.device.type == "cpu" and x.dtype == torch.float32 and not x.requires_grad:
        return torch.from_numpy(x.numpy()[rows])
    return x[torch.from_numpy(rows).to(x.device)]
