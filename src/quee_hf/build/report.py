"""`report.json`: how good the built model is, on images used for nothing else, and which images did what."""

from pathlib import Path
from typing import Any

from torch import Tensor

from quee_hf.build.files import write_json
from quee_hf.build.ingredients import Ingredients
from quee_hf.build.records import record_measurements
from quee_hf.data.roles import describe_roles, record_roles
from quee_hf.diagnostics.gate_quality import describe_gates
from quee_hf.diagnostics.report import (
    describe_exits,
    describe_paths,
    describe_routing,
    describe_uniform,
    route_images,
)
from quee_hf.diagnostics.versions import library_versions
from quee_hf.execution.path_outputs import PathOutputs
from quee_hf.modeling import QuEEForImageClassification

# What of a report goes with the model, for its card.
_RECORDED = ("exits", "uniform_paths", "gates", "gate_targets", "max_accuracy_drop", "seed")


def write_report(
    path: Path,
    model: QuEEForImageClassification,
    ingredients: Ingredients,
    outputs: PathOutputs,
    uniform: PathOutputs,
    targets: Tensor,
) -> None:
    """Measure the model on the images of the operating points, write the report, and record it in the config.

    Args:
        path: File to write.
        model: With operating points.
        ingredients: Of the build.
        outputs: Of the model's paths, on these images.
        uniform: Of the whole network at each level, on these images.
        targets: `(images, paths)`, what the gates were taught to predict.
    """
    recipe, config = ingredients.recipe, model.config
    lambdas = [point["cost_lambda"] for point in config.operating_points or ()]
    report: dict[str, Any] = {
        "exit_blocks": list(config.exit_blocks),
        "levels": config.level_list,
        "cost_model": config.cost_model,
        "quantization": config.quantization,
        "cost_lambda": config.cost_lambda,
        "max_accuracy_drop": recipe.max_accuracy_drop,
        "num_images": len(outputs),
        "exits": describe_exits(model, outputs),
        "uniform_paths": describe_uniform(model, uniform),
        "paths": describe_paths(model, outputs),
        "operating_points": [
            describe_routing(routed, config.num_exits) for routed in route_images(model, outputs, lambdas)
        ],
        "gate_targets": recipe.gate_targets,
        "gates": describe_gates(model, outputs, targets),
        "roles": _roles(ingredients),
        "seed": recipe.seed,
        "versions": library_versions(),
    }
    write_json(path, report)
    record_roles(config, report["roles"])
    record_measurements(config, recipe.validation, {key: report[key] for key in _RECORDED})


def _roles(ingredients: Ingredients) -> list[dict[str, Any]]:
    recipe = ingredients.recipe
    return [
        *describe_roles(recipe.train, ingredients.train_parts),
        *describe_roles(recipe.validation, ingredients.validation_parts),
    ]
