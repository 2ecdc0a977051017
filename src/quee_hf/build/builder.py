"""`build`: run a recipe's stages, those that are not there yet."""

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from quee_hf.build.files import write_text
from quee_hf.build.ingredients import Ingredients, check_paths, choose_device, load_ingredients
from quee_hf.build.recipe import Recipe
from quee_hf.build.roles import list_rows
from quee_hf.build.run_directory import RunDirectory
from quee_hf.build.source import open_source
from quee_hf.build.stages import STAGES, Stage, run_stage
from quee_hf.diagnostics.versions import library_versions

_REPORT = "report.json"


@dataclass(frozen=True)
class StageResult:
    """How a stage went.

    Args:
        name: Of the stage.
        is_reused: Whether it was there already.
        reason: Why it ran; empty if it was reused.
        seconds: How long it took, now or when it was made.
    """

    name: str
    is_reused: bool
    reason: str
    seconds: float


@dataclass(frozen=True)
class BuildResult:
    """What a build made.

    Args:
        model: Directory of the model and its image processor.
        report: What is in `report.json`.
        stages: In order.
    """

    model: Path
    report: dict[str, Any]
    stages: tuple[StageResult, ...]


def build(
    recipe: Recipe, output: str | os.PathLike[str], *, say: Callable[[str], None] = lambda _: None
) -> BuildResult:
    """Build a model, continuing where an earlier build in the same directory stopped.

    A stage that is there and whose inputs are the same is reused. When it runs again, it replaces the old one
    once it is complete. The same recipe and data give the same files, byte for byte, on the same machine.

    Args:
        recipe: What to build.
        output: The run directory.
        say: Shows one line of progress to the user.

    Raises:
        QuEEError: If the model or the data cannot be used, or another build is at work in the directory.
        ValueError: If the recipe does not fit them.
    """
    directory = RunDirectory(output)
    check_paths(recipe)
    source, device = open_source(recipe), choose_device(recipe.device)
    with directory.locked():
        ingredients = load_ingredients(recipe, source, device, say)
        text = yaml.safe_dump(recipe.as_dict(), sort_keys=False, allow_unicode=True)
        write_text(directory.root / "recipe.yaml", text)
        write_text(directory.root / "roles.json", json.dumps(_rows(ingredients)) + "\n")
        results = [
            _bring_up_to_date(stage, inputs, directory, ingredients)
            for stage, inputs in zip(STAGES, _stage_inputs(ingredients), strict=True)
        ]
        return _publish(directory, tuple(results))


def _rows(ingredients: Ingredients) -> dict[str, Any]:
    recipe = ingredients.recipe
    return {
        recipe.train: list_rows(ingredients.train_parts),
        recipe.validation: list_rows(ingredients.validation_parts),
    }


def stage_hashes(ingredients: Ingredients) -> list[str]:
    """Return the hash of each stage's inputs: a stage whose hash is the same is reused."""
    return [_hash(inputs) for inputs in _stage_inputs(ingredients)]


def _stage_inputs(ingredients: Ingredients) -> Iterator[dict[str, Any]]:
    upstream = None
    for stage in STAGES:
        inputs = stage.inputs(ingredients, upstream)
        upstream = _hash(inputs)
        yield inputs


def _bring_up_to_date(
    stage: Stage, inputs: dict[str, Any], directory: RunDirectory, ingredients: Ingredients
) -> StageResult:
    done = directory.read_done(stage.name)
    reason = _reason(directory, stage, done, inputs)
    if done is not None and not reason:
        ingredients.say(f"{stage.name}: reused, it took {done['seconds']:.1f} s when it was made")
        return StageResult(stage.name, is_reused=True, reason="", seconds=done["seconds"])
    ingredients.say(f"{stage.name}: {stage.title} ({reason})")
    start = time.perf_counter()
    with directory.building(stage.name) as folder:
        run_stage(stage, ingredients, directory.stage, folder)
        seconds = round(time.perf_counter() - start, 3)
        directory.write_done(
            folder,
            {
                "stage": stage.name,
                "hash": _hash(inputs),
                "inputs": inputs,
                "versions": library_versions(),
                "seed": ingredients.recipe.seed,
                "seconds": seconds,
            },
        )
    ingredients.say(f"{stage.name}: done in {seconds:.1f} s")
    return StageResult(stage.name, is_reused=False, reason=reason, seconds=seconds)


def _reason(
    directory: RunDirectory, stage: Stage, done: dict[str, Any] | None, inputs: dict[str, Any]
) -> str:
    """Say why a stage must run; nothing if it need not."""
    if done is None:
        return "its files are damaged" if directory.stage(stage.name).exists() else "new"
    made_by = done["versions"]["quee_hf"]
    if made_by != library_versions()["quee_hf"]:
        return f"version {made_by} of quee_hf made it"
    if done["hash"] == _hash(inputs):
        return ""
    changes = [
        f"{name} changed{detail}"
        for part in ("recipe", "fingerprints")
        for name, detail in _changes(done["inputs"].get(part, {}), inputs[part], is_shown=part == "recipe")
    ]
    if not changes and done["inputs"].get("upstream") != inputs["upstream"]:
        changes = ["the stage before it changed"]
    return ", ".join(changes) or "its code changed"


def _changes(old: dict[str, Any], new: dict[str, Any], *, is_shown: bool) -> Iterator[tuple[str, str]]:
    for name, value in new.items():
        if old.get(name) != value:
            yield name, f" from {old.get(name)} to {value}" if is_shown else ""


def _publish(directory: RunDirectory, results: tuple[StageResult, ...]) -> BuildResult:
    last = STAGES[-1].name
    done = directory.read_done(last)
    if done is None:
        raise OSError(f"{directory.stage(last)} was changed while the build was at work.")
    directory.publish(last, {name: digest for name, digest in done["files"].items() if name != _REPORT})
    text = (directory.stage(last) / _REPORT).read_text(encoding="utf-8")
    write_text(directory.root / _REPORT, text)
    return BuildResult(directory.root / "model", json.loads(text), results)


def _hash(inputs: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()
