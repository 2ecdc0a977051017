"""Engines: what runs the segments of a model in place of its own modules, by name."""

from collections.abc import Sequence
from contextlib import suppress
from importlib import import_module

from quee_hf.errors import MissingExtraError
from quee_hf.execution.engines.choice import fastest
from quee_hf.execution.engines.engine import Engine, Source
from quee_hf.execution.engines.handover import hand_over
from quee_hf.execution.engines.network import EngineNetwork
from quee_hf.execution.network import Network

# Name -> module and class. Their libraries are imported when an engine is chosen.
_ENGINES = {
    "openvino": ("openvino", "OpenVINOEngine"),
    "onnxruntime": ("onnxruntime", "OnnxRuntimeEngine"),
    "torch_int8": ("torch_int8", "TorchInt8Engine"),
}
EXTRAS = ("openvino", "onnxruntime")  # engines whose library is an extra of the same name; others need none
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
        return _fastest_engine(source, ENGINES)
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


def make_sole_engine(name: str, source: Source) -> Engine:
    """Make an engine that alone has the weights of blocks: `hand_over` says what of them.

    Raises:
        ValueError: If there is none of this name, it cannot compute something, or it is the model's own
            modules.
        MissingExtraError: If it is not installed.
        NotReadyError: If the model is not quantized yet, is elsewhere than the engine, or in training mode.
    """
    if name == REFERENCE:
        raise ValueError(f"The engine {name!r} is the model's own modules, which need their weights.")
    engine = _fastest_engine(source, tuple(_ENGINES)) if name == FASTEST else make_engine(name, source)
    assert engine is not None
    hand_over(engine)
    return engine


def _fastest_engine(source: Source, names: Sequence[str]) -> Engine | None:
    """Return the fastest of those that are installed, which has prepared itself by being tried."""
    installed: dict[str, Engine | None] = {}
    for name in names:
        with suppress(MissingExtraError):
            installed[name] = make_engine(name, source)
    networks: dict[str, Network] = {
        name: source if engine is None else EngineNetwork(source, engine)
        for name, engine in installed.items()
    }
    return installed[fastest(source, networks)]
