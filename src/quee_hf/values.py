"""What values that come from files may be. No torch."""

import math
import re
import sys
from collections.abc import Mapping
from typing import Any


def is_number(value: object) -> bool:
    """Tell whether a value is a number that a float can hold.

    Example:
        >>> [is_number(value) for value in (1, -2.5, True, "1", float("nan"), 10**400)]
        [True, True, False, False, False, False]
    """
    is_real = isinstance(value, int | float) and not isinstance(value, bool)
    return is_real and abs(value) <= sys.float_info.max  # type: ignore[arg-type]  # NaN compares false


def is_whole(value: object, lowest: int, highest: float = math.inf) -> bool:
    """Tell whether a value is a whole number within these bounds."""
    return isinstance(value, int) and not isinstance(value, bool) and lowest <= value <= highest


def is_from_0_to(value: object, highest: float) -> bool:
    """Tell whether a value is a number within these bounds, infinity among them if that is the highest."""
    is_known = is_number(value) or value == math.inf
    return is_known and 0 <= value <= highest  # type: ignore[operator]


def is_sha256(value: object) -> bool:
    """Tell whether a value is a SHA-256 in hexadecimal digits."""
    return isinstance(value, str) and re.fullmatch("[0-9a-f]{64}", value) is not None


def without(values: Mapping[str, Any] | None, *names: str) -> dict[str, Any]:
    """Return what a mapping holds but for some entries."""
    return {key: value for key, value in (values or {}).items() if key not in names}
