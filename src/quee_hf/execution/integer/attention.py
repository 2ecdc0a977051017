"""Attention of a block at one level, prepared."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from quee_hf.backbones.block import Attention
from quee_hf.execution.integer.linear import prepare_linear
from quee_hf.levels import Level
from quee_hf.quantization.integer import uniform_steps
from quee_hf.quantization.layout import ProductLayout


class PreparedAttention:
    """Attention whose linear layers are prepared, and whose products are of codes where the level says so.

    Where both products are of floats, PyTorch's fused attention computes them: in bfloat16 if both levels are
    "bf16", else in float32, which takes no longer.

    Args:
        attention: Of the model.
        level: At which the model runs.
        factor: What multiplies the result, `(hidden,)`, float32; `None` means ones.
    """

    def __init__(self, attention: Attention, level: Level, factor: Tensor | None) -> None:
        levels = [product.layout.computed_at(level) for product in (attention.scores, attention.mix)]
        self._float = torch.bfloat16 if levels == ["bf16", "bf16"] else torch.float32
        self._shape = (3, attention.num_heads, attention.head_size)
        self._codes: _CodeAttention | None = None
        steps = start = None
        if not all(isinstance(found, str) for found in levels):
            self._codes = _CodeAttention(attention, level)
            steps, start = self._codes.steps, self._codes.start
        self.qkv = prepare_linear(attention.qkv, level, steps, start)
        self._output = prepare_linear(attention.output, level, factor)

    def add_to(self, x: Tensor, value: Tensor, tokens: int) -> None:
        """Add the result to tokens, in place.

        Args:
            x: `(batch * tokens, hidden)`, float32.
            value: What `qkv` takes, of as many rows.
            tokens: Of an image.
        """
        qkv = self.qkv(value)
        shape = (len(qkv) // tokens, tokens, *self._shape)
        if self._codes is None:
            query, key, value = qkv.to(self._float).view(shape).permute(2, 0, 3, 1, 4)
            mixed = functional.scaled_dot_product_attention(query, key, value)
        else:
            mixed = self._codes(qkv, shape)
        self._output.add_to(x, self._output.encode(mixed).transpose(1, 2).reshape(x.shape))


class _CodeAttention:
    """Scores, softmax and mix, of which at least one product is of codes: whole numbers in float32."""

    def __init__(self, attention: Attention, level: Level) -> None:
        scores, mix = attention.scores, attention.mix
        device = next(attention.buffers()).device
        self._sides = [
            _side(scores.left, scores.layout, level, device),
            _side(scores.right, scores.layout, level, device),
            _side(mix.right, mix.layout, level, device),
        ]
        probabilities = _side(mix.left, mix.layout, level, device)
        self._round_probabilities = _ProbabilityRounding(probabilities)
        heads = (attention.num_heads, attention.head_size)
        scale = torch.stack([_channels(side.scale, *heads) for side in self._sides])
        zero_point = torch.stack([_channels(side.zero_point, *heads) for side in self._sides])
        # What numbers are multiplied with, and what is added, so that they count steps.
        self.steps, self.start = 1 / scale.flatten(), zero_point.flatten()
        # Steps of queries and values take in what else multiplies the products.
        query, key, value = scale
        value = value * _channels(probabilities.scale, *heads)
        self._step = torch.stack([query * attention.head_size**-0.5, key, value])
        self._zero = -zero_point * self._step

    def __call__(self, steps: Tensor, shape: tuple[int, ...]) -> Tensor:
        """Map queries, keys and values, `(rows, 3 * hidden)`, to `(batch, heads, tokens, size)`.

        Args:
            steps: What it holds is lost.
            shape: `(batch, tokens, 3, heads, size)`.
        """
        batch, tokens, parts, heads, size = shape
        self._round(steps)
        restored = steps.new_empty(parts, batch, heads, tokens, size)
        # Rounded numbers are restored and laid out by head in one go.
        torch.addcmul(self._zero, steps.view(shape), self._step, out=restored.permute(1, 3, 0, 2, 4))
        query, key, value = restored
        weights = (query @ key.transpose(-1, -2)).softmax(dim=-1)
        mixed: Tensor = self._round_probabilities(weights) @ value
        return mixed

    def _round(self, steps: Tensor) -> None:
        highest = [side.highest for side in self._sides]
        # One range for all takes a third of the calls.
        is_same = len(set(highest)) == 1
        for part, top in zip([steps] if is_same else steps.chunk(3, dim=1), highest, strict=False):
            if top is not None:
                part.clamp_(0, top).round_()


class _Side(NamedTuple):
    """How one side of a product is rounded: in steps, whose codes end at `highest`, or not at all."""

    scale: Tensor  # scalar or (heads, 1, 1), float32
    zero_point: Tensor  # as `scale`
    highest: int | None


class _ProbabilityRounding:
    """Rounds attention probabilities, `(batch, heads, tokens, tokens)`, in place."""

    def __init__(self, side: _Side) -> None:
        self._highest = side.highest
        self._steps = 1 / side.scale
        # A range of probabilities starts at 0, so 0 is its code; a quantizer could say otherwise.
        self._start = side.zero_point if side.zero_point.any() else None

    def __call__(self, x: Tensor) -> Tensor:
        """Return codes counted from the zero point, or `x` as it is if it is not rounded."""
        if self._highest is None:
            return x
        x.mul_(self._steps)
        if self._start is None:
            return x.clamp_(0, self._highest).round_()
        return x.add_(self._start).clamp_(0, self._highest).round_().sub_(self._start)


def _side(quantizer: object, layout: ProductLayout, level: Level, device: torch.device) -> _Side:
    """Return how a side of a product is rounded when the model runs at a level.

    Raises:
        ValueError: If its steps are not equal steps of a range known beforehand.
    """
    level = layout.computed_at(level)
    if isinstance(level, str):
        return _Side(torch.ones((), device=device), torch.zeros((), device=device), None)
    scale, zero_point = uniform_steps(quantizer, level)
    return _Side(scale, zero_point.float(), 2**level - 1)


def _channels(value: Tensor, num_heads: int, head_size: int) -> Tensor:
    """Repeat a value, or each head's, for every channel: `(heads, size)`."""
    return value.reshape(-1, 1).expand(num_heads, head_size)
