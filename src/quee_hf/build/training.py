"""Training of heads and gates within a build: what the trainers are given, and how progress is shown."""

import math
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm
from transformers import (
    PrinterCallback,
    ProgressCallback,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from quee_hf.build.ingredients import Ingredients
from quee_hf.build.rebuild import move
from quee_hf.build.roles import positions
from quee_hf.execution.path_outputs import PathOutputs
from quee_hf.modeling import QuEEForImageClassification
from quee_hf.training import ErrorTargets, ExitHeadTrainer, GateTrainer, recommended_arguments
from quee_hf.training.exit_heads import HEAD_ARGUMENTS, ExitFeatures, collect_exit_features
from quee_hf.training.gates import gate_arguments

_BATCH_SIZE = 128  # of `recommended_arguments`
_PATIENCE = 5  # epochs without a lower held-out loss
_LEAST_STEPS = 16  # in an epoch: with few images, batches are smaller, or nothing would be learnt in time


class _EpochBar(TrainerCallback):
    """A progress bar on stderr; the trainer's own one writes to stdout, which belongs to results."""

    def __init__(self, title: str) -> None:
        self._title = title
        self._bar: tqdm[Any] | None = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        self._bar = tqdm(total=int(args.num_train_epochs), desc=self._title, unit="epoch")

    def on_evaluate(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        if self._bar is not None and state.log_history:
            loss = state.log_history[-1].get("eval_loss")
            self._bar.set_postfix(held_out_loss=f"{loss:.4f}")
            self._bar.update()

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        if self._bar is not None:
            self._bar.close()


class _KeepBest(TrainerCallback):
    """Stops when the held-out loss falls no more, and gives the best weights back.

    They are kept in memory: what is trained is small, and a checkpoint holds the whole model.
    """

    def __init__(self) -> None:
        self._best, self._waited = math.inf, 0
        self._kept: dict[str, Tensor] = {}

    def on_evaluate(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **found: Any,
    ) -> None:
        loss = found["metrics"]["eval_loss"]
        self._waited += 1
        if loss < self._best:
            self._best, self._waited = loss, 0
            self._kept = {name: part.detach().clone() for name, part in _trained(found["model"])}
        if self._waited == _PATIENCE:
            control.should_training_stop = True

    def on_train_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **found: Any,
    ) -> None:
        with torch.no_grad():
            for name, part in _trained(found["model"]):
                part.copy_(self._kept.get(name, part))


def _trained(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    return ((name, part) for name, part in model.named_parameters() if part.requires_grad)


@dataclass(frozen=True)
class Schedule:
    """How long and how fast to train.

    Args:
        num_epochs: At most; training stops early.
        learning_rate: Of AdamW.
        seed: Of the order of the images.
        distillation: Of heads, where the features hold a teacher's outputs.
    """

    num_epochs: int
    learning_rate: float
    seed: int
    distillation: str = "soft"


def train_heads(model: QuEEForImageClassification, ingredients: Ingredients, checkpoints: Path) -> None:
    """Train a model's exit heads, in place; it is left on the CPU.

    Args:
        model: With float weights.
        ingredients: Of the build.
        checkpoints: A directory for the trainer, removed afterwards.
    """
    recipe, parts = ingredients.recipe, ingredients.train_parts
    move(model, ingredients.device)
    train, held_out = (
        collect_exit_features(
            model,
            parts[role].with_processor(ingredients.source.image_processor),
            batch_size=recipe.batch_size,
            teacher=None if recipe.distillation == "none" else model,
            num_views=num_views,
        )
        for role, num_views in (("head training", recipe.head_views), ("head early stopping", 1))
    )
    distillation = "soft" if recipe.distillation == "none" else recipe.distillation
    schedule = Schedule(recipe.head_epochs, HEAD_ARGUMENTS["learning_rate"], recipe.seed, distillation)
    fit_heads(model, train, held_out, schedule, checkpoints)


def fit_heads(
    model: QuEEForImageClassification,
    train: ExitFeatures,
    held_out: ExitFeatures,
    schedule: Schedule,
    checkpoints: Path,
) -> None:
    """Train a model's exit heads on what they read, in place; it is left on the CPU.

    Args:
        model: Its backbone is not run.
        train: To learn from.
        held_out: For early stopping.
        schedule: How long.
        checkpoints: A directory for the trainer, removed afterwards.
    """
    arguments = _arguments(checkpoints, len(train), schedule)
    trainer = ExitHeadTrainer(
        model.cpu(),
        arguments,
        train_dataset=train,
        eval_dataset=held_out,
        distillation=schedule.distillation,
    )
    _train(trainer, "Training heads", checkpoints)


def train_gates(
    model: QuEEForImageClassification, outputs: PathOutputs, ingredients: Ingredients, checkpoints: Path
) -> Tensor:
    """Train a model's gates, in place.

    Args:
        model: With untrained gates, on the CPU.
        outputs: Of all its paths on the validation images.
        ingredients: Of the build.
        checkpoints: A directory for the trainer, removed afterwards.

    Returns:
        `(images, paths)`, float32: the error targets of all validation images.
    """
    recipe, validation = ingredients.recipe, ingredients.validation
    parts = {
        role: outputs.select(positions(validation, part))
        for role, part in ingredients.validation_parts.items()
    }
    targets = ErrorTargets.outcomes()
    if recipe.gate_targets == "cluster":
        clusters = parts["error clusters"]
        targets = ErrorTargets.fit(model, clusters, num_clusters=recipe.num_clusters, seed=recipe.seed)
    rate = gate_arguments(model.config.gate_type)["learning_rate"]
    schedule = Schedule(recipe.gate_epochs, rate, recipe.seed)
    fit_gates(
        model, (parts["gate training"], parts["gate early stopping"]), schedule, checkpoints, targets=targets
    )
    return targets(outputs)


def fit_gates(
    model: QuEEForImageClassification,
    outputs: tuple[PathOutputs, PathOutputs],
    schedule: Schedule,
    checkpoints: Path,
    *,
    targets: ErrorTargets | None = None,
) -> None:
    """Train a model's gates on the outputs of all paths, in place.

    Args:
        model: On the CPU; its backbone is not run.
        outputs: To learn from, and for early stopping.
        schedule: How long.
        checkpoints: A directory for the trainer, removed afterwards.
        targets: What to teach; each image's own outcome if not given.
    """
    train, held_out = outputs
    arguments = _arguments(checkpoints, len(train), schedule)
    trainer = GateTrainer(model, arguments, targets=targets, train_dataset=train, eval_dataset=held_out)
    _train(trainer, "Training gates", checkpoints)


def _arguments(checkpoints: Path, num_images: int, schedule: Schedule) -> TrainingArguments:
    # On the CPU: the inputs are small and already there, and results do not depend on the machine's GPUs.
    return recommended_arguments(
        str(checkpoints),
        num_train_epochs=schedule.num_epochs,
        learning_rate=schedule.learning_rate,
        seed=schedule.seed,
        per_device_train_batch_size=min(_BATCH_SIZE, max(8, num_images // _LEAST_STEPS)),
        use_cpu=True,
        dataloader_pin_memory=False,
        save_strategy="no",
        load_best_model_at_end=False,
    )


def _train(trainer: Trainer, title: str, checkpoints: Path) -> None:
    for callback in (ProgressCallback, PrinterCallback):
        trainer.remove_callback(callback)
    trainer.add_callback(_KeepBest())
    trainer.add_callback(_EpochBar(title))
    trainer.train()
    trainer.model.train(False)  # type: ignore[union-attr]
    shutil.rmtree(checkpoints, ignore_errors=True)
