"""Classify an image for the demo, and tell what there is to tell of its way."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from quee_hf.blueprint import segment_costs
from quee_hf.configuration import QuEEConfig
from quee_hf.demo.settings import Setting
from quee_hf.execution.answers import ForcedPath
from quee_hf.execution.trace import Visit, trace_image
from quee_hf.measurements import path_milliseconds
from quee_hf.modeling import QuEEForImageClassification
from quee_hf.paths import Path
from quee_hf.routing.costs import path_cost


@dataclass(frozen=True)
class Classifier:
    """A model, and what makes its input. It holds nothing of an image, and several threads may use it."""

    model: QuEEForImageClassification
    image_processor: Any

    @property
    def config(self) -> QuEEConfig:
        """The model's."""
        return self.model.config

    def pixel_values(self, images: Sequence[Image.Image]) -> Tensor:
        """Map RGB images to the model's input, `(batch, channels, height, width)`."""
        pixels: Tensor = self.image_processor(images=list(images), return_tensors="pt")["pixel_values"]
        return pixels.to(self.model.device)


@dataclass(frozen=True)
class ExitReport:
    """What an exit said of an image that reached it.

    Args:
        block: After which it is.
        label: The likeliest class there.
        score: Its probability, by the exit itself.
        leave_error: Predicted probability that this class is wrong; `None` where no gate was asked.
        aim_error: The same of the class at the end of the path that the gate then aimed for.
    """

    block: int
    label: str
    score: float
    leave_error: float | None
    aim_error: float | None


@dataclass(frozen=True)
class Spending:
    """What a path takes.

    Args:
        cost: Relative to the dearest path, by the config's cost model.
        bitops: FLOPs x bits of its blocks.
        share: Of the bitops of the whole network at its dearest levels.
        latency_ms: Of one image, by the model's profile; `None` if it has none.
    """

    cost: float
    bitops: float
    share: float
    latency_ms: float | None


@dataclass(frozen=True)
class Answer:
    """What became of an image.

    Args:
        scores: The likeliest classes and their probabilities, descending.
        path: Index of the level of each segment that was run.
        exits: Those that are known of; the last is where the image left, on a forced path the only one.
        error: Predicted probability that the class is wrong; `None` where no gate was asked.
        spending: On the way.
        cost_lambda: By which it was routed; `None` if it was not.
    """

    scores: dict[str, float]
    path: Path
    exits: tuple[ExitReport, ...]
    error: float | None
    spending: Spending
    cost_lambda: float | None


@torch.inference_mode()
def classify(classifier: Classifier, image: Image.Image, setting: Setting, top_k: int = 5) -> Answer:
    """Classify an RGB image.

    Raises:
        ValueError: If the setting is not possible.
        NotReadyError: If the model lacks what the setting needs.
    """
    model, pixel_values = classifier.model, classifier.pixel_values([image])
    arguments = setting.arguments(model)
    route = model.plan_route(**arguments)
    if isinstance(route, ForcedPath):
        logits = model.network.run_path(pixel_values, route.levels)
        path, error, visits = route.levels, math.nan, [Visit(logits[0])]
    else:
        routes, visits = trace_image(model.network, pixel_values, route)
        path, error = model.router.tree.paths[int(routes.node)], float(routes.error)
    names = distinct_names(classifier.config.class_names)
    values, classes = visits[-1].logits.softmax(dim=-1).topk(min(top_k, len(names)))
    blocks = classifier.config.exit_blocks[len(path) - len(visits) : len(path)]
    return Answer(
        scores={names[label]: score for label, score in zip(classes.tolist(), values.tolist(), strict=True)},
        path=path,
        exits=tuple(_report(block, visit, names) for block, visit in zip(blocks, visits, strict=True)),
        error=None if math.isnan(error) else error,
        spending=spending(classifier.model, path),
        cost_lambda=None if isinstance(route, ForcedPath) else float(route),
    )


def _report(block: int, visit: Visit, names: Sequence[str]) -> ExitReport:
    score, label = visit.logits.softmax(dim=-1).max(dim=-1)
    return ExitReport(block, names[int(label)], float(score), visit.leave_error, visit.aim_error)


def spending(model: QuEEForImageClassification, path: Path) -> Spending:
    """Return what a path, of level indices, takes."""
    config = model.config
    table, profile = segment_costs(config, "bitops"), config.profile
    milliseconds = None if profile is None else path_milliseconds(profile, path, min(profile["batch_sizes"]))
    return Spending(
        cost=path_cost(path, model.cost_table),
        bitops=sum(row[level] for row, level in zip(table, path, strict=False)),
        share=path_cost(path, table),
        latency_ms=milliseconds,
    )


def distinct_names(names: Sequence[str]) -> list[str]:
    """Add their numbers to names that several classes have.

    Example:
        >>> distinct_names(["crane", "owl", "crane"])
        ['crane (0)', 'owl', 'crane (2)']
    """
    counts = Counter(names)
    return [f"{name} ({number})" if counts[name] > 1 else name for number, name in enumerate(names)]
