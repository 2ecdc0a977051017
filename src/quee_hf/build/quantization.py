"""`quantize_classifier`: from a classifier to the same one at several bit-widths, measured."""

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from tqdm.auto import tqdm
from transformers import set_seed

from quee_hf.blueprint import uniform_paths
from quee_hf.build.files import write_json
from quee_hf.build.ingredients import choose_device, read_images
from quee_hf.build.labels import choose_class_names, match_images
from quee_hf.build.quantization_plan import QuantizationPlan
from quee_hf.build.quantization_source import (
    FloatModel,
    check_data_paths,
    load_float_model,
    open_float_model,
)
from quee_hf.build.rebuild import move
from quee_hf.build.records import record_measurements
from quee_hf.checkpoints import atomic_directory
from quee_hf.data import LabelledImages, count_shared_images
from quee_hf.data.roles import describe_roles, record_roles
from quee_hf.diagnostics.quantization_plot import plot_quantization
from quee_hf.diagnostics.quantization_report import describe_quantization, level_size_bytes
from quee_hf.diagnostics.report import describe_accuracy, name_paths
from quee_hf.diagnostics.versions import library_versions
from quee_hf.errors import QuEEError
from quee_hf.levels import Level, choose_levels, is_integer_level
from quee_hf.modeling import QuEEForImageClassification
from quee_hf.ptq.calibration import Calibration
from quee_hf.quantize import calibrate, make_trunk, quantize

REPORT_FILE, PICTURE_FILE = "quantization.json", "quantization.png"
_ACCURACY = ("accuracy", "accuracy_interval", "num_images")
_MOST_COMPARED = 64  # images on which errors are measured: they vary little between images


class _Images(NamedTuple):
    """What a plan's sources hold; labels of `data` are the model's."""

    calibration: LabelledImages
    data: LabelledImages | None
    class_names: list[str]


def quantize_classifier(
    plan: QuantizationPlan,
    output: str | os.PathLike[str],
    *,
    has_report: bool = False,
    say: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Quantize a classifier and save it with its image processor. All levels come from one calibration.

    Args:
        plan: What to quantize, on what images, and how.
        output: A directory that is new or empty; it is written when everything is done.
        has_report: Whether `quantization.json` and `quantization.png` are written, too.
        say: Shows one line of progress to the user.

    Returns:
        What is in `quantization.json`: as `describe_quantization` has it, and for each level in `by_level`
        whether it was kept, and its accuracy if there are labelled images.

    Raises:
        QuEEError: If the model or the images cannot be used, or `output` is not empty.
        ValueError: If the plan does not fit them.
    """
    target = Path(output)
    check_output(target)
    check_data_paths(plan)
    opened, device = open_float_model(plan), choose_device(plan.device)
    images = _load_images(plan, opened, say)
    with torch.random.fork_rng(devices=[]):
        set_seed(plan.seed)
        model, found = _quantize(plan, opened, images, device)
    result = {**_describe_plan(plan, images), **found, "quantization": model.config.quantization}
    _record(plan, model, images, found["by_level"])
    with atomic_directory(target) as staging:
        model.save_pretrained(staging)
        opened.image_processor.save_pretrained(staging)
        result["file_size_bytes"] = sum(file.stat().st_size for file in staging.glob("*.safetensors"))
        if has_report:
            write_json(staging / REPORT_FILE, result)
            plot_quantization(result, staging / PICTURE_FILE, _title(plan, images))
    return result


def check_output(output: Path) -> None:
    """Raise `QuEEError` unless a directory can be written here without touching what is there."""
    if output.exists() and not output.is_dir():
        raise QuEEError(f"`output`: {output} is a file; name a directory.")
    if output.is_dir() and any(output.iterdir()):
        raise QuEEError(f"`output`: {output} holds files already; name a new or an empty directory.")
    parent = next(folder for folder in (output.absolute(), *output.absolute().parents) if folder.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        raise QuEEError(f"`output`: {output} cannot be made: {parent} is no directory, or not writable.")


def _load_images(plan: QuantizationPlan, opened: FloatModel, say: Callable[[str], None]) -> _Images:
    calibration, data = read_images(plan.images, say, skip_bad=plan.skip_bad), None
    if plan.data is not None:
        data = read_images(plan.data, say, skip_bad=plan.skip_bad).spread(plan.limit)
    naming = calibration if data is None else data
    names = choose_class_names(plan.class_names, opened.class_names, opened.num_classes, naming)
    if plan.class_names is None and opened.class_names is None and names == naming.class_names:
        say(f"The model does not name its classes; they get the data's names: {', '.join(names[:3])}, ...")
    if plan.data is not None and data is not None:
        is_renaming = plan.class_names is not None
        data = match_images(data, names, by=plan.match_labels, name=plan.data, is_renaming=is_renaming)
        if shared := count_shared_images(calibration, data):
            say(f"Note: {shared} of {len(data)} images for accuracy may have set ranges, too.")
    if plan.levels is None and data is not None and plan.keep_within * len(data) < 1:
        say(
            f"Note: of {len(data)} images one is more than {plan.keep_within:.2%}: levels are chosen by luck."
        )
    if len(calibration) < plan.calibration_images:
        say(f"Only {len(calibration)} calibration images, of {plan.calibration_images} asked for")
    return _Images(calibration, data, names)


def _quantize(
    plan: QuantizationPlan, opened: FloatModel, images: _Images, device: torch.device
) -> tuple[QuEEForImageClassification, dict[str, Any]]:
    """Return the model with the levels that are kept, on the CPU, and what was measured."""
    model = load_float_model(plan, opened, images.class_names)
    move(model, device)
    data = None if images.data is None else images.data.with_processor(opened.image_processor)
    exact = {} if data is None else measure_levels(model, ["fp32"], data, plan.batch_size)
    float_size = level_size_bytes(model, "fp32")
    calibration = calibrate(
        model,
        images.calibration.with_processor(opened.image_processor),
        method=plan.make_method(),
        num_images=plan.calibration_images,
        smoothing=plan.smoothing,
        batch_size=plan.batch_size,
        seed=plan.seed,
    )
    quantize(model, calibration, weight_sharing=plan.weight_sharing, keep=plan.keep)
    described = describe_quantization(model, calibration, _compared(images, opened.image_processor, device))
    integers = [level for level in model.level_list if is_integer_level(level)]
    measured = {} if data is None else measure_levels(model, integers, data, plan.batch_size)
    levels = model.level_list if plan.levels is not None else _choose(plan, measured, exact["fp32"])
    _select_levels(model, calibration, levels)
    rows = [
        {**row, "is_kept": row["level"] in levels, **measured.get(row["level"], {})}
        for row in described.pop("by_level")
    ]
    found = {
        "is_quee_model": opened.wrapping is None,
        "num_blocks": opened.num_blocks,
        "num_exits": model.config.num_exits,
        "levels": levels,
        "float_accuracy": exact.get("fp32"),
        "float_size_bytes": float_size,
        "by_level": rows,
        **described,
    }
    return model.cpu(), found


def measure_levels(
    model: QuEEForImageClassification, levels: Sequence[Level], dataset: Dataset[Any], batch_size: int
) -> dict[Level, dict[str, Any]]:
    """Return the accuracy of the last exit with the whole network at each level, with its 95 % interval.

    Args:
        model: On any device; "fp32" needs its float weights.
        levels: To run it at.
        dataset: Items `{"pixel_values": (channels, height, width), "labels": int}`.
        batch_size: Images per batch.
    """
    num_blocks, last = len(model.trunk.blocks), model.config.num_exits - 1
    is_correct: dict[Level, list[Tensor]] = {level: [] for level in levels}
    named = ", ".join(map(str, levels))
    batches = DataLoader(dataset, batch_size=batch_size)
    for batch in tqdm(batches, desc=f"Measuring accuracy at {named}", unit="batch"):
        with torch.inference_mode():
            hidden = model.embed(batch["pixel_values"].to(model.device))
            for level in levels:
                logits = model.read_exit(last, model.trunk.run_blocks(hidden, 0, num_blocks, level)).logits
                is_correct[level].append(logits.argmax(dim=-1).cpu() == torch.as_tensor(batch["labels"]))
    return {level: describe_accuracy(torch.cat(parts)) for level, parts in is_correct.items()}


def _select_levels(
    model: QuEEForImageClassification, calibration: Calibration, levels: Sequence[Level]
) -> None:
    """Leave a quantized model, in place, these of its levels only; they are what they were."""
    if list(levels) == model.level_list:
        return
    trunk = make_trunk(model, levels, model.config.scheme)
    trunk.copy_float_parts(calibration.trunk)
    trunk.copy_levels(model.trunk)
    model.replace_trunk(trunk, levels)


def _choose(
    plan: QuantizationPlan, measured: dict[Level, dict[str, Any]], exact: dict[str, Any]
) -> list[Level]:
    accuracy_at = {int(level): float(row["accuracy"]) for level, row in measured.items()}
    chosen = choose_levels(
        accuracy_at, exact["accuracy"], keep_within=plan.keep_within, max_drop=plan.max_drop
    )
    return list(chosen)


def _compared(images: _Images, image_processor: Any, device: torch.device) -> Tensor:
    """Return the pixels of a few images, labelled ones if there are any."""
    few = (images.calibration if images.data is None else images.data).spread(_MOST_COMPARED)
    items = few.with_processor(image_processor)
    return torch.stack([items[index]["pixel_values"] for index in range(len(items))]).to(device)


def _describe_plan(plan: QuantizationPlan, images: _Images) -> dict[str, Any]:
    sources = {"calibration_images": (plan.images, images.calibration), "data": (plan.data, images.data)}
    return {
        "model": plan.model,
        "is_chosen_by_accuracy": plan.levels is None,
        "sources": {
            role: {"source": source, "num_images": len(found), "fingerprint": found.fingerprint}
            for role, (source, found) in sources.items()
            if found is not None
        },
        "seed": plan.seed,
        "versions": library_versions(),
    }


def _record(
    plan: QuantizationPlan,
    model: QuEEForImageClassification,
    images: _Images,
    by_level: Sequence[Mapping[str, Any]],
) -> None:
    """Keep in the model's config, for its card, which images were used, and the accuracy of its levels."""
    record_roles(model.config, describe_roles(plan.images, {"calibration images": images.calibration}))
    if plan.data is None or images.data is None:
        return
    role = "accuracy of levels" if plan.levels is not None else "choice of levels"
    record_roles(model.config, describe_roles(plan.data, {role: images.data}))
    found = {row["level"]: row for row in by_level}
    paths = [
        {**named, **{key: found[named["path"][0]][key] for key in _ACCURACY}}
        for named in name_paths(model.config, uniform_paths(model.config))
        if named["path"][0] in found
    ]
    record_measurements(model.config, plan.data, {"uniform_paths": paths})


def _title(plan: QuantizationPlan, images: _Images) -> str:
    name = Path(plan.model).name or plan.model
    measured = "" if images.data is None else f", accuracy on {len(images.data)} images"
    return f"{name}, {plan.method}{measured}"
