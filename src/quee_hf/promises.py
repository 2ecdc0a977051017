"""Certificates, as a config keeps them. No torch."""

import re
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypedDict

from quee_hf.values import is_from_0_to, is_number, is_sha256, is_whole

PROMISES = ("accuracy", "consistency")  # that a certificate may make
METHODS = ("betting", "hoeffding_bentkus")  # by which


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
    "num_images": lambda value: is_whole(value, 1),
    "data": is_sha256,
    "image_processor": lambda value: value is None or is_sha256(value),
    "model": is_sha256,
    "engine": lambda value: isinstance(value, str),
    "cost_model": lambda value: isinstance(value, str),
    "date": lambda value: isinstance(value, str) and re.fullmatch(r"\d{4}-\d\d-\d\d", value) is not None,
}


def check_certificates(certificates: Sequence[Mapping[str, Any]] | None) -> None:
    """Raise `ValueError` unless certificates say what they must."""
    fields = Certificate.__annotations__
    for each in certificates or ():
        if not isinstance(each, Mapping) or set(each) != set(fields):
            raise ValueError(f"`certificates` must have the fields {list(fields)}, got {each}.")
        for name, value in each.items():
            if not _OF_CERTIFICATES[name](value):
                raise ValueError(f"`certificates` hold a {name!r} that makes no sense: {value!r}.")
