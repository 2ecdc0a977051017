"""`Calibration`: what one run over the calibration images leaves, from which every level can be made."""

from collections.abc import Callable, Iterable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor
from tqdm.auto import tqdm

from quee_hf.backbones.block import Block
from quee_hf.backbones.trunk import Trunk
from quee_hf.ptq.gradients import GRADIENT_SOURCES
from quee_hf.ptq.method import PTQMethod
from quee_hf.ptq.observation import Seen, observe_block
from quee_hf.ptq.smoothquant import Smoothing, check_smoothing, smooth_block
from quee_hf.quantization.affine import WeightCodes, fit_codes, leading_bits
from quee_hf.quantization.layout import STORE_BITS
from quee_hf.quantization.linear import MultiLevelLinear
from quee_hf.quantization.matmul import MultiLevelMatmul


@dataclass(frozen=True)
class Wanted:
    """What to make for one product.

    Args:
        bit_widths: Which levels.
        makes_store: Whether nested levels get a new store, or share the one that is there.
        seed: Of random samples.
    """

    bit_widths: Sequence[int]
    makes_store: bool
    seed: int


@dataclass(frozen=True)
class Calibration:
    """Float weights, re-parameterised, and what enters each block on the calibration images.

    Its size grows with images x tokens x width x blocks, four bytes each (twice that with gradients), beside
    the float weights; not with the number of levels.

    Args:
        trunk: Float; a copy, which computes what the model's own does.
        method: Which codes and ranges to look for.
        smoothing: The alpha of each smoothed layer, `{"3.qkv": 0.5}`; blocks count from 1.
        hidden: Input of each block, `(images, tokens, width)` each.
        cotangents: Gradient of the method's loss with respect to each block's output; `None` if it needs
            none.
    """

    trunk: Trunk
    method: PTQMethod
    smoothing: dict[str, float]
    hidden: list[Tensor]
    cotangents: list[Tensor] | None

    @property
    def num_images(self) -> int:
        """How many images there were."""
        return len(self.hidden[0])

    @property
    def blocks(self) -> list[Block]:
        """The float blocks."""
        return cast(list[Block], list(self.trunk.blocks))

    def observe(self, number: int) -> dict[str, Seen]:
        """Return what each product of a block, counted from 1, sees on the calibration images."""
        cotangent = None if self.cotangents is None else self.cotangents[number - 1]
        return observe_block(self.blocks[number - 1], number, self.hidden[number - 1], cotangent)[0]

    @classmethod
    @torch.no_grad()
    def collect(
        cls,
        trunk: Trunk,
        batches: Iterable[Tensor],
        method: PTQMethod,
        *,
        smoothing: Smoothing = None,
        classify: Callable[[Tensor], Tensor] | None = None,
        seed: int = 0,
    ) -> "Calibration":
        """Run the calibration images through a float trunk.

        Args:
            trunk: With float weights; not changed.
            batches: `(batch, channels, height, width)` each.
            method: Decides what is collected.
            smoothing: `None`, "search", or one alpha for all.
            classify: From the trunk's output to logits: to check them, and for methods that need gradients.
            seed: Of random labels and perturbations.

        Raises:
            ValueError: If there are no images, or an activation is not finite; the message names the module.
        """
        check_smoothing(smoothing)
        embedded = [trunk.embed(pixel_values) for pixel_values in batches]
        if not embedded:
            raise ValueError("There are no calibration images.")
        trunk = deepcopy(trunk).float()
        state, hidden = torch.cat(embedded).float(), []
        alphas: dict[str, float] = {}
        blocks = cast(list[Block], list(trunk.blocks))
        for number, block in enumerate(tqdm(blocks, desc="Calibrating", unit="block"), start=1):
            seen, output = observe_block(block, number, state)
            if smoothing is not None:
                found = smooth_block(block, seen, smoothing)
                alphas |= {f"{number}.{name}": alpha for name, alpha in found.items()}
                seen, _ = observe_block(block, number, state)
            method.fold(block, seen, is_smoothed=smoothing is not None)
            hidden.append(state)
            state = output
        if classify is not None:
            _check_logits(classify, state, [len(batch) for batch in embedded])
        cotangents = None
        if method.gradients is not None:
            assert classify is not None, f"{method.name} needs `classify`."
            cotangents = GRADIENT_SOURCES[method.gradients](trunk, classify, hidden, seed)
        return cls(trunk, method, alphas, hidden, cotangents)

    @torch.no_grad()
    def quantize(self, target: Trunk, bit_widths: Sequence[int] | None = None) -> None:
        """Give a trunk its float parts, and codes and ranges.

        Args:
            target: Made for this calibration's scheme; changed in place.
            bit_widths: Which to make, of those it is laid out for, if the others are there already.
        """
        target.copy_float_parts(self.trunk)
        blocks = cast(list[Block], list(target.blocks))
        for number, block in enumerate(tqdm(blocks, desc="Quantizing", unit="block"), start=1):
            seen, sources = self.observe(number), self.blocks[number - 1].products
            for index, (name, product) in enumerate(block.products.items()):
                chosen = product.layout.bit_widths
                if bit_widths is not None:
                    chosen = [bits for bits in chosen if bits in bit_widths]
                wanted = Wanted(chosen, bit_widths is None, 100 * number + index)
                # Let go of what is done: a block's activations are the largest thing in memory.
                what = seen.pop(name)
                if isinstance(product, MultiLevelMatmul):
                    if chosen:
                        self._quantize_matmul(product, what, wanted)
                elif chosen:
                    weight = cast(MultiLevelLinear, sources[name]).float_weight.detach()
                    self._quantize_linear(product, weight, what, wanted)

    def _quantize_linear(self, target: MultiLevelLinear, weight: Tensor, seen: Seen, wanted: Wanted) -> None:
        search = self.method.prepare_linear(target, weight, seen, wanted.seed)
        if target.layout.is_nested and wanted.makes_store:
            target.store_nested(search(STORE_BITS, None)[0].codes)
        for bits in wanted.bit_widths:
            given: WeightCodes | None = None
            if target.layout.is_nested:
                given = fit_codes(weight, leading_bits(target.load_nested(), STORE_BITS, bits))
            codes, parameters = search(bits, given)
            target.store(bits, codes)
            target.input.store(bits, **parameters)

    def _quantize_matmul(self, target: MultiLevelMatmul, seen: Seen, wanted: Wanted) -> None:
        search = self.method.prepare_matmul(target, seen, wanted.seed)
        for bits in wanted.bit_widths:
            left, right = search(bits)
            target.left.store(bits, **left)
            target.right.store(bits, **right)

    def state_dict(self) -> dict[str, Tensor]:
        """Return its tensors, by name, fit for safetensors."""
        tensors = {f"trunk.{name}": tensor for name, tensor in self.trunk.state_dict().items()}
        for name, parts in (("hidden", self.hidden), ("cotangents", self.cotangents or [])):
            tensors |= {f"{name}.{index}": part for index, part in enumerate(parts)}
        return {name: tensor.contiguous() for name, tensor in tensors.items()}

    @classmethod
    def from_state_dict(
        cls, tensors: dict[str, Tensor], trunk: Trunk, method: PTQMethod, smoothing: dict[str, Any]
    ) -> "Calibration":
        """Rebuild what `state_dict` returned.

        Args:
            tensors: As returned.
            trunk: Float, of the same config; not changed.
            method: As it was.
            smoothing: As it was.
        """

        def parts(name: str) -> list[Tensor]:
            count = sum(key.startswith(f"{name}.") for key in tensors)
            return [tensors[f"{name}.{index}"] for index in range(count)]

        trunk = deepcopy(trunk)
        prefix = "trunk."
        weights = {key[len(prefix) :]: tensors[key] for key in tensors if key.startswith(prefix)}
        trunk.load_state_dict(weights)
        return cls(trunk, method, smoothing, parts("hidden"), parts("cotangents") or None)


def _check_logits(classify: Callable[[Tensor], Tensor], output: Tensor, batch_sizes: list[int]) -> None:
    """Refuse a trunk's output that gets no finite logits; blocks are checked when they are observed."""
    if not all(classify(part).isfinite().all() for part in output.split(batch_sizes)):
        raise ValueError(
            "The logits hold NaN or infinity on the calibration images: look at the norm after the last block"
            " and at the head."
        )
