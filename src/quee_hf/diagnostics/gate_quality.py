"""How well gates predict errors, on images they were not trained on."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from quee_hf.diagnostics.calibration import (
    area_under_risk_coverage,
    error_auroc,
    expected_calibration_error,
)
from quee_hf.diagnostics.report import rounded
from quee_hf.execution.path_outputs import PathOutputs
from quee_hf.execution.scoring import PathScores, score_paths
from quee_hf.exits.reading import ExitReading
from quee_hf.modeling import QuEEForImageClassification

_IMAGES_PER_CHUNK = 512  # a gate's hidden layer is (images, paths, hidden)


def describe_gates(
    model: QuEEForImageClassification, outputs: PathOutputs, targets: Tensor | None = None
) -> list[dict[str, Any]]:
    """Compare every gate's predictions with what happened; the model must be on the CPU.

    Per gate:

    - `rmse`: root mean squared difference to the targets, over all paths that the gate scores and all images;
      `rmse_of_constant`: the same if each path's mean target were predicted for every image. A gate that is
      not below it has learnt nothing of single images.
    - `auroc` and `ece`: of the predicted error of leaving at once, on the most exact path; `auroc` is how
      often a wrong image is ranked above a right one (None if all are right or all wrong), `ece` the expected
      calibration error, `aurc` the area under risk over coverage. `auroc_of_max_probability` and
      `aurc_of_max_probability`: the same by the exit's own confidence, for comparison.

    Args:
        model: With trained gates.
        outputs: Of images used for nothing else.
        targets: `(images, paths)`, what the gates were taught; each image's own outcome if not given.

    Returns:
        One entry per gate. The gate before the first segment, if there is one, has `exit_block` 0 and only
        the first two numbers: it knows nothing of the image.
    """
    targets = outputs.is_wrong.float() if targets is None else targets
    return [_describe_gate(model, outputs, targets, gate) for gate in model.gates.numbers]


@torch.inference_mode()
def predicted_errors(
    model: QuEEForImageClassification, outputs: PathOutputs, gate: int
) -> Iterator[tuple[slice, PathScores]]:
    """Yield the images of a chunk, and what a gate says of paths."""
    for start in range(0, len(outputs), _IMAGES_PER_CHUNK):
        images = slice(start, start + _IMAGES_PER_CHUNK)
        summaries = model.summarize(ExitReading(*(part[images] for part in outputs.readings())))
        yield images, score_paths(model.gates, model.router, gate, summaries)


def _describe_gate(
    model: QuEEForImageClassification, outputs: PathOutputs, targets: Tensor, gate: int
) -> dict[str, Any]:
    squares, constant_squares = torch.zeros(2, dtype=torch.float64)
    leaving, count = [], 0
    for images, (nodes, logits) in predicted_errors(model, outputs, gate):
        predicted, wanted = logits.sigmoid(), targets[images][:, nodes].double()
        squares = squares + (predicted.double() - wanted).square().sum()
        means = targets[:, nodes].double().mean(dim=0)
        constant_squares = constant_squares + (means - wanted).square().sum()
        leaving.append(predicted[:, 0])
        count += wanted.numel()
    described: dict[str, Any] = {
        "exit_block": model.config.exit_blocks[gate - 1] if gate else 0,
        "rmse": rounded((squares / count).sqrt()),
        "rmse_of_constant": rounded((constant_squares / count).sqrt()),
    }
    return described | (_describe_leaving(model, outputs, gate, torch.cat(leaving)) if gate else {})


def _describe_leaving(
    model: QuEEForImageClassification, outputs: PathOutputs, gate: int, predicted: Tensor
) -> dict[str, Any]:
    # The first path that a gate scores is the most exact one, left at once.
    node = model.router.tree.exact_nodes[gate - 1]
    is_wrong = outputs.is_wrong[:, node].numpy()
    doubt = (1 - outputs.logits[:, node].softmax(dim=-1).amax(dim=-1)).clamp(0, 1).numpy()
    auroc, auroc_of_max = error_auroc(predicted.numpy(), is_wrong), error_auroc(doubt, is_wrong)
    return {
        "auroc": None if auroc is None else rounded(auroc),
        "auroc_of_max_probability": None if auroc_of_max is None else rounded(auroc_of_max),
        "ece": rounded(expected_calibration_error(predicted.numpy(), is_wrong)),
        "aurc": rounded(area_under_risk_coverage(predicted.numpy(), is_wrong)),
        "aurc_of_max_probability": rounded(area_under_risk_coverage(doubt, is_wrong)),
    }
