"""Engines: what runs the segments of a model in place of its own modules, by name."""

from importlib import import_module

from quee_hf.errors import MissingExtraError
from quee_hf.execution.engines.engine import Engine, Source

# Name -> module and class. Their libraries, extras of the same names, are imported when an engine is chosen;
# the last needs none.
_ENGINES = {
    "openvino": ("openvino", "OpenVINOEngine"),
    "onnxruntime": ("onnxruntime", "OnnxRuntimeEngine"),
    "torch_int8": ("torch_int8", "TorchInt8Engine"),
}
REFERENCE = "torch"  # the model's own modules
ENGINES = (REFERENCE, *_ENGINES)


def make_engine(name: str, source: Source) -> Engine | None:
    """Make an engine; `None` stands for the model's own modules.

    Raises:
        ValueError: If there is none of this name.
        MissingExtraError: If it is not installed.
    """
    if name == REFERENCE:
        return None
    if name not in _ENGINES:
        raise ValueError(f"`engine` must be one of {list(ENGINES)}, got {name!r}.")
    module, kind = _ENGINES[name]
    try:
        found = getattr(import_module(f"{__name__}.{module}"), kind)
    except ImportError as error:
        raise MissingExtraError(
            f"The engine {name!r} is not installed: {error}. Run `pip install quee-hf[{name}]`."
        ) from error
    engine: Engine = found(source)
    return engine
