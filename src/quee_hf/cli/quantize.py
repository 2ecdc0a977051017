"""`quee quantize`: a trained classifier at several bit-widths."""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

from quee_hf.cli import options
from quee_hf.cli import quantize_options as settings
from quee_hf.cli.display import (
    accuracy_text,
    library_output_on_stderr,
    say,
    show,
    show_json,
    show_table,
)

if TYPE_CHECKING:
    from quee_hf.build.quantization_plan import QuantizationPlan


def quantize(
    model: settings.Model,
    *,
    images: settings.Images,
    output: settings.Output,
    data: settings.Data = None,
    limit: settings.Limit = None,
    levels: settings.Levels = "8,7,6",
    keep_within: settings.KeepWithin = 0.002,
    max_drop: settings.MaxDrop = 0.02,
    report: settings.Report = False,
    method: settings.Method = "repq",
    option: settings.MethodOptions = None,
    smoothing: settings.Smoothing = None,
    weight_sharing: settings.WeightSharing = "independent",
    keep: settings.Keep = None,
    calibration_images: settings.CalibrationImages = 128,
    class_embeddings: options.ClassEmbeddings = None,
    class_names: options.ClassNames = None,
    match_labels: options.MatchLabels = "names",
    seed: settings.Seed = 0,
    batch_size: options.BatchSize = 64,
    device: options.Device = "auto",
    skip_bad: options.SkipBad = False,
    as_json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    r"""Give a trained classifier integer levels, without exits or training.

    Works for ViT, DeiT, DINOv2, T2T-ViT and CLIP, and for a QuEE model that still has its float weights. All
    levels are made from one calibration. With `--data` the accuracy of each is measured beside full
    precision's; with `--levels auto` those that are accurate enough are kept.

    **Example**

        quee quantize google/vit-base-patch16-224 --images photos/train \
            --data photos/val --levels auto --report --output quantized
    """
    chosen = {name: value for name, value in locals().items() if name not in _NOT_IN_PLAN}
    pairs = settings.parse_pairs(chosen.pop("option"), "--option", "ridge=0.01")
    with library_output_on_stderr():
        plan = _plan(chosen, pairs)
        result = _quantize(plan, output, report)
    if as_json:
        show_json({"output": str(output), **result})
    else:
        _summarize(result, chosen, output, report)


_NOT_IN_PLAN = ("output", "report", "as_json", "debug")


def _plan(chosen: dict[str, Any], method_options: dict[str, str]) -> "QuantizationPlan":
    from quee_hf.build.quantization_plan import QuantizationPlan, read_method_options

    names, embeddings = options.read_class_names(chosen["class_names"]), chosen["class_embeddings"]
    fields = {
        **chosen,
        "levels": settings.parse_levels(chosen["levels"]),
        "smoothing": settings.parse_smoothing(chosen["smoothing"]),
        "options": read_method_options(chosen["method"], method_options),
        "keep": settings.parse_keep(chosen["keep"]),
        "class_names": None if names is None else tuple(names),
        "class_embeddings": None if embeddings is None else str(embeddings),
    }
    return QuantizationPlan(**fields)


def _quantize(plan: "QuantizationPlan", output: Path, has_report: bool) -> dict[str, Any]:
    from quee_hf.build.quantization import quantize_classifier

    try:
        return quantize_classifier(plan, output, has_report=has_report, say=say)
    except KeyboardInterrupt:
        say(f"Interrupted. Nothing was written to {output}.")
        raise


def _summarize(result: dict[str, Any], chosen: dict[str, Any], output: Path, has_report: bool) -> None:
    scheme, exact = result["quantization"], result["float_accuracy"]
    measured = "" if exact is None else f"; accuracy on {exact['num_images']} images, 95 % interval"
    show()
    show_table(
        f"{scheme['method']}, calibrated on {scheme['num_images']} images{measured}",
        ("bits", "kept", "size", "accuracy", "SQNR weights", "SQNR activations"),
        [
            ("float", "-", _megabytes(result["float_size_bytes"]), _accuracy(exact), "-", "-"),
            *(_row(row, measured=exact is not None) for row in result["by_level"]),
        ],
    )
    show(
        "Size: weights and ranges that a level reads. SQNR: mean over products, of"
        f" {result['num_images']} images."
    )
    levels = ",".join(map(str, result["levels"]))
    if result["is_chosen_by_accuracy"]:
        show(f"Chosen by accuracy: {levels}")
    show(f"Model: {output}, {_megabytes(result['file_size_bytes'])}")
    if has_report:
        show(f"Report: {output / 'quantization.json'} and {output / 'quantization.png'}")
    _show_next(result, chosen, output)


def _show_next(result: dict[str, Any], chosen: dict[str, Any], output: Path) -> None:
    lowest, num_blocks = result["levels"][-1], result["num_blocks"]
    show("\nTry next", style="bold")
    show(f"  quee predict {shlex.quote(str(output))} IMAGE.jpg")
    show(f"or in Python, at level {lowest}")
    show("  import quee_hf; from transformers import pipeline")
    path = [lowest] * result["num_exits"]
    show(f'  pipeline("image-classification", model="{output}")("IMAGE.jpg", path={path!r})')
    if result["is_quee_model"]:
        return
    given = {name: chosen[name] for name in ("class_embeddings", "class_names") if chosen[name] is not None}
    command = {
        "model": chosen["model"],
        **given,
        "exits": ",".join(map(str, sorted({num_blocks // 2, 2 * num_blocks // 3, 5 * num_blocks // 6}))),
        "levels": ",".join(map(str, result["levels"])),
    }
    words = [f"--{name.replace('_', '-')} {shlex.quote(str(value))}" for name, value in command.items()]
    show("or let easy images leave early")
    show(f"  quee build {' '.join(words)} --train TRAIN --validation VALIDATION --output RUN")


def _row(row: dict[str, Any], *, measured: bool) -> tuple[str, ...]:
    return (
        str(row["level"]),
        "yes" if row["is_kept"] else "no",
        _megabytes(row["size_bytes"]),
        _accuracy(row if measured else None),
        _decibels(row["weight_sqnr_db"]),
        _decibels(row["activation_sqnr_db"]),
    )


def _accuracy(described: dict[str, Any] | None) -> str:
    return "-" if described is None else accuracy_text(described)


def _decibels(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f} dB"


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.2f} MB"
