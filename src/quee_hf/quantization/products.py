"""Exact products of whole numbers, as fast as the machine allows."""

from functools import cache

import torch
from torch import Tensor
from torch.nn import functional

_INT8_LOW = -128


@cache
def has_fast_int8() -> bool:
    """Tell whether this CPU multiplies 8-bit integers faster than floats, and exactly.

    Without VNNI, which the capability does not tell, kernels add pairs of products in 16 bits, which
    overflow.
    """
    if torch.backends.cpu.get_cpu_capability() not in ("AVX512", "AVX512_VNNI", "AMX"):
        return False
    largest = torch.full((16, 64), 127, dtype=torch.int8)
    return bool((torch._int_mm(largest, largest.t()) == 127 * 127 * 64).all())


def code_products(codes: Tensor, weight: Tensor, lowest: Tensor | int | None = None) -> Tensor:
    """Multiply activation codes with weight codes; integer and float kernels give the same numbers.

    Args:
        codes: `(..., in)`, float32 whole numbers.
        weight: `(out, in)`, int8.
        lowest: The least that `codes` can be, if they span at most 256 whole numbers; broadcasts against
            them. `None` if they may span more: then floats are multiplied.

    Returns:
        `(..., out)`, float32 whole numbers, exact as long as they are below 2**24.
    """
    # `_int_mm` leaves products over a single column undefined.
    if lowest is None or codes.shape[-1] == 1 or codes.device.type != "cpu" or not has_fast_int8():
        return functional.linear(codes, weight.float())
    shift = lowest - _INT8_LOW
    fits_already = isinstance(shift, int) and shift == 0
    bytes_ = (codes if fits_already else codes - shift).to(torch.int8)
    products = torch._int_mm(bytes_.flatten(0, -2), weight.t()).view(*codes.shape[:-1], len(weight))
    if not fits_already:
        products += weight.sum(dim=1, dtype=torch.int32) * shift
    return products.float()
