"""How far quantization moves a model's hidden states, block by block."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from statistics import median
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset
from tqdm.auto import tqdm

from quee_hf.backbones import get_family
from quee_hf.configuration import QuEEConfig
from quee_hf.diagnostics.pathological_exits import noise_jumps
from quee_hf.diagnostics.report import rounded
from quee_hf.levels import Level, is_integer_level
from quee_hf.modeling import QuEEForImageClassification
from quee_hf.pooling import Pooling, pool

_LARGEST = "largest"  # of a block's numbers the one that is no sum
_POWERS = (1, 2, 3, 4)
_EXITS_READ: tuple[Pooling, ...] = ("cls", "mean")

_NOT_QUANTIZED = ("embeddings.", "pre_norm.", "norm.")  # what no method changes

Row = dict[str, Any]


def measure_noise(
    model: QuEEForImageClassification,
    reference: QuEEForImageClassification,
    images: Dataset[Any] | Tensor,
    *,
    level: Level | None = None,
    batch_size: int = 64,
) -> dict[str, Any]:
    """Run a quantized model beside its full-precision twin, and compare them after every block.

    `h` are all tokens of an image after a block in full precision, `q` the same with all blocks so far at
    `level`, `|.|**2` is the squared length, E the mean over images. Only sums are kept: memory does not grow
    with the images.

    Args:
        model: Quantized.
        reference: The same backbone with float weights, on the same device; the model itself if "fp32" is
            among its levels.
        images: Items `{"pixel_values": (channels, height, width)}`, or the pixel values themselves,
            `(images, channels, height, width)`. Labels are not used.
        level: Of the whole network; the most exact integer level if not given.
        batch_size: Images per batch; changes nothing but memory and speed.

    Returns:
        Fit for JSON: `num_images`, `level`, and

        - `blocks`, counted from 1: `noise`, `E|q - h|**2`; `noise_ratio`, that over `E|h|**2`; `noise_jump`,
          the ratio over the median of the two blocks' on either side; `evolution`, `E|h - previous h|**2`;
          `inr`, the information-to-noise ratio `E(|h - previous h|**2 / |q - h|**2)`, `None` if the noise of
          any image is 0 and it is infinite; mean cosines of q and h: `token_cosine`, and after the final
          norm, as exits read them, `class_cosine` of the class token and `mean_patch_cosine` of the mean
          patch token. Of h alone: `largest` magnitude, `largest_ratio` to the median of the blocks, and
          `kurtosis` of all numbers, 3 if they are normal.
        - `final`, of what the model's last head makes of both: `embedding_cosine` (of CLIP's joint embedding,
          or of what the classifier reads), `logits_cosine` (less their mean, which softmax does not see), and
          `same_class`, the share of images.

    Raises:
        ValueError: If the model is not quantized or has no such level, the reference has no float weights or
            is another backbone, there are no images, or an activation is not finite.

    Source:
        LRA-EE (arXiv:2605.26415), §3.1, §4.4, §6.4. Its formulas are lost; these are ours.
    """
    chosen = check_comparable(model, reference, level)
    blocks: list[dict[str, float]] = [{} for _ in model.trunk.blocks]
    final: dict[str, float] = {}
    batches: DataLoader[Any] = DataLoader(cast(Dataset[Any], images), batch_size=batch_size)
    for batch in tqdm(batches, desc="Measuring noise", unit="batch"):
        pixels = batch["pixel_values"] if isinstance(batch, Mapping) else batch
        with torch.inference_mode():
            exact = noisy = model.embed(pixels.to(model.device))
            for index, sums in enumerate(blocks):
                before, exact = exact, reference.trunk.run_blocks(exact, index, index + 1, "fp32")
                noisy = model.trunk.run_blocks(noisy, index, index + 1, chosen)
                _add(sums, _compare(model, before, exact, noisy))
            _add(final, _compare_final(model, exact, noisy))
    if not final:
        raise ValueError("There are no images.")
    _check_finite(blocks)
    rows = [{"block": number, **_describe(sums)} for number, sums in enumerate(blocks, start=1)]
    return {
        "num_images": int(final["num_images"]),
        "level": chosen,
        "blocks": _relate(rows),
        "final": {name: rounded(value) for name, value in _means(final).items()},
    }


def check_comparable(
    model: QuEEForImageClassification, reference: QuEEForImageClassification, level: Level | None
) -> Level:
    """Return the level at which `measure_noise` would run, or raise its `ValueError`."""
    if model.config.quantization is None:
        raise ValueError("The model is not quantized: there is no noise to measure.")
    levels = model.level_list
    chosen = next(filter(is_integer_level, levels), levels[0]) if level is None else level
    if chosen not in levels:
        raise ValueError(f"`level` must be one of the model's levels {levels}, got {chosen!r}.")
    if reference.config.quantization is not None and "fp32" not in reference.level_list:
        raise ValueError(f"The reference has no float weights: its levels are {reference.level_list}.")
    ours, theirs = _facts(model.config), _facts(reference.config)
    if different := [name for name in ours if ours[name] != theirs[name]]:
        named = ", ".join(f"{name} {theirs[name]!r} instead of {ours[name]!r}" for name in different)
        raise ValueError(f"The reference is another backbone: it has {named}.")
    if model.device != reference.device:
        raise ValueError(f"The model is on {model.device}, the reference on {reference.device}.")
    own, others = (part.trunk.state_dict() for part in (model, reference))
    for name in (name for name in own if name.startswith(_NOT_QUANTIZED)):
        if not torch.equal(own[name], others[name]):
            raise ValueError(f"The reference is another model: its weight {name} differs.")
    return chosen


def _facts(config: QuEEConfig) -> dict[str, Any]:
    backbone = config.backbone
    shape = asdict(get_family(backbone).shape(backbone))
    return {"type": backbone.model_type, "num_hidden_layers": backbone.num_hidden_layers, **shape}


def _check_finite(blocks: Sequence[Mapping[str, float]]) -> None:
    for number, sums in enumerate(blocks, start=1):
        if not all(math.isfinite(value) for name, value in sums.items() if name != "inr"):
            raise ValueError(f"The output of block {number} holds NaN or infinity.")


def _compare(
    model: QuEEForImageClassification, before: Tensor, exact: Tensor, noisy: Tensor
) -> dict[str, float]:
    """Return what one batch adds to a block's sums."""
    noise, evolution = _energy(noisy - exact), _energy(exact - before)
    normed = [model.trunk.norm(tokens) for tokens in (exact, noisy)]
    class_tokens, patches = (
        [pool(tokens, pooling, model.trunk.num_prefix_tokens) for tokens in normed] for pooling in _EXITS_READ
    )
    per_image = {
        "signal": _energy(exact),
        "noise": noise,
        "evolution": evolution,
        "inr": evolution / noise,  # of an image without noise infinite or NaN, and so is the sum
        "token_cosine": _cosine(exact, noisy).mean(dim=1),
        "class_cosine": _cosine(*class_tokens),
        "mean_patch_cosine": _cosine(*patches),
    }
    numbers = exact.flatten().cpu().double()
    powers = {f"power_{power}": float(numbers.pow(power).sum()) for power in _POWERS}
    counts = {"num_images": len(exact), "num_numbers": len(numbers), _LARGEST: float(numbers.abs().amax())}
    return {**_totals(per_image), **powers, **counts}


def _compare_final(model: QuEEForImageClassification, exact: Tensor, noisy: Tensor) -> dict[str, float]:
    last = model.config.num_exits - 1
    pooled = [model.select_exit(last, tokens) for tokens in (exact, noisy)]
    outputs = [model.heads[last](part) for part in pooled]
    embeddings = pooled if model.config.logit_scale is None else outputs
    logits = [model.as_logits(part) for part in outputs]
    per_image = {
        "embedding_cosine": _cosine(*embeddings),
        "logits_cosine": _cosine(*(part - part.mean(dim=-1, keepdim=True) for part in logits)),
        "same_class": (logits[0].argmax(dim=-1) == logits[1].argmax(dim=-1)).float(),
    }
    return {**_totals(per_image), "num_images": len(exact)}


def _energy(tokens: Tensor) -> Tensor:
    """Return the squared length of all tokens of an image as one vector, `(images,)`."""
    return tokens.float().square().flatten(1).sum(dim=1)


def _cosine(first: Tensor, second: Tensor) -> Tensor:
    return functional.cosine_similarity(first.float(), second.float(), dim=-1)


def _totals(per_image: Mapping[str, Tensor]) -> dict[str, float]:
    return {name: float(values.cpu().double().sum()) for name, values in per_image.items()}


def _add(sums: dict[str, float], more: Mapping[str, float]) -> None:
    """Add, in place; of the largest number keep the larger."""
    for name, value in more.items():
        before = sums.get(name, 0.0)
        sums[name] = max(before, value) if name == _LARGEST else before + value


def _means(sums: Mapping[str, float]) -> dict[str, float]:
    return {name: value / sums["num_images"] for name, value in sums.items() if name != "num_images"}


def _describe(sums: Mapping[str, float]) -> Row:
    """Return what is known of a block by itself."""
    mean = _means(sums)
    return {
        "noise_ratio": _ratio(mean["noise"], mean["signal"]),
        "noise": _finite(mean["noise"]),
        "evolution": _finite(mean["evolution"]),
        "inr": _finite(mean["inr"]),
        **{name: rounded(mean[name]) for name in ("token_cosine", "class_cosine", "mean_patch_cosine")},
        "largest": _finite(sums[_LARGEST]),
        "kurtosis": _kurtosis(*(sums[f"power_{power}"] / sums["num_numbers"] for power in _POWERS)),
    }


def _kurtosis(first: float, second: float, third: float, fourth: float) -> float | None:
    """Return the fourth central moment over the squared variance, from the means of powers."""
    variance = second - first**2
    central = fourth - 4 * first * third + 6 * first**2 * second - 3 * first**4
    return _ratio(central, variance**2)


def _relate(rows: Sequence[Row]) -> list[Row]:
    """Add to each block's row how it stands out among the others."""
    usual = median(row["largest"] for row in rows)
    jumps = noise_jumps([row["noise_ratio"] for row in rows])
    return [
        {**row, "noise_jump": _finite(jump), "largest_ratio": _ratio(row["largest"], usual)}
        for row, jump in zip(rows, jumps, strict=True)
    ]


def _ratio(value: float, unit: float) -> float | None:
    return _finite(value / unit) if unit else None


def _finite(value: float) -> float | None:
    """Return a number with six digits for JSON, `None` if it is not finite."""
    return float(f"{value:.6g}") if math.isfinite(value) else None
