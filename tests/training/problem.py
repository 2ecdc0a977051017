"""A problem that heads learn in seconds: noisy copies of a few images."""

from typing import Any

import torch
from tests.tiny import NUM_LABELS, generator, images
from torch import Tensor
from transformers import TrainingArguments

from quee_hf import QuEEForImageClassification, recommended_arguments
from quee_hf.execution.path_outputs import PathOutputs

Items = list[dict[str, Any]]


def noisy_copies(count: int, seed: int = 0, noise: float = 0.3) -> Items:
    """Return `count` images of `NUM_LABELS` kinds, with their kind as the label."""
    kinds = images(NUM_LABELS, seed=100)
    labels = torch.arange(count) % NUM_LABELS
    pixels = kinds[labels] + noise * images(count, seed=seed)
    return [
        {"pixel_values": image, "labels": int(label)} for image, label in zip(pixels, labels, strict=True)
    ]


def mislabelled(items: Items) -> Items:
    """Return the same images under a label that is never theirs."""
    return [{**item, "labels": (item["labels"] + 1) % NUM_LABELS} for item in items]


def outputs(model: QuEEForImageClassification, count: int, seed: int = 0) -> PathOutputs:
    """Make up what paths answer: the longer, the more often right; the surer of itself, the more often right.

    Each image has a difficulty. A path is right if its strength exceeds it, and as sure as the two are apart.
    """
    random = generator(seed)
    labels = torch.randint(NUM_LABELS, (count,), generator=random)
    difficulty = 4 * torch.rand(count, 1, generator=random)
    strength = torch.tensor([float(len(path)) for path in model.paths])
    is_right = strength >= difficulty
    answers = torch.where(is_right, labels[:, None], (labels[:, None] + 1) % NUM_LABELS)
    margin = 0.5 + 2 * (strength - difficulty).clamp(min=0)
    logits = torch.nn.functional.one_hot(answers, NUM_LABELS) * margin[..., None]
    logits = logits + 0.1 * torch.randn(logits.shape, generator=random)
    return PathOutputs(logits, logits[..., 0].square(), labels)


def arguments(folder: Any, **overrides: Any) -> TrainingArguments:
    fields = {
        "use_cpu": True,
        "disable_tqdm": True,
        "num_train_epochs": 6,
        "per_device_train_batch_size": 16,
        "learning_rate": 3e-2,
        "lr_scheduler_type": "linear",
    }
    return recommended_arguments(str(folder), **{**fields, **overrides})


def state(model: QuEEForImageClassification) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def changed(before: dict[str, Tensor], after: dict[str, Tensor]) -> set[str]:
    assert before.keys() == after.keys()
    return {name for name, tensor in before.items() if not torch.equal(tensor, after[name])}
