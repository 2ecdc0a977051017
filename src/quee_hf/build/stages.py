"""The stages of a build: what each depends on, and what it does."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from transformers import set_seed

from quee_hf.build.ingredients import Ingredients
from quee_hf.build.rebuild import move, rebuild, with_routes
from quee_hf.build.report import write_report
from quee_hf.build.roles import positions
from quee_hf.build.training import train_gates, train_heads
from quee_hf.data.roles import OPERATING_POINTS
from quee_hf.diagnostics.static_paths import as_tensors, collect_all_outputs, from_tensors
from quee_hf.execution.path_outputs import PathOutputs
from quee_hf.modeling import QuEEForImageClassification
from quee_hf.quantize import calibrate, load_calibration, quantize, save_calibration

# Raised when a stage's code changes so that what earlier versions made must not be reused.
STAGE_FORMAT = 3
CALIBRATION_FILE = "calibration.safetensors"
OUTPUTS_FILE = "path_outputs.safetensors"


@dataclass(frozen=True)
class Stage:
    """One step of a build.

    Args:
        name: Of its directory.
        title: What it does, for the user.
        fields: Of the recipe, those it depends on itself; the seed is always one.
        fingerprints: The same, of `Ingredients.fingerprints`.
        run: Does it, given the ingredients, a function from a stage's name to its directory, and where to
            write.
    """

    name: str
    title: str
    fields: tuple[str, ...]
    fingerprints: tuple[str, ...]
    run: Callable[[Ingredients, Callable[[str], Path], Path], None]

    def inputs(self, ingredients: Ingredients, upstream: str | None) -> dict[str, Any]:
        """Return everything that the stage's result depends on, fit for JSON.

        Args:
            ingredients: Of the build.
            upstream: Hash of the inputs of the stage before.
        """
        return {
            "format": STAGE_FORMAT,
            "recipe": ingredients.recipe.pick((*self.fields, "seed")),
            "fingerprints": {name: ingredients.fingerprints[name] for name in self.fingerprints},
            "upstream": upstream,
        }


def _convert(ingredients: Ingredients, _folder_of: Callable[[str], Path], target: Path) -> None:
    recipe, (height, width) = ingredients.recipe, ingredients.source.image_size
    model = QuEEForImageClassification.from_backbone(
        recipe.model,
        class_embeddings=recipe.class_embeddings,
        logit_scale=recipe.logit_scale,
        exit_blocks=list(recipe.exits),
        levels=["fp32"],
        head_type=recipe.head,
        image_size=height if height == width else [height, width],
        id2label=dict(enumerate(ingredients.class_names)),
    )
    _save(model, ingredients, target)


def _train_heads(ingredients: Ingredients, folder_of: Callable[[str], Path], target: Path) -> None:
    model = QuEEForImageClassification.from_pretrained(folder_of("1-convert"))
    train_heads(model, ingredients, target / "checkpoints")
    _save(model, ingredients, target)


def _calibrate(ingredients: Ingredients, folder_of: Callable[[str], Path], target: Path) -> None:
    recipe = ingredients.recipe
    if not recipe.is_quantized:
        return
    pool = ingredients.train_parts["calibration images"]
    if len(pool) < recipe.calibration_images:
        ingredients.say(f"Only {len(pool)} calibration images, of {recipe.calibration_images} asked for")
    model = QuEEForImageClassification.from_pretrained(folder_of("2-heads"))
    move(model, ingredients.device)
    calibration = calibrate(
        model,
        pool.with_processor(ingredients.source.image_processor),
        method=recipe.ptq,
        num_images=recipe.calibration_images,
        smoothing=recipe.smoothing,
        seed=recipe.seed,
        **recipe.ptq_options,
    )
    save_calibration(calibration, target / CALIBRATION_FILE)


def _quantize(ingredients: Ingredients, folder_of: Callable[[str], Path], target: Path) -> None:
    recipe = ingredients.recipe
    model = QuEEForImageClassification.from_pretrained(folder_of("2-heads"))
    model = rebuild(model, levels=list(recipe.levels), max_paths=max(50, len(recipe.exits)))
    if recipe.is_quantized:
        calibration = load_calibration(folder_of("3-calibrate") / CALIBRATION_FILE, model)
        quantize(model, calibration, weight_sharing=recipe.weight_sharing, keep=recipe.keep)
    _save(model, ingredients, target)


def _collect_outputs(ingredients: Ingredients, folder_of: Callable[[str], Path], target: Path) -> None:
    model = with_routes(folder_of("4-quantize"), ingredients)
    images = ingredients.validation.with_processor(ingredients.source.image_processor)
    ingredients.say(f"{len(model.paths)} paths on {len(images)} images")
    move(model, ingredients.device)
    outputs = collect_all_outputs(model, images, batch_size=ingredients.recipe.batch_size)
    save_file(as_tensors(outputs), target / OUTPUTS_FILE)


def _train_gates(ingredients: Ingredients, folder_of: Callable[[str], Path], target: Path) -> None:
    model = with_routes(folder_of("4-quantize"), ingredients)
    outputs, _ = load_outputs(folder_of("5-path-outputs"))
    targets = train_gates(model, outputs, ingredients, target / "checkpoints")
    save_file({"targets": targets}, target / "gate_targets.safetensors")
    _save(model, ingredients, target)


def _fit_operating_points(ingredients: Ingredients, folder_of: Callable[[str], Path], target: Path) -> None:
    model = QuEEForImageClassification.from_pretrained(folder_of("6-gates"))
    rows = positions(ingredients.validation, ingredients.validation_parts[OPERATING_POINTS])
    outputs, uniform = (part.select(rows) for part in load_outputs(folder_of("5-path-outputs")))
    targets = load_file(folder_of("6-gates") / "gate_targets.safetensors")["targets"][rows]
    model.fit_operating_points(outputs, max_accuracy_drop=ingredients.recipe.max_accuracy_drop)
    write_report(target / "report.json", model, ingredients, outputs, uniform, targets)
    _save(model, ingredients, target)


STAGES = (
    Stage(
        "1-convert",
        "Wrap the classifier",
        ("exits", "head", "logit_scale"),
        ("model", "class_names", "class_embeddings"),
        _convert,
    ),
    Stage(
        "2-heads",
        "Train the exit heads",
        ("head_epochs", "distillation", "head_views"),
        ("train",),
        _train_heads,
    ),
    Stage(
        "3-calibrate",
        "Run the calibration images",
        ("is_quantized", "ptq", "ptq_options", "smoothing", "calibration_images"),
        ("train",),
        _calibrate,
    ),
    Stage(
        "4-quantize",
        "Quantize to every level",
        ("levels", "weight_sharing", "keep"),
        (),
        _quantize,
    ),
    Stage(
        "5-path-outputs",
        "Run every path on the validation images",
        ("first_level", "max_paths"),
        ("validation",),
        _collect_outputs,
    ),
    Stage(
        "6-gates",
        "Train the gates",
        ("gate", "gate_features", "gate_targets", "num_clusters", "gate_epochs", "gate_fraction"),
        ("validation",),
        _train_gates,
    ),
    Stage(
        "7-operating-points",
        "Measure operating points",
        ("max_accuracy_drop",),
        ("validation",),
        _fit_operating_points,
    ),
)


def run_stage(stage: Stage, ingredients: Ingredients, folder_of: Callable[[str], Path], target: Path) -> None:
    """Run a stage; its result depends on its inputs only, not on the stages that ran before it."""
    with torch.random.fork_rng(devices=[]):
        set_seed(ingredients.recipe.seed)
        stage.run(ingredients, folder_of, target)


def load_outputs(folder: Path) -> tuple[PathOutputs, PathOutputs]:
    """Return the collected outputs of the model's paths, and of the whole network at each level."""
    outputs = from_tensors(load_file(folder / OUTPUTS_FILE))
    return outputs.routable, outputs.uniform


def _save(model: QuEEForImageClassification, ingredients: Ingredients, target: Path) -> None:
    model.save_pretrained(target)
    ingredients.source.image_processor.save_pretrained(target)
