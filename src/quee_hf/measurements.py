"""What was measured of a model, as its config keeps it: costs, operating points, a profile. No torch."""

import math
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, TypedDict

PROMISES = ("accuracy", "consistency")  # that a certificate may make
METHODS = ("betting", "hoeffding_bentkus")  # by which
# What a config may keep of how its model came about.
RECORDS = ("base_model", "license", "roles", "measured", "profile", "drift_reference")
_HIGHEST = {
    "cost_lambda": math.inf,
    "cost": math.inf,
    "accuracy": 1.0,
    "latency_ms": math.inf,
    "num_images": math.inf,
}
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


class Circumstances(TypedDict):
    """Of what, and of which images, something is certified."""

    full_accuracy: float | None  # of the whole network, on the images; `None` where labels were not looked at
    num_images: int
    data: str  # SHA-256 that tells the images
    image_processor: str | None  # SHA-256 of how it prepared the images, if that is known
    model: str  # SHA-256 of its weights and of what else decides where images leave
    engine: str
    cost_model: str
    date: str


class Certificate(Circumstances):
    """That a lambda keeps a promise, as `quee_hf.certify` finds it."""

    promise: str  # "accuracy" or "consistency", against the whole network at its most exact level
    max_accuracy_drop: float
    confidence: float
    method: str
    cost_lambda: float
    cost: float  # mean over the images
    observed: float  # drop, on the images


def is_number(value: object) -> bool:
    """Tell whether a value is a number that a float can hold.

    Example:
        >>> [is_number(value) for value in (1, -2.5, True, "1", float("nan"), 10**400)]
        [True, True, False, False, False, False]
    """
    is_real = isinstance(value, int | float) and not isinstance(value, bool)
    return is_real and abs(value) <= sys.float_info.max  # type: ignore[arg-type]  # NaN compares false


def is_from_0_to(value: object, highest: float) -> bool:
    """Tell whether a value is a number within these bounds, infinity among them if that is the highest."""
    is_known = is_number(value) or value == math.inf
    return is_known and 0 <= value <= highest  # type: ignore[operator]


def _is_digest(value: object) -> bool:
    return isinstance(value, str) and re.fullmatch("[0-9a-f]{64}", value) is not None


def _is_part(value: object) -> bool:
    """Tell whether a value is a gain or a loss of some of a whole."""
    return is_number(value) and is_from_0_to(abs(value), 1.0)  # type: ignore[arg-type]


# What each field of a certificate may be.
_OF_CERTIFICATES: dict[str, Callable[[Any], bool]] = {
    "promise": PROMISES.__contains__,
    "max_accuracy_drop": _is_part,
    "confidence": lambda value: is_from_0_to(value, 1.0) and value not in (0, 1),
    "method": METHODS.__contains__,
    "cost_lambda": lambda value: is_from_0_to(value, sys.float_info.max),
    "cost": lambda value: is_from_0_to(value, sys.float_info.max),
    "observed": _is_part,
    "full_accuracy": lambda value: value is None or is_from_0_to(value, 1.0),
    "num_images": lambda value: isinstance(value, int) and not isinstance(value, bool) and value > 0,
    "data": _is_digest,
    "image_processor": lambda value: value is None or _is_digest(value),
    "model": _is_digest,
    "engine": lambda value: isinstance(value, str),
    "cost_model": lambda value: isinstance(value, str),
    "date": lambda value: isinstance(value, str) and re.fullmatch(r"\d{4}-\d\d-\d\d", value) is not None,
}


class DriftReference(TypedDict):
    """What routing makes of validation images, as `quee_hf.DriftMonitor` compares others with it."""

    num_images: int
    cost_lambdas: list[float]  # ascending
    cost_model: str
    edges: dict[str, list[float]]  # between the bins of what is no exit
    # Of "exit", "error" and "confidence", at each lambda, how many images are in each bin, joined by spaces.
    counts: dict[str, list[str]]
    differing: list[int]  # images that get another class than by the whole network, at each lambda


def check_drift_reference(reference: Any, num_exits: int) -> None:
    """Raise `ValueError` unless a reference is of a model of so many exits."""
    fields = DriftReference.__annotations__
    if not isinstance(reference, Mapping) or set(reference) != set(fields):
        raise ValueError(f"`record['drift_reference']` must have the fields {list(fields)}.")
    try:
        rows, edges = len(reference["cost_lambdas"]), reference["edges"]
        bins = {"exit": num_exits, **{name: len(edges[name]) + 1 for name in ("error", "confidence")}}
        found = {name: [len(row.split()) for row in reference["counts"][name]] for name in bins}
        counts = [int(count) for name in bins for row in reference["counts"][name] for count in row.split()]
        numbers = [*reference["cost_lambdas"], *edges["error"], *edges["confidence"], *reference["differing"]]
    except (TypeError, KeyError, AttributeError, ValueError) as error:
        raise ValueError(f"`record['drift_reference']` is damaged: {error!r}.") from error
    for name, count in bins.items():
        if not rows or found[name] != [count] * rows:
            raise ValueError(
                f"`record['drift_reference']` must have {rows} rows of {count} counts of {name!r}, got"
                f" {found[name]}."
            )
    if not all(map(is_number, [*counts, *numbers, reference["num_images"]])) or min(counts) < 0:
        raise ValueError("`record['drift_reference']` must hold numbers, and counts of at least 0.")


def check_certificates(certificates: Sequence[Mapping[str, Any]] | None) -> None:
    """Raise `ValueError` unless certificates say what they must."""
    fields = Certificate.__annotations__
    for each in certificates or ():
        if not isinstance(each, Mapping) or set(each) != set(fields):
            raise ValueError(f"`certificates` must have the fields {list(fields)}, got {each}.")
        for name, value in each.items():
            if not _OF_CERTIFICATES[name](value):
                raise ValueError(f"`certificates` hold a {name!r} that makes no sense: {value!r}.")


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
    check_record(measured.record, rows, columns)
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


def check_record(record: Mapping[str, Any] | None, rows: int, columns: int) -> None:
    """Raise `ValueError` unless a record holds what it may, and its profile fits segments and levels."""
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
        check_drift_reference(reference, rows)


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


def without(values: Mapping[str, Any] | None, *names: str) -> dict[str, Any]:
    """Return what a mapping holds but for some entries."""
    return {key: value for key, value in (values or {}).items() if key not in names}


def _has_shape(values: Any, shape: tuple[int, ...]) -> bool:
    """Tell whether nested lists of positive numbers have a shape."""
    if not shape:
        return is_number(values) and values > 0
    is_list = isinstance(values, list | tuple) and len(values) == shape[0]
    return is_list and all(_has_shape(value, shape[1:]) for value in values)
