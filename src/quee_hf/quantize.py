"""`quantize`: give a model its integer levels."""

import json
import os
from collections.abc import Mapping, Sequence, Sized
from dataclasses import fields
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.utils.data import Dataset

from quee_hf.backbones.block import LevelSet
from quee_hf.backbones.trunk import Trunk
from quee_hf.errors import IncompatibleCheckpointError
from quee_hf.levels import Level, check_level, is_integer_level, level_bits
from quee_hf.modeling import QuEEForImageClassification
from quee_hf.ptq import PTQ_METHODS
from quee_hf.ptq.calibration import Calibration
from quee_hf.ptq.method import PTQMethod
from quee_hf.ptq.smoothquant import Smoothing, check_smoothing
from quee_hf.schemes import WEIGHT_SHARING, QuantizationScheme, check_kept

DEFAULT_METHOD = "repq"


def make_method(method: str | PTQMethod, options: Mapping[str, Any]) -> PTQMethod:
    """Return a method by its name.

    Raises:
        ValueError: If there is none of that name, or it has no such option.
    """
    if isinstance(method, PTQMethod):
        if options:
            raise ValueError(f"{type(method).__name__} has its options already, got {sorted(options)}, too.")
        return method
    if method not in PTQ_METHODS:
        raise ValueError(f"`method` must be one of {sorted(PTQ_METHODS)}, got {method!r}.")
    kind = PTQ_METHODS[method]
    known = sorted(item.name for item in fields(kind))
    if unknown := sorted(set(options) - set(known)):
        raise ValueError(f"{method!r} has no option {unknown}; it has {known}.")
    return kind(**options)


def calibrate(  # noqa: PLR0913 - options of one call
    model: QuEEForImageClassification,
    calibration_images: Dataset[Any] | Tensor,
    *,
    method: str | PTQMethod = DEFAULT_METHOD,
    num_images: int = 128,
    smoothing: Smoothing = None,
    batch_size: int = 32,
    seed: int = 0,
    **options: Any,
) -> Calibration:
    """Collect from calibration images what a method needs for any level; the model does not change.

    Args:
        model: With float weights.
        calibration_images: Items `{"pixel_values": (channels, height, width)}`, or the pixel values
            themselves, `(images, channels, height, width)`. They set ranges and nothing else; labels are not
            used.
        method: One of `quee_hf.ptq.PTQ_METHODS`, by name or made.
        num_images: How many images to use, evenly spread over those given.
        smoothing: SmoothQuant's alpha, from 0 to 1, "search" to choose it for each layer, or `None`.
        batch_size: Images per batch.
        seed: Of random choices.
        **options: Of the method, if it is given by name.

    Raises:
        ValueError: If an argument is not one of those above, there are no images, the model is already
            quantized, or an activation is not finite.
    """
    chosen = make_method(method, options)
    check_smoothing(smoothing)
    _check_is_float(model)
    images = _pick_images(calibration_images, num_images).to(model.device)

    def classify(hidden: Tensor) -> Tensor:
        return model.read_exit(model.config.num_exits - 1, hidden.to(model.dtype)).logits

    return Calibration.collect(
        model.trunk,
        images.split(batch_size),
        chosen,
        smoothing=smoothing,
        classify=classify,
        seed=seed,
    )


def quantize(
    model: QuEEForImageClassification,
    calibration_images: Dataset[Any] | Tensor | Calibration,
    *,
    weight_sharing: str = "independent",
    keep: Mapping[str, Level] | None = None,
    **calibration_options: Any,
) -> Calibration:
    """Quantize a model's trunk at all its integer levels, in place.

    Patch embedding, norms, heads and gates stay float. Float weights are dropped if no level needs them.

    Args:
        model: With float weights.
        calibration_images: As `calibrate` takes them, or what it returned.
        weight_sharing: "independent": each level has its own codes; "nested": one 8-bit store, whose leading
            bits are the codes of the lower levels.
        keep: Exceptions, by block (counted from 1, or `*`) and product: `{"9.fc2": 8}`.
        **calibration_options: Those of `calibrate`: `method`, `num_images`, `smoothing`, ...

    Returns:
        The calibration, from which the same float model can be quantized to other levels.

    Raises:
        ValueError: If an argument is wrong, there are no images or no integer levels, the model is already
            quantized, or an activation is not finite. The model is then what it was.
    """
    config, kept = model.config, dict(keep or {})
    check_kept(kept, config.backbone.num_hidden_layers)
    if weight_sharing not in WEIGHT_SHARING:
        raise ValueError(f"`weight_sharing` must be one of {list(WEIGHT_SHARING)}, got {weight_sharing!r}.")
    _check_is_float(model)
    _check_levels(config.level_list)
    if isinstance(calibration_images, Calibration):
        calibration = calibration_images
        if calibration_options:
            raise ValueError(
                f"A calibration has its options already, got {sorted(calibration_options)}, too."
            )
    else:
        calibration = calibrate(model, calibration_images, **calibration_options)
    layout = calibration.method.layout()
    layout["kept"] = {**layout.get("kept", {}), **kept}
    scheme = QuantizationScheme(weight_sharing=weight_sharing, **calibration_record(calibration), **layout)
    trunk = make_trunk(model, config.level_list, scheme)
    calibration.quantize(trunk)
    config.quantization = scheme.to_dict()
    if config.profile is not None:  # of simulated levels, or of none
        config.forget_profile()
    model.trunk = trunk
    return calibration


def add_level(model: QuEEForImageClassification, level: int, calibration: Calibration) -> None:
    """Add an integer level to a quantized model, in place, without another run over images.

    Its levels so far stay exactly what they are. Its gates are replaced by new, untrained ones, which know
    the new paths, and operating points are forgotten.

    Args:
        model: Quantized with `calibration`.
        level: Bits, 2 to 8.
        calibration: What `quantize` returned, or `load_calibration` read.

    Raises:
        ValueError: If the model has the level already, is not quantized, or was quantized in another way.
    """
    check_level(level)
    model.trunk.check_weights()
    config, scheme = model.config, model.config.scheme
    if scheme is None:
        raise ValueError("The model is not quantized yet; use `quantize`.")
    if not is_integer_level(level) or level in config.level_list:
        raise ValueError(f"`level` must be bits that are not among {config.level_list} yet, got {level!r}.")
    made = calibration_record(calibration)
    if {"method": scheme.method, "options": scheme.options, "num_images": scheme.num_images} != made:
        raise ValueError(f"The model was quantized by {scheme.to_dict()}, the calibration is for {made}.")
    exact, ours = calibration.trunk.state_dict(), model.trunk.state_dict()
    if not all(torch.equal(exact[name].to(ours[name]), ours[name]) for name in exact.keys() & ours.keys()):
        raise ValueError("The calibration is of another model, or of other images: norms or biases differ.")
    levels = sorted([*config.level_list, level], key=level_bits, reverse=True)
    trunk = make_trunk(model, levels, scheme)
    trunk.copy_levels(model.trunk)
    calibration.quantize(trunk, [level])
    model.replace_trunk(trunk, levels)


def make_trunk(
    model: QuEEForImageClassification, levels: Sequence[Level], scheme: QuantizationScheme | None
) -> Trunk:
    """Return an empty trunk for a model's backbone, laid out for other levels, where the model is."""
    return Trunk(model.config.backbone, LevelSet(levels, scheme)).to(model.device, model.dtype)


def calibration_record(calibration: Calibration) -> dict[str, Any]:
    """Return the fields of a scheme that a calibration decides, but for its method's layout."""
    options = calibration.method.options()
    if calibration.smoothing:
        options["smoothing"] = calibration.smoothing
    return {"method": calibration.method.name, "options": options, "num_images": calibration.num_images}


def save_calibration(calibration: Calibration, path: str | os.PathLike[str]) -> None:
    """Write a calibration to a safetensors file, which appears once it is complete."""
    record = calibration_record(calibration)
    record["smoothing"] = calibration.smoothing
    partial = Path(f"{os.fspath(path)}.partial")
    save_file(calibration.state_dict(), partial, metadata={"quee_calibration": json.dumps(record)})
    partial.replace(path)


def load_calibration(path: str | os.PathLike[str], model: QuEEForImageClassification) -> Calibration:
    """Read what `save_calibration` wrote.

    Args:
        path: The file.
        model: Of the same backbone; quantized or not.

    Raises:
        ValueError: If it is not such a file, or of another backbone.
        IncompatibleCheckpointError: If it is damaged.
    """
    try:
        with safe_open(path, "pt") as file:
            metadata = (file.metadata() or {}).get("quee_calibration")
            if metadata is None:
                raise ValueError(f"{os.fspath(path)} holds no calibration.")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    except SafetensorError as error:
        raise IncompatibleCheckpointError(f"{os.fspath(path)} is damaged or incomplete: {error}") from error
    record = json.loads(metadata)
    smoothing = record["smoothing"]
    options = {name: value for name, value in record["options"].items() if name != "smoothing"}
    trunk = Trunk(model.config.backbone, LevelSet(["fp32"]))
    try:
        return Calibration.from_state_dict(tensors, trunk, make_method(record["method"], options), smoothing)
    except RuntimeError as error:
        raise ValueError(f"{os.fspath(path)} is of another backbone than the model.") from error


def _check_is_float(model: QuEEForImageClassification) -> None:
    model.trunk.check_weights()
    if model.config.quantization is not None:
        raise ValueError("The model is already quantized; start from the float model.")


def _check_levels(levels: list[Level]) -> None:
    if not any(is_integer_level(level) for level in levels):
        raise ValueError(f"The model has no integer level to quantize to: `levels` is {levels}.")


def _pick_images(images: Dataset[Any] | Tensor, num_images: int) -> Tensor:
    size = len(cast(Sized, images))
    if num_images < 1 or size < 1:
        raise ValueError(
            f"`num_images` must be at least 1 and there must be images, got {num_images} of {size}."
        )
    picked = torch.linspace(0, size - 1, min(num_images, size)).round().long().tolist()
    return torch.stack(
        [images[i] if isinstance(images, Tensor) else images[i]["pixel_values"] for i in picked]
    )
