"""Blocks as PyTorch compiles them on CUDA, where the many small steps around a product become few kernels."""

import warnings
from collections.abc import Callable
from functools import cache
from typing import Protocol

import torch
from torch import Tensor
from torch._dynamo.exc import TorchDynamoException


class Runnable(Protocol):
    """A block that changes tokens in place."""

    def run(self, x: Tensor, tokens: int) -> None:
        """Change `(batch * tokens, hidden)`."""


Run = Callable[[Runnable, Tensor, int], None]


def run_as_it_is(block: Runnable, x: Tensor, tokens: int) -> None:
    """Run a block step by step."""
    block.run(x, tokens)


class CompiledRun:
    """Runs blocks compiled, or step by step where that fails, as without a compiler.

    All blocks that differ in their numbers only share a program, whatever the number of images; a single
    image, and fewer rows than a product takes, have one each.

    Args:
        backend: As `torch.compile` takes it.
    """

    def __init__(self, backend: str = "inductor") -> None:
        self._run: Run | None = torch.compile(run_as_it_is, dynamic=True, backend=backend)

    def __call__(self, block: Runnable, x: Tensor, tokens: int) -> None:
        """Run a block."""
        if self._run is not None:
            try:
                return self._run(block, x, tokens)
            except TorchDynamoException as error:  # before anything ran
                reason = " ".join(str(error).split())[:200]
                warnings.warn(f"Blocks cannot be compiled, and run slower: {reason}", stacklevel=2)
                self._run = None
        return run_as_it_is(block, x, tokens)


@cache
def block_runner(device_type: str) -> Run:
    """Return what runs blocks on a kind of device."""
    return CompiledRun() if device_type == "cuda" else run_as_it_is
