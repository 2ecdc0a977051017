"""Which exits quantization noise spoils. Pure functions of a noise profile, no torch."""

import math
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

NEIGHBOURS = 2  # blocks on either side that a block's noise is compared with
LARGEST_JUMP, LEAST_INR = 2.0, 1.0


def pathological_exits(
    profile: Mapping[str, Any],
    exit_blocks: Sequence[int],
    *,
    largest_jump: float = LARGEST_JUMP,
    least_inr: float = LEAST_INR,
) -> list[int]:
    """Return the exits that should be left out: quantization noise spoils what they read.

    Args:
        profile: As `measure_noise` returns it; of its `blocks` the `noise_ratio` and the `inr` matter.
        exit_blocks: Blocks with an exit, ascending. The last one stays in any case: images that leave
            nowhere else leave there.
        largest_jump: As `objections` has it.
        least_inr: The same.

    Raises:
        ValueError: If the exits do not ascend, the profile lacks one of them, or a limit makes no sense.

    Example:
        >>> noise = [0.01, 0.02, 0.09, 0.03, 0.04]
        >>> rows = [{"block": n, "noise_ratio": x, "inr": 5.0} for n, x in enumerate(noise, start=1)]
        >>> pathological_exits({"blocks": rows}, [2, 3, 5])
        [3]

    Source:
        LRA-EE (arXiv:2605.26415), §4.5. Its Eq. (6) is lost; this rule is ours.
    """
    against = objections(profile, largest_jump=largest_jump, least_inr=least_inr)
    if list(exit_blocks) != sorted(set(exit_blocks)) or not set(exit_blocks) <= set(against):
        raise ValueError(f"Exits must ascend, after blocks of {list(against)}, got {list(exit_blocks)}.")
    return [block for block in exit_blocks[:-1] if against[block]]


def objections(
    profile: Mapping[str, Any], *, largest_jump: float = LARGEST_JUMP, least_inr: float = LEAST_INR
) -> dict[int, list[str]]:
    """Return what speaks against an exit after each block: "noise", "inr", both or nothing.

    Args:
        profile: As `measure_noise` returns it.
        largest_jump: A block's noise ratio may be this many times the median of its neighbours', at least 1.
            At 2, the default, noise that grows steadily is no objection, and one block twice as noisy as
            those around it is. Infinity turns the test off.
        least_inr: A block's INR must be at least this. Below 1, the default, the noise so far is larger than
            what the block has just added. 0 turns the test off.

    Raises:
        ValueError: If a limit is too small.
    """
    if not largest_jump >= 1:
        raise ValueError(f"`largest_jump` must be at least 1, got {largest_jump}.")
    if not least_inr >= 0:
        raise ValueError(f"`least_inr` must be at least 0, got {least_inr}.")
    jumps = noise_jumps([row["noise_ratio"] for row in profile["blocks"]])
    return {
        row["block"]: ["noise"] * (jump > largest_jump) + ["inr"] * (_or_infinity(row["inr"]) < least_inr)
        for row, jump in zip(profile["blocks"], jumps, strict=True)
    }


def noise_jumps(noise_ratios: Sequence[float | None]) -> list[float]:
    """Compare each block's noise with the median of its neighbours'.

    Neighbours are the two blocks on either side, as far as they exist. Noise that grows by the same factor in
    every block gives at most 1, but that factor for the last block but one, and about its power of 1.5 for
    the last.

    Args:
        noise_ratios: One for each block; `None` means infinite.

    Returns:
        How many times the median it is: 1 for equals, also of zeros, and for a block without neighbours;
        infinite if only the neighbours have none.

    Example:
        >>> noise_jumps([1.0, 2.0, 9.0, 3.0, 4.0])
        [0.18..., 0.66..., 3.6, 0.75, 0.66...]
    """
    noise = [_or_infinity(ratio) for ratio in noise_ratios]
    jumps = []
    for index, own in enumerate(noise):
        around = [*noise[max(0, index - NEIGHBOURS) : index], *noise[index + 1 : index + 1 + NEIGHBOURS]]
        usual = median(around) if around else own
        if own == usual:
            jumps.append(1.0)
        else:
            jumps.append(own / usual if usual else math.inf)
    return jumps


def _or_infinity(value: float | None) -> float:
    return math.inf if value is None else float(value)
