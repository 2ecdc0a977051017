"""Measure the operating points of a model anew, at the costs that it has now."""

from collections.abc import Callable
from typing import Any, Protocol

from quee_hf.build.ingredients import read_matching
from quee_hf.build.records import record_measurements
from quee_hf.data import LabelledImages
from quee_hf.data.roles import OPERATING_POINTS, check_unused, describe_roles, record_roles
from quee_hf.diagnostics.gate_quality import describe_gates
from quee_hf.diagnostics.report import describe_exits, describe_uniform
from quee_hf.diagnostics.static_paths import collect_all_outputs
from quee_hf.errors import NotReadyError
from quee_hf.modeling import QuEEForImageClassification

_MAX_ACCURACY_DROP = 0.01
_BATCH_SIZE = 64


class MeasuringPlan(Protocol):
    """Which images to measure on."""

    @property
    def data(self) -> str:
        """Their source."""

    @property
    def limit(self) -> int | None:
        """How many to use, evenly spread; `None` for all."""

    @property
    def match_labels(self) -> str:
        """How their classes are matched with the model's: "names" or "numbers"."""

    @property
    def skip_bad(self) -> bool:
        """Whether to leave out images that cannot be read."""


def read_measuring_images(
    model: QuEEForImageClassification, plan: MeasuringPlan, say: Callable[[str], None]
) -> LabelledImages:
    """Load images that the model was not made with; those that measured operating points before will do.

    Raises:
        NotReadyError: If the model's gates are not trained.
        BadDatasetError: If the images cannot be used.
    """
    if "gates" not in model.config.trained_parts:
        raise NotReadyError(
            "The gates are not trained: there are no operating points to measure. Leave out the images."
        )
    images = read_matching(plan.data, model, plan, say).spread(plan.limit)
    model.config.forget_roles([OPERATING_POINTS])
    check_unused(model.config, images, plan.data)
    return images


def refit_operating_points(
    model: QuEEForImageClassification, image_processor: Any, images: LabelledImages, source: str
) -> list[dict[str, Any]]:
    """Measure operating points, exits and gates, and keep them in the model's config.

    Args:
        model: On any device; afterwards on the CPU.
        image_processor: Makes its input.
        images: As `read_measuring_images` returns them.
        source: Of the images.
    """
    config = model.config
    drop = ((config.record or {}).get("measured") or {}).get("max_accuracy_drop", _MAX_ACCURACY_DROP)
    outputs = collect_all_outputs(model, images.with_processor(image_processor), batch_size=_BATCH_SIZE)
    model.cpu()
    points = model.fit_operating_points(outputs.routable, max_accuracy_drop=drop)
    record_roles(config, describe_roles(source, {OPERATING_POINTS: images}))
    found = {
        "exits": describe_exits(model, outputs.routable),
        "uniform_paths": describe_uniform(model, outputs.uniform),
        "gates": describe_gates(model, outputs.routable),
        "max_accuracy_drop": drop,
    }
    record_measurements(config, source, found)
    return points
