"""What was measured of a model, as its config keeps it: costs, operating points, a profile. No torch."""

import math
import sys
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, Protocol, TypedDict

from quee_hf.promises import check_certificates
from quee_hf.values import is_from_0_to, is_number, is_whole

# What a config may keep of how its model came about.
RECORDS = ("base_model", "license", "roles", "measured", "profile", "drift_reference")
_HIGHEST = {
    "cost_lambda": math.inf,
    "cost": math.inf,
    "accuracy": 1.0,
    "latency_ms": math.inf,
    "num_images": math.inf,
}
LEAST_IMAGES, MOST_IMAGES = 2, 10**9  # of a drift reference
_MOST_DIGITS = len(str(MOST_IMAGES))
_WHOLE = f"from {LEAST_IMAGES} to {MOST_IMAGES}, whole"
_EDGES = "of 'error' and 'confidence', each from 0 to 1, ascending"
_KINDS = {"base_model": str, "license": str, "roles": list, "measured": dict}
_OF_ROLES, _OF_MACHINES = ("role", "source"), {"processor", "instruction_sets"}
Spread = list[float]  # median, lower and upper quartile over rounds, in ms per image


class Machine(TypedDict):
    """Where times were measured."""

    processor: str
    instruction_sets: list[str]  # those that decide how fast low precisions are


class Profile(TypedDict):
    """How long each part of a model takes, as `quee_hf.profile` measures it; by batch size last."""

    engine: str
    threads: int
    machine: Machine
    versions: dict[str, str]
    date: str
    num_rounds: list[int]  # at each batch size
    batch_sizes: list[int]
    batch_size: int  # of these, the one of the config's cost table
    embedding: list[Spread]
    segments: list[list[list[Spread]]]  # of each segment, at each level
    exits: list[list[Spread]]  # head and gate of each exit
    decisions: list[list[Spread]]  # after each exit but the last


class DriftReference(TypedDict):
    """What routing makes of validation images, as `quee_hf.DriftMonitor` compares others with it."""

    num_images: int
    cost_lambdas: list[float]  # ascending
    cost_model: str
    edges: dict[str, list[float]]  # between the bins of what is no exit
    # Of "exit", "error" and "confidence", at each lambda, how many images are in each bin, joined by spaces.
    counts: dict[str, list[str]]
    differing: list[int]  # images that get another class than by the whole network, at each lambda


def check_drift_reference(reference: Any, num_exits: int, cost_model: str) -> None:
    """Raise `ValueError` unless a reference is of a model of so many exits, at costs of this model."""
    fields = DriftReference.__annotations__
    if not isinstance(reference, Mapping) or set(reference) != set(fields):
        raise ValueError(f"`record['drift_reference']` must have the fields {list(fields)}.")
    number, lambdas, edges = (reference[name] for name in ("num_images", "cost_lambdas", "edges"))
    _check_part("num_images", number, is_whole(number, LEAST_IMAGES, MOST_IMAGES), _WHOLE)
    _check_part(
        "cost_lambdas", lambdas, _do_ascend(lambdas, sys.float_info.max), "finite, at least 0, ascending"
    )
    _check_part(
        "cost_model", reference["cost_model"], reference["cost_model"] == cost_model, f"{cost_model!r}"
    )
    binned = ("error", "confidence")
    is_known = isinstance(edges, Mapping) and set(edges) == set(binned)
    _check_part("edges", edges, is_known and all(_do_ascend(edges[name], 1.0) for name in binned), _EDGES)
    rows, bins = len(lambdas), {"exit": num_exits, **{name: len(edges[name]) + 1 for name in binned}}
    counts = reference["counts"]
    for name, size in bins.items():
        found: Any = counts.get(name) if isinstance(counts, Mapping) and set(counts) == set(bins) else counts
        is_right = _has_length(found, rows) and all(_are_counts(row, size, number) for row in found)
        allowed = f"of {name!r} in {rows} rows, each {size} counts whose sum is {number}"
        _check_part("counts", found, is_right, allowed)
    differing = reference["differing"]
    is_right = _has_length(differing, rows) and all(is_whole(each, 0, number) for each in differing)
    _check_part("differing", differing, is_right, f"as {rows} whole numbers from 0 to {number}")


def _check_part(name: str, value: object, is_right: bool, allowed: str) -> None:
    if not is_right:
        raise ValueError(f"`record['drift_reference']` must have {name!r} {allowed}, got {value!r:.200}.")


def _has_length(values: object, length: int) -> bool:
    return isinstance(values, list | tuple) and len(values) == length


def _do_ascend(values: Any, highest: float) -> bool:
    """Tell whether values are a list of numbers from 0 to `highest`, ascending, and not empty."""
    is_list = isinstance(values, list | tuple) and len(values) > 0
    are_known = is_list and all(is_from_0_to(value, highest) for value in values)
    return are_known and all(low < high for low, high in pairwise(values))


def _are_counts(row: object, size: int, total: int) -> bool:
    """Tell whether a text holds so many whole numbers with this sum."""
    words = row.split() if isinstance(row, str) and row.isascii() else []
    are_known = len(words) == size and all(word.isdigit() and len(word) <= _MOST_DIGITS for word in words)
    return are_known and sum(map(int, words)) == total


def path_milliseconds(profile: Profile, path: Sequence[int], batch_size: int) -> float:
    """Return the median time of an image along a path: embedding, segments, exits and decisions.

    Args:
        profile: Of a model.
        path: Level indices, one for each segment that is run.
        batch_size: One of the profile's.
    """
    position = profile["batch_sizes"].index(batch_size)
    parts = [profile["embedding"], *profile["exits"][: len(path)], *profile["decisions"][: len(path)]]
    parts += [levels[level] for levels, level in zip(profile["segments"], path, strict=False)]
    return sum(part[position][0] for part in parts)


def check_cost_table(table: Sequence[Sequence[float]], rows: int, columns: int) -> None:
    """Raise `ValueError` unless a table has positive costs of `rows` segments at `columns` levels."""
    if len(table) != rows or any(len(row) != columns for row in table):
        raise ValueError(f"`cost_table` must have {rows} rows (segments) of {columns} columns (levels).")
    if not all(is_number(cost) and cost > 0 for row in table for cost in row):
        raise ValueError("`cost_table` must hold positive, finite costs.")


class Measured(Protocol):
    """What holds what was measured of a model: its config."""

    record: dict[str, Any] | None
    operating_points: list[dict[str, Any]] | None
    certificates: list[dict[str, Any]] | None
    cost_model: str


def check_measurements(measured: Measured, rows: int, columns: int) -> None:
    """Raise `ValueError` unless all of it is what it must be, for so many segments and levels."""
    check_record(measured.record, rows, columns, measured.cost_model)
    check_points(measured.operating_points, measured.cost_model)
    check_certificates(measured.certificates)


def check_points(points: Sequence[Mapping[str, Any]] | None, cost_model: str) -> None:
    """Raise `ValueError` unless operating points say what they must, at costs of this model."""
    for point in points or ():
        if not {"cost_lambda", "cost", "accuracy"} <= set(point):
            raise ValueError(
                f"`operating_points` must have 'cost_lambda', 'cost' and 'accuracy', got {point}."
            )
        found = {name: point[name] for name in _HIGHEST if name in point}
        if wrong := [name for name, value in found.items() if not is_from_0_to(value, _HIGHEST[name])]:
            raise ValueError(
                f"`operating_points` must have {wrong} from 0 to {_HIGHEST[wrong[0]]:g}, got {found}."
            )
        if (measured := point.get("cost_model", cost_model)) != cost_model:
            raise ValueError(
                f"`operating_points` were measured at costs in {measured!r}, but `cost_model` is"
                f" {cost_model!r}: change it by `model.set_cost_model({cost_model!r})`, which"
                " forgets them, and measure anew with `model.fit_operating_points(validation)`."
            )


def check_record(record: Mapping[str, Any] | None, rows: int, columns: int, cost_model: str) -> None:
    """Raise `ValueError` unless a record holds what it may, and fits segments, levels and costs."""
    if unknown := set(record or ()) - set(RECORDS):
        raise ValueError(f"`record` may hold {list(RECORDS)}, got {sorted(unknown)}.")
    for name, kind in _KINDS.items():
        if (value := (record or {}).get(name)) is not None and not isinstance(value, kind):
            raise ValueError(f"`record[{name!r}]` must be a {kind.__name__}, got {value!r}.")
    for role in (record or {}).get("roles") or ():
        if not isinstance(role, Mapping) or not all(isinstance(role.get(name), str) for name in _OF_ROLES):
            raise ValueError(f"`record['roles']` must have {list(_OF_ROLES)} in words, got {role!r}.")
    profile = (record or {}).get("profile")
    if profile is not None:
        check_profile(profile, rows, columns)
    reference = (record or {}).get("drift_reference")
    if reference is not None:
        check_drift_reference(reference, rows, cost_model)


def check_profile(profile: Any, rows: int, columns: int) -> None:
    """Raise `ValueError` unless a profile is of a model of so many segments (rows) and levels (columns)."""
    fields = Profile.__annotations__
    if not isinstance(profile, Mapping) or set(profile) != set(fields):
        raise ValueError(f"`record['profile']` must have the fields {list(fields)}.")
    if not isinstance(profile["machine"], Mapping) or not set(profile["machine"]) >= _OF_MACHINES:
        raise ValueError(f"`record['profile']` must name its 'machine', got {profile['machine']}.")
    sizes = list(profile["batch_sizes"])
    if not sizes or profile["batch_size"] not in sizes:
        raise ValueError(
            f"`record['profile']` must have its `batch_size`, {profile['batch_size']}, among {sizes}."
        )
    shapes = {
        "embedding": (len(sizes), 3),
        "segments": (rows, columns, len(sizes), 3),
        "exits": (rows, len(sizes), 3),
        "decisions": (rows - 1, len(sizes), 3),
    }
    for name, shape in shapes.items():
        if not _has_shape(profile[name], shape):
            raise ValueError(f"`record['profile']` must have {name!r} of shape {shape}, all positive.")


def _has_shape(values: Any, shape: tuple[int, ...]) -> bool:
    """Tell whether nested lists of positive numbers have a shape."""
    if not shape:
        return is_number(values) and values > 0
    is_list = isinstance(values, list | tuple) and len(values) == shape[0]
    return is_list and all(_has_shape(value, shape[1:]) for value in values)
