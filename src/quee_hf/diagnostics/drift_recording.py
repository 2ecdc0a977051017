"""`record_drift_reference`: what a `DriftMonitor` compares images with."""

from typing import Any

from torch.utils.data import Dataset

from quee_hf.execution.drift_reference import make_drift_reference, reference_outputs
from quee_hf.execution.path_outputs import PathOutputs
from quee_hf.measurements import DriftReference
from quee_hf.modeling import QuEEForImageClassification


def record_drift_reference(
    model: QuEEForImageClassification, images: Dataset[Any] | PathOutputs, *, batch_size: int = 64
) -> DriftReference:
    """Keep in a model's config what routing makes of validation images, whose labels do not matter.

    `model.fit_operating_points` does so, too: this is for models that have none, or that were made before.

    Args:
        model: With trained gates; on any engine.
        images: Two or more, used for nothing else, or their collected outputs.
        batch_size: Images per batch.

    Raises:
        ValueError: If there are fewer than two images, or one has no answer.
        NotReadyError: If the gates are not trained.
    """
    model.check_gates_are_trained()
    outputs = reference_outputs(model.network, images, batch_size, model.device)
    found = make_drift_reference(model, outputs, model.config.cost_model)
    model.config.keep_record("drift_reference", dict(found))
    return found
