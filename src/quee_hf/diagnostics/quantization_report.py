"""What quantization does to a model, block by block: errors of weights, activations and outputs."""

import math
from collections.abc import Iterable, Iterator, Sequence
from statistics import fmean
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import functional
from tqdm.auto import tqdm

from quee_hf.backbones.block import Block
from quee_hf.diagnostics.report import rounded
from quee_hf.levels import Level, is_integer_level
from quee_hf.modeling import QuEEForImageClassification
from quee_hf.ptq.calibration import Calibration
from quee_hf.ptq.observation import Seen, observe_block
from quee_hf.quantization.activation import ActivationQuantizer
from quee_hf.quantization.affine import dequantize_weight
from quee_hf.quantization.linear import MultiLevelLinear
from quee_hf.quantization.matmul import MultiLevelMatmul

OUTLIER_SIGMAS = 6
_BATCH_SIZE = 32  # images at a time; changes nothing but memory
_FLOAT_TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}

Product = MultiLevelLinear | MultiLevelMatmul
Row = dict[str, Any]


@torch.no_grad()
def describe_quantization(
    model: QuEEForImageClassification, calibration: Calibration, pixel_values: Tensor
) -> dict[str, Any]:
    """Compare a quantized model with full precision on a few images, at each integer level.

        relative_error = |rounded - exact|**2 / |exact|**2;  sqnr_db = -10 log10(relative_error)

    Weights and activations are compared with those of the calibration's trunk, whose norms and weights have
    been re-parameterised like the model's. What a product reads is rounded on its own: the errors of the
    products before it are not in its error, but they are in the cosine of a block's output.

    Args:
        model: Quantized.
        calibration: That it was quantized with.
        pixel_values: `(images, channels, height, width)`, on the model's device. Memory grows with the
            images and what one block computes of them.

    Returns:
        Fit for JSON; blocks count from 1.

        - `by_level`: mean SQNR of weights and of activations over all products, in dB; cosine after the
          last block; `size_bytes`, as `level_size_bytes` has it.
        - `rounding`: error and SQNR of each tensor of each product at each level. A product's `weight` and
          `input`, or `left` and `right` operand; `computed_at` differs from `level` where the model keeps a
          product at another one. SQNR is `None` where nothing is lost. With corrected weights (`ridge`) the
          correction is part of the weight's error.
        - `outliers`: of each tensor that a product reads, in full precision: `share` of the numbers further
          than 6 standard deviations of the tensor from its mean, and `peak_ratio`, the largest magnitude over
          the median of the channels' largest magnitudes. A channel is a feature (of one head, if there are
          heads), and of probabilities the token that they are for. `None` if the median is 0.
        - `hidden`: cosine similarity between a block's output with all blocks up to it at a level and the
          same in full precision, all tokens of an image as one vector, mean over images.

    Raises:
        ValueError: If the model is not quantized, or with another calibration; if there are no images, or an
            activation is not finite.
    """
    _check(model, calibration, pixel_values)
    levels = [int(level) for level in model.level_list if is_integer_level(level)]
    exact = torch.cat([calibration.trunk.embed(batch) for batch in pixel_values.split(_BATCH_SIZE)])
    states = dict.fromkeys(levels, exact)
    rounding, outliers, hidden = [], [], []
    pairs = list(zip(calibration.trunk.blocks, model.trunk.blocks, strict=True))
    for number, (source, made) in enumerate(tqdm(pairs, desc="Comparing", unit="block"), start=1):
        block = cast(Block, made)
        seen, exact = observe_block(cast(Block, source), number, exact)
        for name, product in block.products.items():
            place, reads = {"block": number, "product": name}, _name_operands(seen.pop(name))
            weight = _weight_of(cast(Block, source).products[name])
            outliers += [{**place, "tensor": tensor, **_outliers(name, tensor, x)} for tensor, x in reads]
            rounding += [{**place, **row} for row in _errors(product, weight, reads, levels)]
        for level in levels:
            states[level] = torch.cat([block(batch, level) for batch in states[level].split(_BATCH_SIZE)])
            cosine = functional.cosine_similarity(states[level].flatten(1), exact.flatten(1)).mean()
            hidden.append({"block": number, "level": level, "cosine": rounded(cosine)})
        _release(block)
    return {
        "num_images": len(pixel_values),
        "by_level": [
            {**_summarize(level, rounding, hidden), "size_bytes": level_size_bytes(model, level)}
            for level in levels
        ],
        "rounding": rounding,
        "outliers": outliers,
        "hidden": hidden,
    }


def level_size_bytes(model: QuEEForImageClassification, level: Level) -> int:
    """Return the bytes of all weights and ranges of products that a model at a level reads.

    Levels that share a store ("nested") each count it. Biases, norms, embeddings and heads are not counted:
    they are the same at every level.
    """
    products = [product for block in model.trunk.blocks for product in cast(Block, block).products.values()]
    return sum(_size_at(product, level) for product in products)


def _size_at(product: Product, level: Level) -> int:
    at, layout = product.layout.computed_at(level), product.layout
    tensors: dict[str, Tensor] = product.state_dict()
    if isinstance(at, str):
        return tensors["weight"].nbytes if "weight" in tensors else 0
    size = 0
    for name, tensor in tensors.items():
        if name.startswith("codes_"):
            size += tensor.nbytes if layout.is_nested or name == f"codes_{at}" else 0
        elif name not in ("weight", "bias"):  # the others have one row per width
            size += tensor.nbytes // len(layout.bit_widths)
    return size


def _check(model: QuEEForImageClassification, calibration: Calibration, pixel_values: Tensor) -> None:
    if model.config.quantization is None:
        raise ValueError("The model is not quantized: there is nothing to compare.")
    if not len(pixel_values):
        raise ValueError("There are no images.")
    # Quantization copies the float parts of the calibration's trunk into the model.
    exact, made = (cast(Block, trunk.blocks[0]).norm1.weight for trunk in (calibration.trunk, model.trunk))
    if len(calibration.trunk.blocks) != len(model.trunk.blocks) or not torch.equal(exact, made):
        raise ValueError("The calibration is not the one that the model was quantized with.")


def _name_operands(seen: Seen) -> list[tuple[str, Tensor]]:
    names = ("input",) if len(seen.inputs) == 1 else ("left", "right")
    return list(zip(names, seen.inputs, strict=True))


def _weight_of(product: Product) -> Tensor | None:
    return product.float_weight if isinstance(product, MultiLevelLinear) else None


def _errors(
    product: Product, weight: Tensor | None, reads: Sequence[tuple[str, Tensor]], levels: Sequence[int]
) -> Iterator[Row]:
    """Yield the error of each tensor of a product at each level."""
    for level in levels:
        at = product.layout.computed_at(level)
        place = {"level": level, "computed_at": at}
        if weight is not None:
            restored = _restore_weight(cast(MultiLevelLinear, product), weight, at)
            yield {"tensor": "weight", **place, **_error([(weight, restored)])}
        for tensor, x in reads:
            quantizer = cast(ActivationQuantizer, getattr(product, tensor))
            pairs = ((part, _restore(quantizer, part, at)) for part in x.split(_BATCH_SIZE))
            yield {"tensor": tensor, **place, **_error(pairs)}


def _restore_weight(product: MultiLevelLinear, weight: Tensor, at: Level) -> Tensor:
    if isinstance(at, str):
        return weight.to(_FLOAT_TYPES[at]).float()
    return dequantize_weight(product.load_codes(at))


def _restore(quantizer: ActivationQuantizer, x: Tensor, at: Level) -> Tensor:
    return x.to(_FLOAT_TYPES[at]).float() if isinstance(at, str) else quantizer.restore(x, at)


def _error(pairs: Iterable[tuple[Tensor, Tensor]]) -> Row:
    """Return the error of rounded tensors, part by part; 0 for a tensor of zeros."""
    noise = signal = 0.0
    for exact, restored in pairs:
        noise += float((restored - exact).square().sum())
        signal += float(exact.square().sum())
    error = noise / signal if signal else 0.0
    decibels = rounded(-10 * math.log10(error)) if error else None
    return {"relative_error": float(f"{error:.4g}"), "sqnr_db": decibels}


def _outliers(product: str, tensor: str, x: Tensor) -> Row:
    if (product, tensor) == ("scores", "right"):  # keys come transposed
        x = x.transpose(-1, -2)
    # The last dimension holds features; of those before, the first counts images and the last tokens.
    peaks = x.abs().amax(dim=(0, -2)).flatten()
    median = peaks.median()
    share = ((x - x.mean()).abs() > OUTLIER_SIGMAS * x.std()).float().mean()
    return {
        "share": float(f"{float(share):.4g}"),
        "peak_ratio": rounded(peaks.max() / median) if median > 0 else None,
    }


def _release(block: Block) -> None:
    """Drop unpacked codes, so that never more than one block's are in memory."""
    for product in block.products.values():
        if isinstance(product, MultiLevelLinear):
            product.release()


def _summarize(level: int, rounding: Sequence[Row], hidden: Sequence[Row]) -> Row:
    rows = [row for row in rounding if row["level"] == level and row["sqnr_db"] is not None]
    decibels = {is_weight: [row["sqnr_db"] for row in rows if (row["tensor"] == "weight") is is_weight]
                for is_weight in (True, False)}  # fmt: skip
    return {
        "level": level,
        "weight_sqnr_db": rounded(fmean(decibels[True])) if decibels[True] else None,
        "activation_sqnr_db": rounded(fmean(decibels[False])) if decibels[False] else None,
        "cosine": [row["cosine"] for row in hidden if row["level"] == level][-1],
    }
