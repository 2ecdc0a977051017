"""Post-training quantization: how scales and ranges are chosen. One method a file."""

from collections.abc import Callable, Iterable, Sequence

from torch import Tensor

from quee_hf.backbones.trunk import Trunk
from quee_hf.ptq.mse import quantize_mse

# A method gives every quantized module of a trunk its codes and ranges at the given bit-widths, in place.
PTQ_METHODS: dict[str, Callable[[Trunk, Iterable[Tensor], Sequence[int]], None]] = {"mse": quantize_mse}
