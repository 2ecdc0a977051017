"""`GateTrainer`: teach the gates how likely each path is to be wrong."""

from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.data import Dataset
from transformers import TrainingArguments

from quee_hf.execution.operating_points import DEFAULT_LAMBDAS
from quee_hf.execution.path_outputs import PathOutputs, collect_path_outputs
from quee_hf.execution.scoring import score_paths
from quee_hf.gates import LRAGates
from quee_hf.modeling import QuEEForImageClassification
from quee_hf.routing.thresholds import search_thresholds
from quee_hf.training.arguments import (
    fitting_arguments,
    marked_as_trained,
    recommended_arguments,
    training_roles,
    with_early_stopping,
)
from quee_hf.training.error_targets import ErrorTargets
from quee_hf.training.logistic import logistic_regression
from quee_hf.training.rows import TensorRows, collate
from quee_hf.training.trainer import QuEETrainer

_NUM_EPOCHS = 60  # gates are small and their features few: they take more epochs than heads
_LEARNING_RATES = {"error_predictor": 2e-3, "lra": 1e-4}  # LRA-EE's gates start from the best answer
_RIGHT = 0.5  # targets below it count as right where thresholds are chosen


def gate_arguments(gate_type: str) -> dict[str, Any]:
    """Return the fields of `TrainingArguments` that suit a type of gate."""
    return {"learning_rate": _LEARNING_RATES[gate_type], "num_train_epochs": _NUM_EPOCHS}


class GateExamples(TensorRows):
    """What gates keep of every path's exit, and every path's error target, per image."""

    def __init__(self, summaries: Tensor, targets: Tensor) -> None:
        self.summaries = summaries  # (images, paths, summary)
        self.targets = targets  # (images, paths)
        super().__init__({"summaries": summaries, "labels": targets})


def gate_losses(model: QuEEForImageClassification, summaries: Tensor, targets: Tensor, kind: str) -> Tensor:
    """Sum the gates' mean errors, image by image.

    QuEE's gates learn the error of every path that they may choose, from the exits passed on the way to it;
    LRA-EE's, along the most exact path, whether the exit where they stand is right.

    Args:
        model: The gates' owner.
        summaries: `(batch, paths, summary)`, of the exit of every path.
        targets: `(batch, paths)`, in [0, 1].
        kind: "outcome": logistic loss; "cluster": squared error of the predicted probability.

    Returns:
        `(batch,)`.

    Source:
        Regol et al. 2024 (arXiv:2406.14404), Eq. (16), for "cluster"; LRA-EE (arXiv:2605.26415), §4.3.
    """
    total = summaries.new_zeros(len(summaries))
    for gate in model.gates.numbers:
        nodes, logits = score_paths(model.gates, model.router, gate, summaries)
        total = total + _mean_error(logits, targets[:, nodes], kind)
    return total


def _mean_error(logits: Tensor, wanted: Tensor, kind: str) -> Tensor:
    if kind == "outcome":
        return functional.binary_cross_entropy_with_logits(logits, wanted, reduction="none").mean(dim=1)
    return (logits.sigmoid() - wanted).square().mean(dim=1)


@torch.no_grad()
def solve_linear_gates(model: QuEEForImageClassification, examples: GateExamples) -> None:
    """Give LRA-EE's gates the weights of least logistic loss, in place.

    A linear gate has one best answer. Its three features differ in size by orders of magnitude, and two say
    nearly the same: descent at one rate for all weights takes very long to find it.
    """
    gates, nodes = model.gates, model.router.tree.exact_nodes
    assert isinstance(gates, LRAGates)
    for gate in gates.numbers:
        features = gates.describe(examples.summaries[:, nodes[:gate]]).double().cpu().numpy()
        right = 1 - examples.targets[:, nodes[gate - 1]].double().cpu().numpy()
        weight, bias = logistic_regression(features, right)
        gates.set_layer(gate, torch.from_numpy(weight), bias)


@torch.no_grad()
def fit_thresholds(model: QuEEForImageClassification, examples: GateExamples) -> None:
    """Choose the thresholds of LRA-EE's gates for each of `DEFAULT_LAMBDAS`, in place."""
    gates, nodes = model.gates, model.router.tree.exact_nodes
    assert isinstance(gates, LRAGates)
    if len(nodes) < 2:
        return
    scores, is_right = gate_scores(model, examples.summaries), examples.targets[:, nodes] < _RIGHT
    costs = model.router.costs[nodes]
    found = [search_thresholds(scores, is_right, costs, value) for value in DEFAULT_LAMBDAS]
    gates.set_thresholds(torch.tensor(DEFAULT_LAMBDAS), torch.stack(found))


@torch.no_grad()
def gate_scores(model: QuEEForImageClassification, summaries: Tensor) -> Tensor:
    """Return how sure LRA-EE's gates are that the exits where they stand are right, `(images, exits - 1)`.

    Args:
        model: With LRA-EE's gates.
        summaries: `(images, paths, summary)`, as `model.summarize` gives them.
    """
    seen = summaries.to(model.device)
    doubts = [score_paths(model.gates, model.router, gate, seen).error_logits for gate in model.gates.numbers]
    return 1 - torch.cat(doubts, dim=1).sigmoid().cpu()


class GateTrainer(QuEETrainer):
    """Train the gates on the outputs of all paths; heads and backbone do not change.

    A `transformers.Trainer`: arguments, callbacks, checkpoints, resuming and pushing work as there. If the
    arguments keep the best model, training stops early. The network runs over each data set once, before
    training.

    Args:
        model: Quantized, with trained heads.
        args: `recommended_arguments("gates", **gate_arguments(model.config.gate_type))` if not given.
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
        given = args or recommended_arguments("gates", **gate_arguments(model.config.gate_type))
        args = fitting_arguments(given)
        self.targets = targets or ErrorTargets.outcomes()
        self._roles = training_roles("gates", train_dataset, eval_dataset)
        examples = {"train_dataset": train_dataset, "eval_dataset": eval_dataset}
        for role, data in examples.items():
            if data is None:
                continue
            outputs = (
                data
                if isinstance(data, PathOutputs)
                else collect_path_outputs(model, data, device=model.device)
            )
            kwargs[role] = GateExamples(model.summarize(outputs.readings()), self.targets(outputs))
        kwargs["callbacks"] = with_early_stopping(kwargs.get("callbacks"), args, early_stopping_patience)
        kwargs.setdefault("data_collator", collate)
        super().__init__(model, args, **kwargs)
        # Gates are scored by their loss; what they predict for every path would only fill memory.
        self.args.prediction_loss_only = True

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """Train the gates, and say so in the model's config."""
        model = self.accelerator.unwrap_model(self.model)
        if isinstance(model.gates, LRAGates) and "gates" not in model.config.trained_parts:
            solve_linear_gates(model, cast(GateExamples, self.train_dataset))
        with marked_as_trained(self.model, "gates", lambda: self.state.global_step > 0, self._roles):
            result = super().train(*args, **kwargs)
            if isinstance(model.gates, LRAGates):
                fit_thresholds(model, cast(GateExamples, self.train_dataset))
            return result

    def image_losses(
        self, model: QuEEForImageClassification, inputs: dict[str, Tensor]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the gates' losses on a batch of `GateExamples`."""
        return gate_losses(model, inputs["summaries"], inputs["labels"], self.targets.kind), {}
