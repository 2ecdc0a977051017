"""`QuEEImageClassifierOutput`: what a forward returns."""

from dataclasses import dataclass

from torch import Tensor
from transformers.utils import ModelOutput


@dataclass
class QuEEImageClassifierOutput(ModelOutput):
    """What a forward returns. All tensors but the loss have the batch first.

    Args:
        loss: Scalar, if labels were given: cross entropy of `logits`; in training mode the scaled exit loss.
        logits: `(batch, labels)`, float32, at the exit where each image left.
        exit_index: `(batch,)`, int64, counted from 0; block `config.exit_blocks[exit_index]`.
        path: `(batch, exits)`, int16: index into `config.levels` per segment, -1 for segments not run.
        cost: `(batch,)`, float32, relative to the dearest path, by the config's cost model.
        error_probability: `(batch,)`, float32: predicted probability that the class is wrong; NaN where no
            gate was asked.
        all_logits: `(batch, paths, labels)` of every path, in the order of `model.paths`, if asked for.
    """

    loss: Tensor | None = None
    logits: Tensor | None = None
    exit_index: Tensor | None = None
    path: Tensor | None = None
    cost: Tensor | None = None
    error_probability: Tensor | None = None
    all_logits: Tensor | None = None
