"""Classify many files for the demo, a few at a time in memory."""

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

from quee_hf import paths
from quee_hf.demo.classification import Classifier, distinct_names
from quee_hf.demo.settings import Setting
from quee_hf.errors import BadImageError
from quee_hf.images import load_rgb
from quee_hf.outputs import QuEEImageClassifierOutput

_BATCH_SIZE = 32


@dataclass(frozen=True)
class FileAnswer:
    """What became of one of several images.

    Args:
        name: Of its file.
        label: The likeliest class.
        score: Its probability.
        path: Index of the level of each segment that was run.
        cost: Relative to the dearest path.
        error: Predicted probability that the class is wrong; `None` where no gate was asked.
    """

    name: str
    label: str
    score: float
    path: paths.Path
    cost: float
    error: float | None


@dataclass(frozen=True)
class BatchAnswer:
    """What became of several files.

    Args:
        files: Those that could be read, in their order.
        unreadable: Of each of the others a sentence that says why.
    """

    files: tuple[FileAnswer, ...]
    unreadable: tuple[str, ...]

    @property
    def mean_cost(self) -> float:
        """Of an image; not a number if there is none."""
        return sum(file.cost for file in self.files) / len(self.files) if self.files else math.nan

    def exit_shares(self, num_exits: int) -> list[float]:
        """Return the share of images that left at each exit."""
        counts = Counter(len(file.path) for file in self.files)
        return [counts[length] / max(len(self.files), 1) for length in range(1, num_exits + 1)]


@dataclass
class _Reader:
    """Reads files, and keeps count of which could be read."""

    classifier: Classifier
    files: Sequence[Path]
    names: list[str] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)

    def batches(self) -> Iterator[Tensor]:
        for start in range(0, len(self.files), _BATCH_SIZE):
            images = []
            for file in self.files[start : start + _BATCH_SIZE]:
                try:
                    images.append(load_rgb(file, name=file.name))
                except BadImageError as error:
                    self.unreadable.append(str(error))
                else:
                    self.names.append(file.name)
            if images:
                yield self.classifier.pixel_values(images)


def classify_files(classifier: Classifier, files: Sequence[Path], setting: Setting) -> BatchAnswer:
    """Classify image files.

    Raises:
        ValueError: If the setting is not possible.
        NotReadyError: If the model lacks what the setting needs.
    """
    reader = _Reader(classifier, files)
    labels = distinct_names(classifier.config.class_names)
    outputs = classifier.model.classify_stream(
        reader.batches(), **setting.arguments(classifier.model), batch_size=_BATCH_SIZE
    )
    found: list[FileAnswer] = []
    for output in outputs:
        found.append(_describe(reader.names[len(found)], output, labels))
    return BatchAnswer(tuple(found), tuple(reader.unreadable))


def _describe(name: str, output: QuEEImageClassifierOutput, labels: Sequence[str]) -> FileAnswer:
    assert output.logits is not None
    assert output.path is not None
    assert output.cost is not None
    assert output.error_probability is not None
    score, label = output.logits[0].softmax(dim=-1).max(dim=-1)
    error = float(output.error_probability)
    return FileAnswer(
        name=name,
        label=labels[int(label)],
        score=float(score),
        path=tuple(level for level in output.path[0].tolist() if level >= 0),
        cost=float(output.cost),
        error=None if math.isnan(error) else error,
    )
