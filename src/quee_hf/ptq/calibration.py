"""One pass over calibration images: what range search needs to know of every activation, for all levels."""

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from quee_hf.backbones.block import Attention
from quee_hf.backbones.trunk import Trunk
from quee_hf.quantization.activation import ActivationQuantizer
from quee_hf.quantization.linear import MultiLevelLinear
from quee_hf.quantization.matmul import MultiLevelMatmul

SAMPLE_SIZE = 2**17  # values kept per activation; enough for the 1e-4 tails that decide ranges
_NUM_TAIL_POINTS = 256
_NUM_BODY_POINTS = 1024


@dataclass(frozen=True)
class WeightedPoints:
    """A distribution as weighted values: its tails one by one, its body as equal masses."""

    values: Tensor  # (points,), float32, ascending
    weights: Tensor  # (points,), float32


def summarize(sample: Tensor) -> WeightedPoints:
    """Shrink a sample to a thousand or so weighted points, keeping its extremes exactly."""
    ordered = sample.flatten().float().sort().values
    if len(ordered) <= 2 * _NUM_TAIL_POINTS + _NUM_BODY_POINTS:
        return WeightedPoints(ordered, torch.ones_like(ordered))
    low, high = ordered[:_NUM_TAIL_POINTS], ordered[-_NUM_TAIL_POINTS:]
    groups = ordered[_NUM_TAIL_POINTS:-_NUM_TAIL_POINTS].tensor_split(_NUM_BODY_POINTS)
    body = torch.stack([group.mean() for group in groups])
    mass = torch.tensor([float(len(group)) for group in groups])
    tail = torch.ones(_NUM_TAIL_POINTS)
    return WeightedPoints(torch.cat([low, body, high]), torch.cat([tail, mass, tail]))


class _Sampler:
    """Keeps a bounded random sample of everything one quantizer sees, its extremes included."""

    def __init__(self, name: str, values_per_call: int, generator: torch.Generator) -> None:
        self.name = name
        self._values_per_call = values_per_call
        self._generator = generator
        self._kept: list[Tensor] = []

    def add(self, x: Tensor) -> None:
        flat = x.detach().flatten().float().cpu()
        low, high = torch.aminmax(flat)
        if not (low.isfinite() and high.isfinite()):
            raise ValueError(
                f"The activations at {self.name} hold NaN or infinity on the calibration images."
            )
        picked = torch.randint(len(flat), (min(self._values_per_call, len(flat)),), generator=self._generator)
        self._kept += [flat[picked], low[None], high[None]]

    def points(self) -> WeightedPoints:
        return summarize(torch.cat(self._kept))


@torch.inference_mode()
def observe_activations(
    trunk: Trunk, batches: Iterable[Tensor], *, seed: int = 0
) -> dict[str, WeightedPoints]:
    """Run the float trunk on calibration images and summarize what every activation quantizer would see.

    Args:
        trunk: With float weights.
        batches: `(batch, channels, height, width)` each.
        seed: Of the random sample.

    Returns:
        A distribution per quantizer, by its name in the trunk.

    Raises:
        ValueError: If there are no images, or an activation is not finite; the message names the module.
    """
    batches = list(batches)
    if not batches:
        raise ValueError("There are no calibration images.")
    generator = torch.Generator().manual_seed(seed)
    samplers = {
        name: _Sampler(name, max(1, SAMPLE_SIZE // len(batches)), generator)
        for name, module in trunk.named_modules()
        if isinstance(module, ActivationQuantizer)
    }
    with _observed(trunk, samplers):
        for pixel_values in tqdm(batches, desc="Calibrating", unit="batch"):
            trunk.run_blocks(trunk.embed(pixel_values), 0, len(trunk.blocks), "fp32")
    return {name: sampler.points() for name, sampler in samplers.items()}


@contextmanager
def _observed(trunk: Trunk, samplers: dict[str, _Sampler]) -> Iterator[None]:
    """Feed the samplers from all quantized products, for as long as the block lasts."""

    def hook(*names: str) -> Any:
        def observe(_module: nn.Module, inputs: tuple[Any, ...]) -> None:
            for name, x in zip(names, inputs, strict=False):
                samplers[name].add(cast(Tensor, x))

        return observe

    with ExitStack() as stack:
        for name, module in trunk.named_modules():
            if isinstance(module, MultiLevelLinear):
                stack.callback(module.register_forward_pre_hook(hook(f"{name}.input")).remove)
            elif isinstance(module, MultiLevelMatmul):
                stack.callback(module.register_forward_pre_hook(hook(f"{name}.left", f"{name}.right")).remove)
            elif isinstance(module, Attention):
                module.is_observed = True
                stack.callback(setattr, module, "is_observed", False)
        yield
