"""`read_request`: what a request to an endpoint asks for, or what is wrong with it. Needs no PyTorch."""

import base64
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from PIL import Image

from quee_hf.images import load_rgb, to_rgb
from quee_hf.values import is_from_0_to

_IMAGE = ("inputs", "image")
_OPTIONS = ("cost_lambda", "target_cost", "top_k", "return_routing")
_DEFAULT_TOP_K = 5
_MAX_SHOWN = 40  # characters of what is no image
_ONE_IMAGE = "one image, in base64"


class Request(NamedTuple):
    """What is asked for."""

    image: Image.Image  # RGB
    cost_lambda: float | None
    target_cost: float | None
    top_k: int
    return_routing: bool


def read_request(data: Any) -> Request:
    """Read a request.

    Args:
        data: `{"inputs": IMAGE, "parameters": {...}}`. The image is in base64, with or without
            "data:image/...;base64,", or the bytes of a file, or an image of Pillow; it may be called "image",
            too. Parameters, which may also stand beside it, are "cost_lambda", "target_cost", "top_k" and
            "return_routing". Nothing is fetched, and no file is read.

    Raises:
        ValueError: If something is missing, unknown or has no meaning; the message says what.
        BadImageError: If the image cannot be read.
    """
    fields = _fields(data)
    given = [name for name in _IMAGE if name in fields]
    if len(given) != 1:
        raise ValueError(f"A request must have `inputs`, {_ONE_IMAGE}; got the fields {sorted(fields)}.")
    cost_lambda = _number(fields, "cost_lambda", math.inf)
    target_cost = _number(fields, "target_cost", 1.0)
    if cost_lambda is not None and target_cost is not None:
        raise ValueError("Give `cost_lambda` or `target_cost`, not both: each alone says how to route.")
    top_k, return_routing = fields.get("top_k"), fields.get("return_routing")
    if top_k is None:
        top_k = _DEFAULT_TOP_K
    if isinstance(top_k, bool) or not isinstance(top_k, int) or top_k < 1:
        raise ValueError(f"`top_k` must be a whole number from 1 on, got {top_k!r}.")
    if return_routing is not None and not isinstance(return_routing, bool):
        raise ValueError(f"`return_routing` must be true or false, got {return_routing!r}.")
    image = _image(fields[given[0]], given[0])
    return Request(image, cost_lambda, target_cost, top_k, bool(return_routing))


def _fields(data: Any) -> dict[str, Any]:
    """Return all fields of a request, wherever they stand."""
    if not isinstance(data, Mapping):
        raise ValueError(f"A request must be an object with `inputs`, {_ONE_IMAGE}; got {_kind(data)}.")
    parameters = data.get("parameters")
    if parameters is None:
        parameters = {}
    if not isinstance(parameters, Mapping):
        raise ValueError(f"`parameters` must be an object, got {_kind(parameters)}.")
    beside = {name: value for name, value in data.items() if name != "parameters"}
    if twice := sorted(set(beside) & set(parameters)):
        raise ValueError(f"A request must have each field once, got {twice} twice.")
    fields = {**beside, **parameters}
    if unknown := sorted(str(name) for name in set(fields) - {*_IMAGE, *_OPTIONS}):
        raise ValueError(f"A request has no field {unknown}; its fields are {[_IMAGE[0], *_OPTIONS]}.")
    return fields


def _number(fields: Mapping[str, Any], name: str, highest: float) -> float | None:
    value = fields.get(name)
    if value is None:
        return None
    if not is_from_0_to(value, highest):
        raise ValueError(f"`{name}` must be a number from 0 to {highest:g}, got {_shown(value)}.")
    return float(value)


def _image(value: Any, name: str) -> Image.Image:
    if isinstance(value, Image.Image):
        return to_rgb(value)
    if isinstance(value, bytes | bytearray):
        return load_rgb(bytes(value), name="of the request")
    if not isinstance(value, str):
        raise ValueError(f"`{name}` must be {_ONE_IMAGE}, got {_kind(value)}.")
    if "://" in value[:_MAX_SHOWN]:
        raise ValueError(
            f"`{name}` must be {_ONE_IMAGE}; got an address, {_shown(value)}, and nothing is fetched."
        )
    encoded = value.partition(",")[2] if value.startswith("data:image/") else value
    try:
        content = base64.b64decode("".join(encoded.split()), validate=True)
    except ValueError as error:
        raise ValueError(f"`{name}` must be {_ONE_IMAGE}, got {_shown(value)}.") from error
    return load_rgb(content, name="of the request")


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]}..."


def _kind(value: Any) -> str:
    return "nothing" if value is None else type(value).__name__
