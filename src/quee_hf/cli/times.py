"""How verbs show times, operating points and certificates."""

from collections.abc import Mapping, Sequence
from typing import Any

from quee_hf.cli.display import path_text, show_table


def show_times(profile: Mapping[str, Any], times: Sequence[Mapping[str, Any]]) -> None:
    """Show how long simple paths take.

    Args:
        profile: Of the model.
        times: As `quee_hf.hub.times.timed_paths` returns them.
    """
    from quee_hf.hub.times import where_measured

    show_table(
        f"ms per image, {where_measured(profile)}",  # type: ignore[arg-type]  # a profile out of JSON
        ("all images on", "after block", *(f"batch {size}" for size in profile["batch_sizes"])),
        [
            (path_text(row["path"]), str(row["exit_block"]), *(f"{value:.3f}" for value in row["ms"]))
            for row in times
        ],
    )


def show_points(points: Sequence[Mapping[str, Any]]) -> None:
    """Show operating points, with their times if they have them."""
    is_timed = all("latency_ms" in point for point in points)
    show_table(
        "Operating points",
        ("lambda", "cost", *(["ms"] if is_timed else []), "accuracy"),
        [
            (
                f"{point['cost_lambda']:g}",
                f"{point['cost']:.3f}",
                *([f"{point['latency_ms']:.3f}"] if is_timed else []),
                f"{point['accuracy']:.1%}",
            )
            for point in points
        ],
    )


def show_certificates(certificates: Sequence[Mapping[str, Any]]) -> None:
    """Show what a model promises."""
    show_table(
        "Certificates",
        ("lose at most", "confidence", "lambda", "cost", "images", "engine"),
        [
            (
                f"{each['max_accuracy_drop']:.2%} ({each['promise']})",
                f"{each['confidence']:.0%}",
                f"{each['cost_lambda']:g}",
                f"{each['cost']:.3f}",
                str(each["num_images"]),
                each["engine"],
            )
            for each in certificates
        ],
    )
