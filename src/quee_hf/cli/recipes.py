"""Recipes of `quee build` in YAML: their keys are the names of its options."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import typer
import yaml

_SHIPPED = Path(__file__).parents[1] / "recipes"
_OF_THE_COMMAND = {"recipe", "output", "json", "as_json", "debug"}
_JOINED = ("exits", "levels")  # lists that the command line writes with commas
_PAIRED = {"ptq_options": "ptq_option", "keep": "keep"}  # mappings that it writes as key=value


def recipe_names() -> list[str]:
    """Return the names of the recipes that come with the package."""
    return sorted(file.stem for file in _SHIPPED.glob("*.yaml"))


def use_recipe(context: typer.Context, value: str | None) -> str | None:
    """Make a recipe's values the defaults of the command that it is given to.

    Args:
        context: Of the command.
        value: Name of a recipe that comes with the package, or a YAML file.

    Raises:
        typer.BadParameter: If there is no such recipe, or it has something that is no option.
    """
    if value is None:
        return None
    recipe = _read(value)
    known = {parameter.name for parameter in context.command.params if parameter.name}
    defaults = {name: text for key, item in recipe.items() for name, text in _as_option(key, item)}
    if fixed := sorted(set(defaults) & _OF_THE_COMMAND):
        raise typer.BadParameter(f"{value} has {', '.join(fixed)}, which belongs on the command line")
    if unknown := sorted(set(defaults) - known):
        raise typer.BadParameter(f"{value} has {', '.join(unknown)}, which no option is called")
    context.default_map = {**(context.default_map or {}), **defaults}
    return value


def _read(value: str) -> Mapping[str, Any]:
    path = Path(value)
    source = path if path.suffix in (".yaml", ".yml") else _SHIPPED / f"{value}.yaml"
    if not source.is_file():
        raise typer.BadParameter(
            f"there is no recipe {value!r}: name a YAML file, or one of {', '.join(recipe_names())}"
        )
    try:
        recipe = yaml.safe_load(source.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise typer.BadParameter(f"cannot read {value} as YAML: {error}") from error
    if not isinstance(recipe, dict) or not all(isinstance(key, str) for key in recipe):
        raise typer.BadParameter(f"{value} must hold options and their values, such as `levels: [8, 6]`")
    return recipe


def _as_option(key: str, item: Any) -> list[tuple[str, Any]]:
    """Return what an entry is on the command line; nothing if it is not set."""
    name = key.replace("-", "_")
    if item is None:
        return []
    if name in _JOINED and isinstance(item, list):
        return [(name, ",".join(map(str, item)))]
    if name == "class_names" and isinstance(item, list):
        return [(name, json.dumps(item))]
    if name in _PAIRED and isinstance(item, dict):
        pairs = [f"{part}={value}" for part, value in item.items()]
        return [(_PAIRED[name], pairs)] if pairs else []
    if any(isinstance(part, list | dict) for part in (item if isinstance(item, list) else [item])):
        raise typer.BadParameter(f"{key} must be one value or a list of values")
    return [(name, item)]
