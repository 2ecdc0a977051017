"""Levels: how precisely one segment is computed. An integer is a bit-width, a string a float format."""

from collections.abc import Mapping, Sequence

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


def check_levels(levels: Sequence[Level]) -> None:
    """Raise `ValueError` unless levels are some, exist, and descend in precision."""
    bits = [level_bits(level) for level in levels]
    if not bits or bits != sorted(set(bits), reverse=True):
        raise ValueError(f"`levels` must go from most to least exact without repeats, got {list(levels)}.")


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


def choose_levels(
    accuracy_at: Mapping[int, float],
    float_accuracy: float,
    *,
    keep_within: float = 0.002,
    max_drop: float = 0.02,
) -> list[int]:
    """Choose the bit-widths that a model should have, by the accuracy of its last exit at each.

    The first is the lowest whose accuracy is at least `float_accuracy - keep_within` (the widest, if none
    is). Lower ones follow, one by one, until one is less accurate than `float_accuracy - max_drop`.

    Args:
        accuracy_at: Bit-width to accuracy, from 0 to 1, all on the same images.
        float_accuracy: In full precision, on these images.
        keep_within: Accuracy that the first width may lose.
        max_drop: Accuracy that the others may lose.

    Returns:
        Bit-widths, descending; at least one.

    Raises:
        ValueError: If there are no widths, one is no bit-width, or an allowed loss is not from 0 to 1.

    Example:
        >>> choose_levels({8: 0.951, 7: 0.950, 6: 0.945, 5: 0.92, 4: 0.4}, float_accuracy=0.951)
        [7, 6]

    Source:
        Regol et al. 2024 (QuEE, arXiv:2406.14404), §5.1. There the others may lose 5 % (10 % in App. 7.1),
        and how much the first may lose is not said.
    """
    if not accuracy_at:
        raise ValueError("There are no bit-widths to choose from.")
    for name, loss in (("keep_within", keep_within), ("max_drop", max_drop)):
        if not 0 <= loss <= 1:
            raise ValueError(f"`{name}` must be from 0 to 1, got {loss}.")
    for bits in accuracy_at:
        check_level(bits)
    # Differences of accuracies are rounded; 1e-9 is less than any one image counts for.
    kept, usable = (float_accuracy - loss - 1e-9 for loss in (keep_within, max_drop))
    widths = sorted(accuracy_at, reverse=True)
    chosen = [min((bits for bits in widths if accuracy_at[bits] >= kept), default=widths[0])]
    for bits in (bits for bits in widths if bits < chosen[0]):
        if accuracy_at[bits] < usable:
            break
        chosen.append(bits)
    return chosen
