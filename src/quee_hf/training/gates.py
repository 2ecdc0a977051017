"""`GateTrainer`: teach the gates how likely each path is to be wrong."""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.data import Dataset
from transformers import TrainingArguments

from quee_hf.execution.path_outputs import PathOutputs, collect_path_outputs
from quee_hf.gates.features import known_at_depth
from quee_hf.modeling import QuEEForImageClassification
from quee_hf.routing.router import ROOT
from quee_hf.training.arguments import (
    marked_as_trained,
    recommended_arguments,
    with_early_stopping,
    with_own_columns,
)
from quee_hf.training.error_targets import ErrorTargets
from quee_hf.training.trainer import QuEETrainer

# Gates are small and their features few: they take a higher rate than heads, and more epochs.
GATE_ARGUMENTS = {"learning_rate": 5e-3, "num_train_epochs": 40}


class GateExamples(Dataset[dict[str, Tensor]]):
    """Every path's class probabilities and error target, per image."""

    def __init__(self, outputs: PathOutputs, targets: ErrorTargets) -> None:
        self.probabilities = outputs.probabilities  # (images, paths, labels)
        self.targets = targets(outputs)  # (images, paths)

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"probabilities": self.probabilities[index], "labels": self.targets[index]}


def gate_loss(model: QuEEForImageClassification, probabilities: Tensor, targets: Tensor, kind: str) -> Tensor:
    """Sum the gates' mean errors over all nodes they may stand at and all paths they may choose from there.

    Args:
        model: The gates' owner.
        probabilities: `(batch, paths, labels)`.
        targets: `(batch, paths)`, in [0, 1].
        kind: "outcome": logistic loss; "cluster": squared error of the predicted probability.

    Source:
        Regol et al. 2024 (arXiv:2406.14404), Eq. (16), for "cluster".
    """
    router = model.router.to(probabilities.device)
    total = probabilities.new_zeros(())
    for gate in map(int, model.gates):
        nodes = router.tree.at_depth(gate) if gate else [ROOT]
        # (batch, nodes, paths)
        logits = model.gate_logits(gate, *known_at_depth(router.tree, gate, probabilities))
        wanted = targets[:, None, router.tree.first_at_depth(gate) :].expand_as(logits)
        if kind == "outcome":
            errors = functional.binary_cross_entropy_with_logits(logits, wanted, reduction="none")
        else:
            errors = (logits.sigmoid() - wanted).square()
        total = total + errors[:, router.reachable(gate, torch.tensor(nodes, device=logits.device))].mean()
    return total


class GateTrainer(QuEETrainer):
    """Train the gates on the outputs of all paths; heads and backbone do not change.

    A `transformers.Trainer`: arguments, callbacks, checkpoints, resuming and pushing work as there. If the
    arguments keep the best model, training stops early. The network runs over each data set once, before
    training.

    Args:
        model: Quantized, with trained heads.
        args: `recommended_arguments("gates", **GATE_ARGUMENTS)` if not given.
        targets: What to teach; each image's own outcome if not given.
        train_dataset: Unseen images, items `{"pixel_values", "labels"}`, or their collected `PathOutputs`.
        eval_dataset: The same, for early stopping.
        early_stopping_patience: Evaluations without improvement before training stops.
        **kwargs: As for `Trainer`.

    Source:
        Regol et al. 2024 (arXiv:2406.14404), §5.2.
    """

    def __init__(
        self,
        model: QuEEForImageClassification,
        args: TrainingArguments | None = None,
        *,
        targets: ErrorTargets | None = None,
        train_dataset: Dataset[Any] | PathOutputs | None = None,
        eval_dataset: Dataset[Any] | PathOutputs | None = None,
        early_stopping_patience: int = 5,
        **kwargs: Any,
    ) -> None:
        args = with_own_columns(args or recommended_arguments("gates", **GATE_ARGUMENTS))
        self.targets = targets or ErrorTargets.outcomes()
        examples = {"train_dataset": train_dataset, "eval_dataset": eval_dataset}
        for role, data in examples.items():
            if data is None:
                continue
            outputs = (
                data
                if isinstance(data, PathOutputs)
                else collect_path_outputs(model, data, device=model.device)
            )
            kwargs[role] = GateExamples(outputs, self.targets)
        kwargs["callbacks"] = with_early_stopping(kwargs.get("callbacks"), args, early_stopping_patience)
        super().__init__(model, args, **kwargs)
        # Gates are scored by their loss; what they predict for every path would only fill memory.
        self.args.prediction_loss_only = True

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """Train the gates, and say so in the model's config."""
        with marked_as_trained(self.model, "gates", lambda: self.state.global_step > 0):
            return super().train(*args, **kwargs)

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """Return the gates' loss on a batch of `GateExamples`."""
        quee = self.accelerator.unwrap_model(model)
        loss = gate_loss(quee, inputs["probabilities"], inputs["labels"], self.targets.kind)
        return (loss, {}) if return_outputs else loss
