"""`QuEEImageClassifierOutput`: what a forward returns."""

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, fields
from functools import cache
from typing import Any, Self

from torch import Tensor
from transformers.utils import ModelOutput


@dataclass
class QuEEImageClassifierOutput(ModelOutput):
    """What a forward returns. All tensors but the loss have the batch first.

    Args:
        loss: Scalar, if labels were given: cross entropy of `logits`; in training mode the scaled exit loss.
        logits: `(batch, labels)`, float32, at the exit where each image left; NaN of an image that
            holds NaN or infinity.
        exit_index: `(batch,)`, int64, counted from 0; block `config.exit_blocks[exit_index]`.
        path: `(batch, exits)`, int16: index into `config.levels` per segment, -1 for segments not run.
        cost: `(batch,)`, float32, relative to the dearest path, by the config's cost model.
        error_probability: `(batch,)`, float32: predicted probability that the class is wrong; NaN where no
            gate was asked.
        cost_lambda: `(batch,)`, float32: at which each image was routed; NaN where a path was forced.
        all_logits: `(batch, paths, labels)` of every path, in the order of `model.paths`, if asked for.
    """

    loss: Tensor | None = None
    logits: Tensor | None = None
    exit_index: Tensor | None = None
    path: Tensor | None = None
    cost: Tensor | None = None
    error_probability: Tensor | None = None
    cost_lambda: Tensor | None = None
    all_logits: Tensor | None = None

    # A stream makes one of these for each image. What `ModelOutput` does when it is made, which allows for
    # fields of any kind, takes longer than the gates of that image.
    def __post_init__(self) -> None:
        """Do nothing: fields that are set are items already."""

    def __setattr__(self, name: str, value: Any) -> None:
        """Set an attribute, which is an item, too, if it is a field and not `None`."""
        if value is not None and name in _names(type(self)):
            OrderedDict.__setitem__(self, name, value)
        object.__setattr__(self, name, value)

    def split(self) -> Iterator[Self]:
        """Return the output of each image, a batch of one, on the CPU, with memory of its batch alone."""
        names = [name for name in self if name != "loss"]
        # Copied once, outside of what may be inference mode, whose tensors could not be changed in place.
        parts = [self.__dict__[name].cpu().clone().split(1) for name in names]
        for part in zip(*parts, strict=True):
            yield type(self)(**dict(zip(names, part, strict=True)))


@cache
def _names(kind: type) -> frozenset[str]:
    return frozenset(field.name for field in fields(kind))
