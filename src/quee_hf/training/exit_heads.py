"""`ExitHeadTrainer`: train all exit heads together on the frozen backbone."""

from collections.abc import Iterator, Sequence, Sized
from functools import partial
from tempfile import TemporaryFile
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from tqdm.auto import tqdm
from transformers import EvalPrediction, TrainingArguments

from quee_hf.execution.shared_batches import run_batches
from quee_hf.exits.heads import ExitHead
from quee_hf.exits.loss import cosine_distillation_losses, scaled_exit_losses, soft_distillation_losses
from quee_hf.modeling import QuEEForImageClassification
from quee_hf.processes import check_alone
from quee_hf.training.arguments import (
    fitting_arguments,
    marked_as_trained,
    recommended_arguments,
    training_roles,
    with_early_stopping,
)
from quee_hf.training.rows import TensorRows, collate
from quee_hf.training.trainer import QuEETrainer
from quee_hf.training.views import random_views

# Linear heads on normalised features take a higher rate than the paper's 1e-3, and want patience: the
# losses of deep exits rise early while those of shallow exits still fall.
DISTILLATIONS = ("soft", "cosine")
_TOKEN_DIMENSIONS = 4  # images, exits, tokens, channels
HEAD_ARGUMENTS = {"learning_rate": 3e-3, "num_train_epochs": 20}


class ExitFeatures(TensorRows):
    """What the trainable heads read for a set of images, computed once.

    Args:
        selected: `(images, exits - 1, ...)`, as `QuEEForImageClassification.select_exit` gives it.
        labels: `(images,)`, int64.
        teacher: `(images, outputs)`, what a full-precision network's last head returns; `None` if heads are
            not to be drawn to it.
    """

    def __init__(self, selected: Tensor, labels: Tensor, teacher: Tensor | None = None) -> None:
        self.selected = selected
        self.labels = labels
        self.teacher = teacher
        taught = {} if teacher is None else {"teacher": teacher}
        super().__init__({"selected": selected, "labels": labels, **taught})


def _trainable_exits(model: QuEEForImageClassification, pixel_values: Tensor) -> Iterator[Tensor]:
    """Yield the tokens at each exit but the last, at the most exact level."""
    hidden = model.embed(pixel_values)
    for segment in range(model.config.num_exits - 1):
        hidden = model.run_segment(segment, model.exact_level, hidden)
        yield hidden


@torch.no_grad()
def select_trainable_exits(model: QuEEForImageClassification, pixel_values: Tensor) -> Tensor:
    """Return what each head but the last reads, at the most exact level: `(batch, exits - 1, ...)`."""
    exits = enumerate(_trainable_exits(model, pixel_values))
    return torch.stack([model.select_exit(index, hidden) for index, hidden in exits], dim=1)


@torch.no_grad()
def last_outputs(model: QuEEForImageClassification, pixel_values: Tensor) -> Tensor:
    """Return the last head's logits or embeddings at the most exact level, `(batch, outputs)`."""
    hidden, last = model.embed(pixel_values), model.config.num_exits - 1
    for segment in range(last + 1):
        hidden = model.run_segment(segment, model.exact_level, hidden)
    outputs: Tensor = model.heads[last](model.select_exit(last, hidden))
    return outputs.float()


def collect_exit_features(
    model: QuEEForImageClassification,
    dataset: Dataset[Any],
    *,
    batch_size: int = 64,
    teacher: QuEEForImageClassification | None = None,
    num_views: int = 1,
) -> ExitFeatures:
    """Run the frozen backbone over a data set, with a progress bar.

    Heads that read all tokens need much room: their features are kept in half precision, in a temporary file
    that vanishes with them. Several processes share the work, and each of them keeps the features of all
    images.

    Args:
        model: With two exits or more.
        dataset: Items `{"pixel_values": (channels, height, width), "labels": int}`.
        batch_size: Images per batch.
        teacher: Whose last exit's outputs are kept, too.
        num_views: How often each image is looked at: once as it is, then cropped and mirrored at random,
            which one process must do alone.

    Raises:
        ValueError: If the data set is empty, or an image holds NaN or infinity.
    """
    if num_views > 1:
        check_alone("Looking at images more than once")
    random = torch.Generator().manual_seed(0)

    def run(batch: dict[str, Any], view: int) -> tuple[Tensor, ...]:
        pixel_values = random_views(batch["pixel_values"], random) if view else batch["pixel_values"]
        rows = select_trainable_exits(model, pixel_values.to(model.device))
        taught = () if teacher is None else (last_outputs(teacher, pixel_values.to(teacher.device)).cpu(),)
        return rows, torch.as_tensor(batch["labels"]), *taught

    selected, others = None, list[Sequence[Tensor]]()
    for view in range(num_views):
        title = f"Collecting exit features, view {view + 1}"
        work = partial(run, view=view)
        for rows, *rest in run_batches(
            dataset, work, batch_size=batch_size, device=model.device, title=title
        ):
            if selected is None:
                selected = _allocate((num_views * len(cast(Sized, dataset)), *rows.shape[1:]))
            start = sum(len(part[0]) for part in others)
            selected[start : start + len(rows)] = rows
            others.append(rest)
    if selected is None:
        raise ValueError("The data set is empty.")
    labels, *taught = (torch.cat(columns) for columns in zip(*others, strict=True))
    return ExitFeatures(selected, labels.long(), *taught)


@torch.no_grad()
def collect_pooled(
    model: QuEEForImageClassification, dataset: Dataset[Any], *, batch_size: int = 64
) -> tuple[Tensor, Tensor]:
    """Return what heads could read, of a model with two exits or more, with a progress bar.

    Returns:
        What the last layers of the trainable heads read, `(images, exits - 1, size)`, and the normalised
        class tokens there, `(images, exits - 1, hidden)`, float32.
    """
    pooled, class_tokens = [], []
    for batch in tqdm(DataLoader(dataset, batch_size=batch_size), desc="Pooling exits", unit="batch"):
        exits = _trainable_exits(model, batch["pixel_values"].to(model.device))
        tokens = [model.trunk.norm(hidden) for hidden in exits]
        heads = [cast(ExitHead, head) for head in model.heads[:-1]]
        rows = [head.pool(head.select(part)) for head, part in zip(heads, tokens, strict=True)]
        pooled.append(torch.stack(rows, dim=1).float().cpu())
        class_tokens.append(torch.stack([part[:, 0] for part in tokens], dim=1).float().cpu())
    return torch.cat(pooled), torch.cat(class_tokens)


def _allocate(shape: Sequence[int]) -> Tensor:
    if len(shape) < _TOKEN_DIMENSIONS:
        return torch.empty(*shape)
    with TemporaryFile() as file:
        return torch.from_numpy(np.memmap(file, dtype=np.float16, mode="w+", shape=tuple(shape)))


class ExitHeadTrainer(QuEETrainer):
    """Train the exit heads, all but the last, with the scaled loss.

    A `transformers.Trainer`: arguments, callbacks, checkpoints, resuming and pushing work as there. If the
    arguments keep the best model, training stops early.

    Args:
        model: The backbone's weights do not change.
        args: `recommended_arguments("exit-heads", **HEAD_ARGUMENTS)` if not given.
        train_dataset: Items `{"pixel_values", "labels"}`, or `ExitFeatures`.
        eval_dataset: The same, for early stopping.
        teacher: Full-precision model of the same classes, to whose last exit the heads are drawn, too; the
            model itself before it is quantized. No distillation if not given.
        distillation: How: "soft" (to its softened class probabilities) or "cosine" (to the direction of its
            outputs, as in LRA-EE).
        cache_features: Whether to run the backbone over each data set once, before training, rather than in
            every epoch. Turn it off for random augmentation, or when there is no room for what is read.
        early_stopping_patience: Evaluations without improvement before training stops.
        **kwargs: As for `Trainer`.

    Raises:
        ValueError: If the model has a single exit, whose head is the backbone's own, or there is no such
            distillation.

    Source:
        Regol et al. 2024 (arXiv:2406.14404), §7.1.4; distillation: LRA-EE (arXiv:2605.26415), §5.1.
    """

    def __init__(  # noqa: PLR0913 - as for `Trainer`
        self,
        model: QuEEForImageClassification,
        args: TrainingArguments | None = None,
        *,
        train_dataset: Dataset[Any] | None = None,
        eval_dataset: Dataset[Any] | None = None,
        teacher: QuEEForImageClassification | None = None,
        distillation: str = "soft",
        cache_features: bool = True,
        early_stopping_patience: int = 5,
        **kwargs: Any,
    ) -> None:
        if model.config.num_exits < 2:
            raise ValueError("The model has one exit, the backbone's own head: there are no heads to train.")
        if distillation not in DISTILLATIONS:
            raise ValueError(f"`distillation` must be one of {list(DISTILLATIONS)}, got {distillation!r}.")
        args = fitting_arguments(args or recommended_arguments("exit-heads", **HEAD_ARGUMENTS))
        self._roles = training_roles("heads", train_dataset, eval_dataset)
        if cache_features:
            train_dataset, eval_dataset = (
                data
                if data is None or isinstance(data, ExitFeatures)
                else collect_exit_features(model, data, teacher=teacher)
                for data in (train_dataset, eval_dataset)
            )
        self._teacher, self._distillation = teacher, distillation
        kwargs["callbacks"] = with_early_stopping(kwargs.get("callbacks"), args, early_stopping_patience)
        kwargs.setdefault("compute_metrics", _accuracy_per_exit)
        kwargs.setdefault("data_collator", collate)
        super().__init__(model, args, train_dataset=train_dataset, eval_dataset=eval_dataset, **kwargs)

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """Train the heads, and say so in the model's config."""
        with marked_as_trained(self.model, "heads", lambda: self.state.global_step > 0, self._roles):
            return super().train(*args, **kwargs)

    def image_losses(
        self, model: QuEEForImageClassification, inputs: dict[str, Tensor]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the scaled losses of the trainable heads, and their logits `(batch, exits - 1, labels)`."""
        taught = inputs.get("teacher")
        if "selected" in inputs:
            selected = inputs["selected"]
        else:
            selected = select_trainable_exits(model, inputs["pixel_values"])
            if self._teacher is not None:
                taught = last_outputs(self._teacher, inputs["pixel_values"])
        outputs = torch.stack([model.heads[i](selected[:, i]) for i in range(selected.shape[1])], dim=1)
        logits = model.as_logits(outputs)
        losses = scaled_exit_losses(logits, inputs["labels"])
        if taught is not None and self._distillation == "soft":
            losses = losses + soft_distillation_losses(logits, model.as_logits(taught))
        elif taught is not None:
            losses = losses + cosine_distillation_losses(outputs, taught)
        return losses, {"logits": logits}


def _accuracy_per_exit(prediction: EvalPrediction) -> dict[str, float]:
    """Accuracy of each trainable head."""
    is_right = np.argmax(prediction.predictions, axis=-1) == np.asarray(prediction.label_ids)[:, None]
    return {f"accuracy_exit_{i + 1}": float(share) for i, share in enumerate(is_right.mean(axis=0))}
