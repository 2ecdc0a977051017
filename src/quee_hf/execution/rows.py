"""Taking some images out of a batch, and moving what the host has decided to a device."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from quee_hf.execution.buffers import empty
from quee_hf.routing.policy import Indices


def take_rows(x: Tensor, rows: Indices) -> Tensor:
    """Return a copy of some rows of a tensor."""
    taken = new_rows(x, len(rows))
    copy_rows(x, rows, taken)
    return taken


def new_rows(x: Tensor, count: int) -> Tensor:
    """Return a tensor of so many rows like those of another, not set."""
    shape = count, *x.shape[1:]
    return empty(shape) if _is_plain(x) else x.new_empty(shape)


def _is_plain(x: Tensor) -> bool:
    return x.device.type == "cpu" and x.dtype == torch.float32


def copy_rows(x: Tensor, rows: Indices, target: Tensor) -> None:
    """Copy some rows of a tensor to another.

    On the CPU this is one thread's work: PyTorch would wake all of its threads, which then wait for more and
    keep those of an engine from running.

    Args:
        x: `(batch, ...)`.
        rows: `(n,)`, in the order in which they are wanted.
        target: `(n, ...)`, of the same kind.
    """
    if _is_plain(x):
        # Other modes than "clip" make a copy more.
        np.take(x.numpy(force=True), rows, axis=0, out=target.numpy(), mode="clip")
    else:
        target.copy_(x[index_on(x.device, rows)])


def index_on(device: torch.device, rows: Indices) -> Tensor:
    """Return rows as an index on a device."""
    return send(torch.from_numpy(np.ascontiguousarray(rows)), device)


def send(x: Tensor, device: torch.device) -> Tensor:
    """Copy a few numbers from the host to a device; CUDA is not waited for.

    An ordinary copy would wait until the device has done all that it was given before. CUDA has a copy of its
    own of so few numbers when the call returns, so they need not be kept.
    """
    return x.to(device, non_blocking=device.type == "cuda")


def on_host(values: float | Tensor) -> float | NDArray[np.float32]:
    """Return one number as it is, and a tensor as an array."""
    return values.float().numpy(force=True) if isinstance(values, Tensor) else values
