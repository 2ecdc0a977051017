"""Blocks at one level, prepared to run on integer kernels."""

from collections.abc import Sequence

import torch
from torch import Tensor

from quee_hf.backbones.block import Block, Mlp
from quee_hf.execution.integer.attention import PreparedAttention
from quee_hf.execution.integer.compiled import block_runner
from quee_hf.execution.integer.linear import CodeLinear, prepare_linear
from quee_hf.levels import Level

# Tokens that run through all blocks at a time on a CPU: fewer keep kernels waiting, more need new memory.
_ROWS_PER_THREAD = 256
_EXACT_GELU = "gelu"  # the name in transformers; others approximate it


class PreparedBlocks:
    """Blocks at a level, from tokens to tokens; weights are packed for the kernels once.

    Args:
        blocks: Of the model, in the order in which they run.
        level: At which the model runs.

    Raises:
        ValueError: If no integer kernel computes them.
    """

    def __init__(self, blocks: Sequence[Block], level: Level) -> None:
        self._blocks = [_PreparedBlock(block, level) for block in blocks]

    def __call__(self, hidden: Tensor) -> Tensor:
        """Map `(batch, tokens, hidden)` to the same shape, float32."""
        result = hidden.to(torch.float32, copy=True, memory_format=torch.contiguous_format)
        run = block_runner(hidden.device.type)
        for images in result.split(_num_together(hidden)):
            for block in self._blocks:
                run(block, images.flatten(0, 1), images.shape[1])
        return result


def _num_together(hidden: Tensor) -> int:
    """Return how many images run through all blocks at a time: all of them, but on a CPU."""
    if hidden.device.type != "cpu":
        return max(1, len(hidden))
    rows = _ROWS_PER_THREAD * max(2, torch.get_num_threads())
    return max(1, rows // hidden.shape[1])


class _PreparedBlock:
    """A block at a level; it works on the tokens in place."""

    def __init__(self, block: Block, level: Level) -> None:
        scale1, scale2 = (
            None if scale is None else scale.detach().float() for scale in (block.scale1, block.scale2)
        )
        self._attention = PreparedAttention(block.attention, level, scale1)
        self._mlp = _PreparedMlp(block.mlp, level, scale2)
        self._norm1 = self._attention.qkv.after(block.norm1)
        self._norm2 = self._mlp.fc1.after(block.norm2)

    def run(self, x: Tensor, tokens: int) -> None:
        """Change `(batch * tokens, hidden)`, float32; an image has so many tokens."""
        self._attention.add_to(x, self._norm1(x), tokens)
        self._mlp.add_to(x, self._norm2(x))


class _PreparedMlp:
    """An MLP at a level."""

    def __init__(self, mlp: Mlp, level: Level, factor: Tensor | None) -> None:
        self._activation, self._is_gated = mlp.activation, mlp.is_gated
        self._is_gelu = mlp.activation_name == _EXACT_GELU and not mlp.is_gated
        self.fc1 = prepare_linear(mlp.fc1, level)
        self._fc2 = prepare_linear(mlp.fc2, level, factor)

    def add_to(self, x: Tensor, value: Tensor) -> None:
        """Add the result to tokens in place; `value` is what `fc1` takes."""
        self._fc2.add_to(x, self._inner(value))

    def _inner(self, value: Tensor) -> Tensor:
        """Return what `fc2` takes."""
        if self._is_gelu and isinstance(self.fc1, CodeLinear) and isinstance(self._fc2, CodeLinear):
            return self.fc1.gelu_codes(value, self._fc2.range)
        inner = self.fc1(value)
        if not self._is_gated:
            return self._fc2.encode(self._activation(inner))
        gate, up = inner.chunk(2, dim=-1)
        return self._fc2.encode(self._activation(gate) * up)
