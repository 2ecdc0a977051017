"""`ExitHeadTrainer`: train all exit heads together on the frozen backbone."""

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from tqdm.auto import tqdm
from transformers import EvalPrediction, TrainingArguments

from quee_hf.exits.loss import scaled_exit_loss
from quee_hf.modeling import QuEEForImageClassification
from quee_hf.training.arguments import (
    marked_as_trained,
    recommended_arguments,
    with_early_stopping,
    with_own_columns,
)
from quee_hf.training.trainer import QuEETrainer

# Linear heads on normalised features take a higher rate than the paper's 1e-3, and want patience: the
# losses of deep exits rise early while those of shallow exits still fall.
HEAD_ARGUMENTS = {"learning_rate": 3e-3, "num_train_epochs": 20}


class ExitFeatures(Dataset[dict[str, Tensor]]):
    """What the trainable heads read for a set of images, computed once.

    Args:
        pooled: `(images, exits - 1, size)`, float32.
        labels: `(images,)`, int64.
    """

    def __init__(self, pooled: Tensor, labels: Tensor) -> None:
        self.pooled = pooled
        self.labels = labels

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"pooled": self.pooled[index], "labels": self.labels[index]}


@torch.no_grad()
def pool_trainable_exits(model: QuEEForImageClassification, pixel_values: Tensor) -> Tensor:
    """Return what each head but the last reads, at the most exact level: `(batch, exits - 1, size)`."""
    hidden, pooled = model.embed(pixel_values), []
    for segment in range(model.config.num_exits - 1):
        hidden = model.run_segment(segment, model.exact_level, hidden)
        pooled.append(model.pool_exit(segment, hidden))
    return torch.stack(pooled, dim=1)


def collect_exit_features(
    model: QuEEForImageClassification, dataset: Dataset[Any], *, batch_size: int = 64
) -> ExitFeatures:
    """Run the frozen backbone over a data set once, with a progress bar.

    Args:
        model: With two exits or more.
        dataset: Items `{"pixel_values": (channels, height, width), "labels": int}`.
        batch_size: Images per batch.
    """
    pooled, labels = [], []
    for batch in tqdm(
        DataLoader(dataset, batch_size=batch_size), desc="Collecting exit features", unit="batch"
    ):
        pooled.append(pool_trainable_exits(model, batch["pixel_values"].to(model.device)).float().cpu())
        labels.append(torch.as_tensor(batch["labels"]))
    return ExitFeatures(torch.cat(pooled), torch.cat(labels).long())


class ExitHeadTrainer(QuEETrainer):
    """Train the exit heads, all but the last, with the scaled loss.

    A `transformers.Trainer`: arguments, callbacks, checkpoints, resuming and pushing work as there. If the
    arguments keep the best model, training stops early.

    Args:
        model: The backbone's weights do not change.
        args: `recommended_arguments("exit-heads", **HEAD_ARGUMENTS)` if not given.
        train_dataset: Items `{"pixel_values", "labels"}`, or `ExitFeatures`.
        eval_dataset: The same, for early stopping.
        cache_features: Whether to run the backbone over each data set once, before training, rather than in
            every epoch. Turn it off for random augmentation, or when `images * exits * size` floats do not
            fit in memory.
        early_stopping_patience: Evaluations without improvement before training stops.
        **kwargs: As for `Trainer`.

    Raises:
        ValueError: If the model has a single exit, whose head is the backbone's own.

    Source:
        Regol et al. 2024 (arXiv:2406.14404), §7.1.4.
    """

    def __init__(
        self,
        model: QuEEForImageClassification,
        args: TrainingArguments | None = None,
        *,
        train_dataset: Dataset[Any] | None = None,
        eval_dataset: Dataset[Any] | None = None,
        cache_features: bool = True,
        early_stopping_patience: int = 5,
        **kwargs: Any,
    ) -> None:
        if model.config.num_exits < 2:
            raise ValueError("The model has one exit, the backbone's own head: there are no heads to train.")
        args = with_own_columns(args or recommended_arguments("exit-heads", **HEAD_ARGUMENTS))
        if cache_features:
            train_dataset, eval_dataset = (
                data if data is None or isinstance(data, ExitFeatures) else collect_exit_features(model, data)
                for data in (train_dataset, eval_dataset)
            )
        kwargs["callbacks"] = with_early_stopping(kwargs.get("callbacks"), args, early_stopping_patience)
        kwargs.setdefault("compute_metrics", _accuracy_per_exit)
        super().__init__(model, args, train_dataset=train_dataset, eval_dataset=eval_dataset, **kwargs)

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """Train the heads, and say so in the model's config."""
        with marked_as_trained(self.model, "heads", lambda: self.state.global_step > 0):
            return super().train(*args, **kwargs)

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """Return the scaled loss of the trainable heads, and their logits `(batch, exits - 1, labels)`."""
        quee = self.accelerator.unwrap_model(model)
        pooled = (
            inputs["pooled"] if "pooled" in inputs else pool_trainable_exits(quee, inputs["pixel_values"])
        )
        logits = torch.stack([quee.head_logits(i, pooled[:, i]) for i in range(pooled.shape[1])], dim=1)
        loss = scaled_exit_loss(logits, inputs["labels"])
        return (loss, {"logits": logits}) if return_outputs else loss


def _accuracy_per_exit(prediction: EvalPrediction) -> dict[str, float]:
    """Accuracy of each trainable head."""
    is_right = np.argmax(prediction.predictions, axis=-1) == np.asarray(prediction.label_ids)[:, None]
    return {f"accuracy_exit_{i + 1}": float(share) for i, share in enumerate(is_right.mean(axis=0))}
