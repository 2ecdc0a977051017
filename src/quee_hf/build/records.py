"""What a model's config keeps of what was measured."""

from collections.abc import Mapping, Sequence
from typing import Any

from quee_hf.configuration import QuEEConfig
from quee_hf.data import shown_source
from quee_hf.diagnostics.versions import library_versions


def record_measurements(config: QuEEConfig, source: str, measured: Mapping[str, Any]) -> None:
    """Keep in a config what was measured on images, and with which versions.

    Args:
        config: Of the model; changed. What was measured before is dropped.
        source: Of the images.
        measured: Fit for JSON.
    """
    found = {**measured, "data": shown_source(source), "versions": library_versions()}
    config.keep_record("measured", found)


def record_test(
    config: QuEEConfig, source: str, num_images: int, points: Sequence[Mapping[str, Any]]
) -> None:
    """Keep in a config what was measured on test images.

    Args:
        config: Of the model; changed.
        source: Of the images.
        num_images: How many there are.
        points: As `describe_routing` returns them.
    """
    fields = ("cost_lambda", "cost", "accuracy", "accuracy_interval")
    kept = [{name: point[name] for name in fields} for point in points]
    measured = (config.record or {}).get("measured", {})
    test = {"data": shown_source(source), "num_images": num_images, "points": kept}
    config.keep_record("measured", {**measured, "test": test})
