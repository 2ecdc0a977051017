"""Training arguments that suit heads and gates; any `TrainingArguments` will do."""

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from transformers import EarlyStoppingCallback, TrainerCallback, TrainingArguments

from quee_hf.processes import meet, num_processes

_STILL_TRAINED = {"heads": set[str](), "gates": {"heads"}}  # when a part is trained
# Whose images are other ones afterwards.
_GATE_ROLES = ("error clusters", "gate training", "gate early stopping", "operating points")
_ROLES = {"heads": ("head training", "head early stopping", *_GATE_ROLES), "gates": _GATE_ROLES}
_SOURCE = "given in Python"
_MEASURED = ("trained_parts", "operating_points", "certificates", "cost_lambda", "record")


def recommended_arguments(output_dir: str, **overrides: Any) -> TrainingArguments:
    """Return arguments for training heads or gates: Adam at the paper's rate, the best epoch kept.

    Learning rate 1e-3, weight decay 1e-4, evaluated and saved every epoch; trainers then stop early. Several
    processes find each other on CPUs, too, if there is nothing faster.

    Args:
        output_dir: Where checkpoints go.
        **overrides: Any field of `TrainingArguments`.

    Source:
        Regol et al. 2024 (arXiv:2406.14404), §7.1.4. Differs: AdamW, and a cosine schedule.
    """
    fields: dict[str, Any] = {
        "learning_rate": 1e-3,
        "weight_decay": 1e-4,
        "lr_scheduler_type": "cosine",
        "num_train_epochs": 20,
        "per_device_train_batch_size": 128,
        "per_device_eval_batch_size": 256,
        "eval_strategy": "epoch",
        "save_strategy": "epoch",
        "save_total_limit": 1,
        "load_best_model_at_end": True,
        "metric_for_best_model": "loss",
        "logging_strategy": "epoch",
        "report_to": "none",
        "dataloader_pin_memory": torch.cuda.is_available(),
        "remove_unused_columns": False,
        "use_cpu": num_processes() > 1 and not torch.accelerator.is_available(),
    }
    return TrainingArguments(output_dir, **{**fields, **overrides})


def fitting_arguments(args: TrainingArguments) -> TrainingArguments:
    """Return a copy of arguments that keeps all columns: trainers here feed on what `forward` does not name.

    Raises:
        QuEEError: If there are several processes, but the arguments are for one.
    """
    if num_processes() > 1:
        meet(args.device)
    args = copy.copy(args)
    args.remove_unused_columns = False
    return args


@contextmanager
def marked_as_trained(
    model: Any, part: str, has_changed: Callable[[], bool], roles: Sequence[Mapping[str, Any]] = ()
) -> Iterator[None]:
    """Say in a model's config that its "heads" or "gates" are trained, unless the block fails.

    Checkpoints that the block saves say so, too. What was measured before is forgotten; gates have learnt
    the errors of the heads that were there, so after new heads they count as untrained. If the block fails
    when weights have changed already, the part counts as untrained.
    """
    config = model.config
    before = {name: getattr(config, name) for name in _MEASURED}
    kept = {*config.trained_parts} & _STILL_TRAINED[part]
    config.forget_measurements()
    from quee_hf.data.roles import record_roles  # takes a tenth of a second, which few who import us need

    config.forget_roles(_ROLES[part])
    record_roles(config, roles)
    config.trained_parts = sorted({*kept, part})
    try:
        yield
    except BaseException:
        config.trained_parts = sorted(kept - {part})
        for name, value in () if has_changed() else before.items():
            setattr(config, name, value)
        raise


def training_roles(part: str, train: object, held_out: object) -> list[dict[str, Any]]:
    """Describe the images that "heads" or "gates" are trained with, as far as it can be told which they are.

    Args:
        part: What is trained.
        train: Data set of the trainer.
        held_out: That it stops early by.
    """
    from quee_hf.data.labelled_images import known_images
    from quee_hf.data.roles import describe_roles

    names = (f"{part.removesuffix('s')} training", f"{part.removesuffix('s')} early stopping")
    parts = {name: known_images(data) for name, data in zip(names, (train, held_out), strict=True)}
    return describe_roles(_SOURCE, {name: known.images for name, known in parts.items() if known is not None})


def with_early_stopping(
    callbacks: list[TrainerCallback] | None, args: TrainingArguments, patience: int
) -> list[TrainerCallback]:
    """Add early stopping to the callbacks if the arguments keep the best model and it is not there yet."""
    callbacks = list(callbacks or [])
    has_one = any(isinstance(callback, EarlyStoppingCallback) for callback in callbacks)
    if args.load_best_model_at_end and not has_one:
        callbacks.append(EarlyStoppingCallback(early_stopping_patience=patience))
    return callbacks
