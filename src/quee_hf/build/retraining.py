"""Train the heads or the gates of a model that is there already."""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import set_seed

from quee_hf.build.ingredients import choose_device, read_matching
from quee_hf.build.rebuild import move
from quee_hf.build.records import record_measurements
from quee_hf.build.roles import Parts, divide
from quee_hf.build.training import Schedule, fit_gates, fit_heads
from quee_hf.data import LabelledImages, count_shared_images
from quee_hf.data.roles import OPERATING_POINTS, check_unused, describe_roles, record_roles
from quee_hf.diagnostics.gate_quality import describe_gates
from quee_hf.diagnostics.report import describe_exits
from quee_hf.errors import BadDatasetError, NotReadyError
from quee_hf.execution.path_outputs import collect_path_outputs
from quee_hf.modeling import QuEEForImageClassification
from quee_hf.training.exit_heads import collect_exit_features

# Of the images to learn from; the others tell when to stop.
_SHARES = {
    "heads": {"head training": 0.9, "head early stopping": 0.1},
    "gates": {"gate training": 0.8, "gate early stopping": 0.2},
}


@dataclass(frozen=True, kw_only=True)
class RetrainingPlan:
    """What to learn from, and how.

    Args:
        train: Images as `load_image_dataset` takes them.
        validation: For gates: images used for nothing else, on which operating points are measured.
        schedule: How long and how fast.
        match_labels: "names" or "numbers".
        skip_bad: Whether to leave out images that cannot be read.
        batch_size: Images per batch when the network runs.
        device: Where it runs.
    """

    train: str
    validation: str | None = None
    schedule: Schedule
    match_labels: str = "names"
    skip_bad: bool = False
    batch_size: int = 64
    device: str = "auto"


def retrain_heads(
    model: QuEEForImageClassification,
    image_processor: Any,
    plan: RetrainingPlan,
    say: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Train a model's exit heads anew, in place; its gates count as untrained afterwards.

    Returns:
        How many images played which role.

    Raises:
        QuEEError: If the images cannot be used.
        ValueError: If the model has no heads to train.
    """
    if model.config.num_exits < 2:
        raise ValueError("The model has one exit, the classifier's own head: there are no heads to train.")
    parts = _divide(read_matching(plan.train, model, plan, say), "heads", plan)
    move(model, choose_device(plan.device))
    train, held_out = (
        collect_exit_features(model, part.with_processor(image_processor), batch_size=plan.batch_size)
        for part in parts.values()
    )
    with torch.random.fork_rng(devices=[]), tempfile.TemporaryDirectory() as folder:
        set_seed(plan.schedule.seed)
        fit_heads(model, train, held_out, plan.schedule, Path(folder) / "checkpoints")
    record_roles(model.config, describe_roles(plan.train, parts))
    return {"num_images": {role: len(part) for role, part in parts.items()}}


def retrain_gates(
    model: QuEEForImageClassification,
    image_processor: Any,
    plan: RetrainingPlan,
    say: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Train a model's gates anew, in place, and measure its operating points.

    Returns:
        How many images played which role, the operating points, and each exit's accuracy.

    Raises:
        QuEEError: If the images cannot be used, or the heads are not trained.
    """
    if model.config.num_exits > 1 and "heads" not in model.config.trained_parts:
        raise NotReadyError("The exit heads are not trained: train them first, with `quee train-heads`.")
    assert plan.validation is not None
    train, validation = (read_matching(source, model, plan, say) for source in (plan.train, plan.validation))
    if shared := count_shared_images(train, validation):
        raise BadDatasetError(f"{shared} of the validation images are among those to learn from.")
    for images, source in ((train, plan.train), (validation, plan.validation)):
        check_unused(model.config, images, source, prefix="head")
    parts, measuring = _divide(train, "gates", plan), {OPERATING_POINTS: validation}
    move(model, choose_device(plan.device))
    outputs, held_out, measured = (
        collect_path_outputs(
            model, part.with_processor(image_processor), batch_size=plan.batch_size, device=model.device
        )
        for part in (parts | measuring).values()
    )
    move(model, torch.device("cpu"))
    with torch.random.fork_rng(devices=[]), tempfile.TemporaryDirectory() as folder:
        set_seed(plan.schedule.seed)
        fit_gates(model, (outputs, held_out), plan.schedule, Path(folder) / "checkpoints")
    points = model.fit_operating_points(measured)
    record_roles(
        model.config, [*describe_roles(plan.train, parts), *describe_roles(plan.validation, measuring)]
    )
    found = {"exits": describe_exits(model, measured), "gates": describe_gates(model, measured)}
    record_measurements(model.config, plan.validation, found)
    return {
        "num_images": {role: len(part) for role, part in (parts | measuring).items()},
        "cost_lambda": model.config.cost_lambda,
        "operating_points": points,
        **found,
    }


def _divide(images: LabelledImages, part: str, plan: RetrainingPlan) -> Parts:
    return divide(images, _SHARES[part], plan.schedule.seed, name="training")
