"""Engines: what runs the segments of a model in place of its own modules, by name."""

from contextlib import suppress
from importlib import import_module

from quee_hf.errors import MissingExtraError
from quee_hf.execution.engines.choice import fastest
from quee_hf.execution.engines.engine import Engine, Source
from quee_hf.execution.engines.network import EngineNetwork
from quee_hf.execution.network import Network

# Name -> module and class. Their libraries, extras of the same names, are imported when an engine is chosen;
# the last needs none.
_ENGINES = {
    "openvino": ("openvino", "OpenVINOEngine"),
    "onnxruntime": ("onnxruntime", "OnnxRuntimeEngine"),
    "torch_int8": ("torch_int8", "TorchInt8Engine"),
}
REFERENCE = "torch"  # the model's own modules
ENGINES = (REFERENCE, *_ENGINES)
FASTEST = "auto"  # whichever of them is


def make_engine(name: str, source: Source) -> Engine | None:
    """Make an engine; `None` stands for the model's own modules.

    Raises:
        ValueError: If there is none of this name.
        MissingExtraError: If it is not installed.
        NotReadyError: If the fastest is asked for, and the model is not quantized yet.
    """
    if name == FASTEST:
        return _fastest_engine(source)
    if name == REFERENCE:
        return None
    if name not in _ENGINES:
        raise ValueError(f"`engine` must be one of {[*ENGINES, FASTEST]}, got {name!r}.")
    module, kind = _ENGINES[name]
    try:
        found = getattr(import_module(f"{__name__}.{module}"), kind)
    except ImportError as error:
        raise MissingExtraError(
            f"The engine {name!r} is not installed: {error}. Run `pip install quee-hf[{name}]`."
        ) from error
    engine: Engine = found(source)
    return engine


def _fastest_engine(source: Source) -> Engine | None:
    """Return the fastest of the engines that are installed, which has prepared itself by being tried."""
    installed: dict[str, Engine | None] = {}
    for name in ENGINES:
        with suppress(MissingExtraError):
            installed[name] = make_engine(name, source)
    networks: dict[str, Network] = {
        name: source if engine is None else EngineNetwork(source, engine)
        for name, engine in installed.items()
    }
    return installed[fastest(source, networks)]
