"""The model card: what a model is, what was measured of it and how to use it, from its config alone."""

import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from quee_hf.configuration import QuEEConfig
from quee_hf.hub.sections import SECTIONS, shown_points, title_of

CARD_FILE = "README.md"
PICTURE_FILE = "operating_points.png"
# A card without this line is somebody's own, which is never overwritten, unless another tool wrote it.
MARKER = "<!-- Written by quee_hf whenever the model is saved. Delete this line to keep your own text. -->"
_FRONT_MATTER = re.compile(r"\A\s*---\s*\n.*?\n---\s*(\n|\Z)", re.DOTALL)
# How the Trainer of transformers begins its comment, and what marks the template that it pushes with anything
# else: whoever fills in one of the blanks makes it their own.
_OF_TRAINER = "<!-- This model card has been generated automatically according to the information the Trainer"
_OF_TEMPLATE, _BLANK, _NUM_BLANKS = (
    "model card has been automatically generated",
    "[More Information Needed]",
    39,
)
_TASK = "image-classification"

logger = logging.getLogger(__name__)


def render_card(config: QuEEConfig, repo_id: str | None = None, *, tags: Sequence[str] = ()) -> str:
    """Return a model's card, Markdown after YAML that the Hub understands.

    Args:
        config: Of the model; all that the card says stands there.
        repo_id: `org/name` on the Hub; `None` for a model that is in a directory only.
        tags: Further tags.
    """
    sections = [section(config, repo_id) for section in SECTIONS]
    body = "\n\n".join(section for section in sections if section)
    return f"---\n{_metadata(config, repo_id, tags).to_yaml()}\n---\n\n{MARKER}\n\n{body}\n"


def write_card(
    folder: Path, config: QuEEConfig, repo_id: str | None = None, *, tags: Sequence[str] = ()
) -> None:
    """Write a model's card and, if operating points were measured, their picture; not over one's own card."""
    if has_own_card(folder):
        say_kept(str(folder))
        return
    (folder / CARD_FILE).write_text(render_card(config, repo_id, tags=tags), encoding="utf-8")
    if config.operating_points:
        _draw(config, folder / PICTURE_FILE)


def has_own_card(folder: Path) -> bool:
    """Tell whether a directory has a card that somebody wrote."""
    card = folder / CARD_FILE
    return card.is_file() and is_own_text(card.read_bytes())


def is_own_text(card: bytes) -> bool:
    """Tell whether somebody wrote a card, rather than quee_hf, transformers or the Hub's form for models."""
    text = card.decode("utf-8", errors="replace")
    body = _FRONT_MATTER.sub("", text).strip()
    is_template = _OF_TEMPLATE in body and body.count(_BLANK) >= _NUM_BLANKS
    return bool(body) and MARKER not in body and _OF_TRAINER not in body and not is_template


def say_kept(place: str) -> None:
    """Say that no card was written, because there is one that somebody wrote."""
    logger.warning("%s in %s was kept: it was not written by quee_hf.", CARD_FILE, place)


def _metadata(config: QuEEConfig, repo_id: str | None, tags: Sequence[str]) -> ModelCardData:
    record: Mapping[str, Any] = config.record or {}
    own_tags = ["quee", "early-exit", "dynamic-inference", *(["quantization"] if config.quantization else [])]
    fields: dict[str, Any] = {
        "library_name": "transformers",  # any other name, and `pipeline(model=...)` refuses to load it
        "pipeline_tag": _TASK,
        "tags": list(dict.fromkeys([*own_tags, *tags])),
        "license": record.get("license"),
    }
    if record.get("base_model"):
        relation = "quantized" if config.quantization else "finetune"
        fields |= {"base_model": record["base_model"], "base_model_relation": relation}
    if results := _eval_results(config):
        fields |= {"model_name": title_of(config, repo_id), "metrics": ["accuracy"], "eval_results": results}
    return ModelCardData(**fields)


def _eval_results(config: QuEEConfig) -> list[EvalResult]:
    """Accuracy and cost at the default operating point: on test images if there were any."""
    measured: Mapping[str, Any] = (config.record or {}).get("measured") or {}
    known = [
        (measured.get("test") or {}),
        {"points": config.operating_points or (), "data": measured.get("data", "held-out images")},
    ]
    found = [
        (point, of["data"])
        for of in known
        for point in of.get("points", ())
        if point["cost_lambda"] == config.cost_lambda
    ]
    return [
        EvalResult(
            task_type=_TASK,
            dataset_type="custom",
            dataset_name=data,
            metric_type=kind,
            metric_name=f"{title} at cost_lambda={point['cost_lambda']}",
            metric_value=round(point[kind], 4),
        )
        for point, data in found[:1]
        for kind, title in (("accuracy", "Accuracy"), ("cost", "Mean cost, relative to the whole network"))
    ]


def _draw(config: QuEEConfig, path: Path) -> None:
    from quee_hf.plots import plot_accuracy_cost  # matplotlib takes a second to import, and few saves draw

    points = shown_points(config)
    columns = [[point[field] for point in points] for field in ("cost", "accuracy", "low", "high")]
    measured = (config.record or {}).get("measured") or {}
    whole = {
        f"whole network at {entry['path'][0]} bits": (entry["cost"], entry["accuracy"])
        for entry in measured.get("uniform_paths", ())
    }
    title = f"Operating points, {points[0]['num_images']} images"
    plot_accuracy_cost({"routed": (columns[0], columns[1], (columns[2], columns[3]))}, whole, path, title)
