"""`ByteRange`: activations as the unsigned bytes that integer kernels read."""

from typing import NamedTuple

import torch
from torch import Tensor

SIGN = 128  # the bit in which a signed byte differs from the unsigned one that is 128 higher


class ByteRange(NamedTuple):
    """Equal steps over a range, each a code from 0 to `2**bits - 1`."""

    scale: float  # of a step
    zero_point: int  # the code of 0.0
    bits: int

    @property
    def shift(self) -> float:
        """What `codes_of_steps` wants added to a number of steps."""
        return self.zero_point - SIGN

    @property
    def highest(self) -> int:
        """The highest code."""
        return int(2**self.bits) - 1

    def codes(self, x: Tensor) -> Tensor:
        """Round numbers to codes, uint8.

        Args:
            x: Any shape; what it holds is lost if it is float32.
        """
        x = x.float()
        if torch.compiler.is_compiling():  # one program for all ranges: it takes numbers, but not as `alpha`
            return self.codes_of_steps(x * (1 / self.scale) + self.shift)
        steps = torch.add(torch.tensor(self.shift), x, alpha=1 / self.scale, out=x)
        return self.codes_of_steps(steps)

    def codes_of_steps(self, steps: Tensor) -> Tensor:
        """Round steps, `x / scale + shift`, to codes, uint8.

        Args:
            steps: Float32, any shape; what it holds is lost.
        """
        steps.clamp_(-SIGN, self.highest - SIGN).round_()
        # Floats become signed bytes several times as fast as unsigned ones.
        return signed_bytes(steps.to(torch.int8))


def signed_bytes(codes: Tensor) -> Tensor:
    """Move bytes by 128, in place, between int8 and uint8.

    Example:
        >>> signed_bytes(torch.tensor([-128, 0, 127], dtype=torch.int8)).tolist()
        [0, 128, 255]
    """
    other = torch.uint8 if codes.dtype == torch.int8 else torch.int8
    return codes.view(torch.uint8).bitwise_xor_(SIGN).view(other)
