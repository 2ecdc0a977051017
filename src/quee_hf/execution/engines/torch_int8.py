"""The engine "torch_int8": integer kernels that PyTorch itself has."""

import warnings
from functools import cache
from typing import ClassVar

import torch
from torch import Tensor

from quee_hf.blueprint import check_runnable
from quee_hf.errors import NotReadyError
from quee_hf.execution.engines.engine import Engine, Source
from quee_hf.execution.integer.blocks import PreparedBlocks
from quee_hf.exits.reading import ExitReading
from quee_hf.levels import Level
from quee_hf.quantization.products import has_fast_int8

_DEVICES = ("cpu", "cuda")


class TorchInt8Engine(Engine):
    """Runs segments on kernels of PyTorch: oneDNN's on the CPU, cuBLAS's on CUDA.

    Weights are packed for each segment at each level when it is first used. The model's own
    modules compute segments at "fp32", while they have weights, the embedding and the exits.

    Args:
        source: The model, on the CPU or on CUDA.
    """

    name: ClassVar[str] = "torch_int8"
    _programs: dict[tuple[int, Level], PreparedBlocks]

    def __init__(self, source: Source) -> None:
        super().__init__(source)
        if source.trunk.norm.weight.device.type == "cpu" and not has_fast_int8():
            _warn_of_speed()

    def embed(self, pixel_values: Tensor) -> Tensor:
        """Map images to tokens."""
        self._check_device(pixel_values)
        return self.source.trunk.embed(pixel_values).float()

    @torch.no_grad()
    def run_segment(self, segment: int, level: Level, hidden: Tensor) -> Tensor:
        """Run one segment."""
        check_runnable(self.source.config, level)
        self._check_device(hidden)
        if level == "fp32" and self.prepared is None:
            start, stop = self.source.config.segments[segment]
            trunk = self.source.trunk
            return trunk.run_blocks(hidden.to(trunk.norm.weight.dtype), start, stop, level).float()
        if (segment, level) not in self._programs:
            # What is made in inference mode could not be used outside it.
            with torch.inference_mode(False), torch.no_grad():
                self._programs[segment, level] = self._prepare(segment, level)
        return self._programs[segment, level](hidden)

    def read_exit(self, exit_index: int, hidden: Tensor) -> ExitReading:
        """Read an exit."""
        return self.source.read_exit(exit_index, hidden.to(self.source.trunk.norm.weight.dtype))

    def check(self, segment: int, level: Level) -> None:
        """Pack the weights of a segment, and forget them."""
        check_runnable(self.source.config, level)
        self._prepare(segment, level)

    def _prepare(self, segment: int, level: Level) -> PreparedBlocks:
        return PreparedBlocks(self.blocks(segment, level), level)

    def _check_device(self, x: Tensor) -> None:
        if x.device.type not in _DEVICES:
            raise NotReadyError(
                f"The engine {self.name!r} runs on the CPU and CUDA; the model is on {x.device}."
            )


@cache
def _warn_of_speed() -> None:
    """Say once that integers are not fast here."""
    warnings.warn(
        "The engine 'torch_int8' will not be fast: this processor, without AVX-512 VNNI, multiplies 8-bit"
        " integers no faster than floats.",
        stacklevel=2,
    )
