"""`quee build`: from a trained classifier to a QuEE model."""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

from quee_hf.cli import build_options as settings
from quee_hf.cli import options
from quee_hf.cli import quantize_options as quantizing
from quee_hf.cli.display import (
    accuracy_text,
    library_output_on_stderr,
    path_text,
    say,
    show,
    show_json,
    show_table,
)
from quee_hf.levels import parse_level

if TYPE_CHECKING:
    from quee_hf.build import BuildResult

_MOST_POINTS = 10  # shown in the summary


def build(
    *,
    recipe: settings.RecipeFile = None,
    model: settings.Model,
    train: settings.Train,
    validation: settings.Validation,
    exits: settings.Exits,
    levels: settings.Levels = "8,6",
    class_embeddings: options.ClassEmbeddings = None,
    class_names: options.ClassNames = None,
    logit_scale: settings.LogitScale = None,
    match_labels: options.MatchLabels = "names",
    head: settings.Head = "attention",
    distillation: settings.Distillation = "soft",
    head_views: settings.HeadViews = 1,
    gate: settings.Gate = "error_predictor",
    first_level: settings.FirstLevel = "highest",
    max_paths: settings.MaxPaths = 50,
    calibration_images: settings.CalibrationImages = 128,
    ptq: quantizing.Method = "repq",
    ptq_option: quantizing.MethodOptions = None,
    smoothing: quantizing.Smoothing = None,
    weight_sharing: quantizing.WeightSharing = "independent",
    keep: quantizing.Keep = None,
    head_epochs: settings.HeadEpochs = 20,
    gate_features: settings.GateFeatures = None,
    gate_targets: settings.GateTargets = "outcome",
    num_clusters: settings.NumClusters = None,
    gate_epochs: settings.GateEpochs = 60,
    gate_fraction: settings.GateFraction = 0.7,
    max_accuracy_drop: settings.MaxAccuracyDrop = 0.01,
    seed: settings.Seed = 0,
    output: settings.Output,
    batch_size: options.BatchSize = 64,
    device: options.Device = "auto",
    skip_bad: options.SkipBad = False,
    as_json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    r"""Turn a trained classifier into a QuEE model: exits, levels, gates and operating points.

    Works for ViT, DeiT, DINOv2, T2T-ViT and CLIP; the classifier itself is not trained further. A build has
    seven stages; if it is interrupted, give the same command again.

    Every image has one role: of the training images, 85 % train the exit heads, 10 % tell when to stop, and
    5 % are for calibration; the validation images are for gates and operating points, as `--gate-fraction`
    says.

    **Example**

        quee build --model google/vit-base-patch16-224 \
            --train photos/train --validation photos/val \
            --exits 6,8,10 --levels 8,6 --output run

        quee build --recipe dinov2 --model my-dinov2 --train photos/train \
            --validation photos/val --output run
    """
    chosen = {name: value for name, value in locals().items() if name not in _NOT_IN_RECIPE}
    with library_output_on_stderr():
        result = _build(chosen, output)
    if as_json:
        show_json(_as_json(result, output))
    else:
        _summarize(result, output)


_NOT_IN_RECIPE = ("recipe", "output", "as_json", "debug")


def _build(chosen: dict[str, Any], output: Path) -> "BuildResult":
    from quee_hf.build import Recipe, build
    from quee_hf.build.quantization_plan import read_method_options
    from quee_hf.build.source import complete_exits

    names = options.read_class_names(chosen["class_names"])
    exits = options.parse_integers(chosen["exits"], "--exits")
    levels = [parse_level(level) for level in chosen["levels"].split(",")]
    embeddings = chosen["class_embeddings"]
    method_options = quantizing.parse_pairs(chosen.pop("ptq_option"), "--ptq-option", "ridge=0.01")
    fields = {
        **chosen,
        "ptq_options": read_method_options(chosen["ptq"], method_options),
        "smoothing": quantizing.parse_smoothing(chosen["smoothing"]),
        "keep": quantizing.parse_keep(chosen["keep"]),
        "exits": tuple(exits),
        "levels": tuple(levels),
        "class_names": None if names is None else tuple(names),
        "class_embeddings": None if embeddings is None else str(embeddings),
    }
    recipe = complete_exits(Recipe(**fields))
    if recipe.exits[-1] not in exits:
        say(f"Exit after the last block, {recipe.exits[-1]}, added: it is the classifier's own.")
    try:
        return build(recipe, output, say=say)
    except KeyboardInterrupt:
        say("Interrupted. The same command continues from the last finished stage.")
        raise


def _as_json(result: "BuildResult", output: Path) -> dict[str, Any]:
    return {
        "output": str(output),
        "model": str(result.model),
        "stages": [vars(stage) for stage in result.stages],
        "report": result.report,
    }


def _summarize(result: "BuildResult", output: Path) -> None:
    report = result.report
    num_reused = sum(stage.is_reused for stage in result.stages)
    show()
    show_table(
        f"Accuracy on {report['num_images']} images used for nothing else (95 % interval)",
        ("path", "after block", "cost", "accuracy"),
        [
            (path_text(row["path"]), str(row["exit_block"]), f"{row['cost']:.3f}", accuracy_text(row))
            for row in (*report["exits"], *report["uniform_paths"][1:])
        ],
    )
    show_table(
        "Operating points: what a lambda costs and gives",
        ("lambda", "cost", "accuracy"),
        [
            (f"{row['cost_lambda']:g}", f"{row['cost']:.3f}", accuracy_text(row))
            for row in _few(report["operating_points"])
        ],
    )
    show(_default_text(report))
    if any(gate["rmse"] >= gate["rmse_of_constant"] for gate in report["gates"]):
        show(
            "Some gates predict errors no better than a constant would: they need more validation images or"
            " more --gate-epochs, or the exits are hardly better than chance."
        )
    num_built = len(result.stages) - num_reused
    show(f"Stages: {num_reused} reused, {num_built} built. Report: {output / 'report.json'}")
    model = shlex.quote(str(result.model))
    show("\nTry next", style="bold")
    show(f"  quee predict {model} IMAGE.jpg")
    show(f"  quee evaluate {model} --data TEST_IMAGES --picture evaluation.png")
    show("or in Python")
    show("  import quee_hf; from transformers import pipeline")
    show(f'  pipeline("image-classification", model="{result.model}")("IMAGE.jpg")')


def _few(points: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Drop points that differ from the one before in lambda only, then spread what is left."""
    distinct = [
        point
        for before, point in zip([None, *points], points, strict=False)
        if before is None or (point["cost"], point["accuracy"]) != (before["cost"], before["accuracy"])
    ]
    if len(distinct) <= _MOST_POINTS:
        return distinct
    step = (len(distinct) - 1) / (_MOST_POINTS - 1)
    return [distinct[round(position * step)] for position in range(_MOST_POINTS)]


def _default_text(report: dict[str, Any]) -> str:
    default, drop = report["cost_lambda"], report["max_accuracy_drop"]
    if default is None:
        return (
            f"No operating point loses at most {drop:.1%}: by default every image runs the whole network."
            " A larger --max-accuracy-drop, or more validation images for the gates, may help."
        )
    point = next(row for row in report["operating_points"] if row["cost_lambda"] == default)
    return (
        f"Default: lambda {default:g}, cost {point['cost']:.3f} of the full network, the cheapest point that"
        f" loses at most {drop:.1%}."
    )
