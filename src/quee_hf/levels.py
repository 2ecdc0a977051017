"""Levels: how precisely one segment is computed. An integer is a bit-width, a string a float format."""

Level = int | str

FLOAT_LEVEL_BITS = {"fp32": 32, "bf16": 16}
MIN_BITS, MAX_BITS = 2, 8


def is_integer_level(level: Level) -> bool:
    """Tell whether a level needs quantized weights."""
    return not isinstance(level, str)


def check_level(level: object) -> None:
    """Raise `ValueError` unless `level` is a bit-width 2 to 8, `"bf16"` or `"fp32"`."""
    if isinstance(level, str) and level in FLOAT_LEVEL_BITS:
        return
    if isinstance(level, int) and not isinstance(level, bool) and MIN_BITS <= level <= MAX_BITS:
        return
    raise ValueError(f"A level is a bit-width {MIN_BITS} to {MAX_BITS}, 'bf16' or 'fp32', got {level!r}.")


def level_bits(level: Level) -> int:
    """Return the bits per number at a level.

    Example:
        >>> level_bits(6), level_bits("bf16")
        (6, 16)
    """
    check_level(level)
    return FLOAT_LEVEL_BITS[level] if isinstance(level, str) else level


def parse_level(text: str) -> Level:
    """Read a level as written on a command line or in a recipe.

    Example:
        >>> parse_level("8"), parse_level("fp32")
        (8, 'fp32')
    """
    text = text.strip()
    level: Level = int(text) if text.lstrip("-").isdigit() else text
    check_level(level)
    return level
