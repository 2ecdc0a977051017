"""`SizedProgram`: a graph, compiled for the batch size that comes most often, and for any other."""

import threading
from collections.abc import Callable, Sequence
from typing import NamedTuple

from torch import Tensor

# From contiguous float32 tensors on the CPU, in the order of the graph's inputs, to those of its outputs.
Program = Callable[[Sequence[Tensor]], Sequence[Tensor]]

_ENOUGH = 8  # batches of one size that make it worth compiling for


class _Fixed(NamedTuple):
    size: int
    program: Program


class SizedProgram:
    """Runs a graph, on batches of one size faster than on others.

    What is compiled for one batch size is faster than what is compiled for any. The first size to come is
    compiled for. At the second the graph is compiled for any size, too; what was made for the first is
    dropped unless it has been used often. Another size is compiled for in place of the first when it comes
    often enough in a row; how often that is doubles each time. So at most two programs are kept.

    Args:
        compile: Makes a program for a batch size, or for any, `None`.
    """

    def __init__(self, compile: Callable[[int | None], Program]) -> None:
        self._compile = compile
        self._lock = threading.Lock()
        self._fixed: _Fixed | None = None
        self._free: Program | None = None
        self._last = 0  # size of the batch before
        self._count = 0  # of batches of that size in a row
        self._enough = _ENOUGH

    def __call__(self, inputs: Sequence[Tensor]) -> Sequence[Tensor]:
        """Run it on inputs of one batch size."""
        return self._choose(len(inputs[0]))(inputs)

    def _choose(self, size: int) -> Program:
        with self._lock:
            before, count = self._last, self._count
            self._last, self._count = size, count + 1 if size == before else 1
            if self._fixed is not None and self._fixed.size == size:
                return self._fixed.program
            if self._free is None:
                if self._fixed is None and size:
                    return self._fix(size)
                self._free = self._compile(None)
                if count < _ENOUGH:
                    self._fixed = None
            elif size and self._count >= self._enough:
                self._enough *= 2
                return self._fix(size)
            return self._free

    def _fix(self, size: int) -> Program:
        self._fixed = _Fixed(size, self._compile(size))
        return self._fixed.program
