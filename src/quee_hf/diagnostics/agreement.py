"""How often routed images get the class that the whole network gives them."""

from collections.abc import Collection
from typing import TypedDict

import numpy as np

from quee_hf.diagnostics.shift import excess_p_value
from quee_hf.intervals import wilson_interval


class Agreement(TypedDict):
    """How often routed images get the class that the whole network gives them, of the last ones tried."""

    num_images: int
    share: float
    interval: list[float]  # 95 %
    expected: float  # at the same lambdas, on the reference's images
    p_value: float  # of so little agreement without any shift


def judge_agreement(tried: Collection[tuple[bool, float]], num_reference: int) -> Agreement | None:
    """Compare how many images differ with what a reference lets expect; `None` if none was tried.

    Args:
        tried: Of each image, whether its classes differ, and the share of the reference's that do.
        num_reference: Images of the reference.
    """
    if not tried:
        return None
    num_differing = sum(differs for differs, _ in tried)
    expected = float(np.mean([probability for _, probability in tried]))
    return {
        "num_images": len(tried),
        "share": 1 - num_differing / len(tried),
        "interval": list(wilson_interval(len(tried) - num_differing, len(tried))),
        "expected": 1 - expected,
        "p_value": excess_p_value(round(expected * num_reference), num_reference, num_differing, len(tried)),
    }
