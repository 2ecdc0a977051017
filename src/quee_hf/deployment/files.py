"""Files that make a folder run: what reads and routes images, and handlers for Inference Endpoints."""

from pathlib import Path

from quee_hf.deployment.bundle import bundle, defined_names

ROUTER_MODULE, READER_MODULE = "quee_router", "quee_images"
HANDLER_FILE, REQUIREMENTS_FILE = "handler.py", "requirements.txt"
HOST_FILES = (f"{ROUTER_MODULE}.py", f"{READER_MODULE}.py", HANDLER_FILE, REQUIREMENTS_FILE)
_HOST_REQUIREMENTS = ("numpy", "onnxruntime", "pillow")

_ROUTER = """Classify images with the model in this folder, without PyTorch. Needs NumPy and ONNX Runtime.

    from quee_images import ImageReader
    from quee_router import HostRouter, describe_images

    read, router = ImageReader.from_folder("."), HostRouter(".")
    routed = router(read("cat.jpg"), cost_lambda=0.1)
    describe_images(router.description, routed)

Written by quee_hf, from the modules named below; licensed as it is, under Apache-2.0.
"""
_READER = """Make pixel values of images for the model in this folder. Needs NumPy and Pillow.

Written by quee_hf, from the modules named below; licensed as it is, under Apache-2.0.
"""
_HANDLER = """Serve the model in this folder on Inference Endpoints, without PyTorch.

Written by quee_hf, from the modules named below; licensed as it is, under Apache-2.0.
"""
_MODEL_HANDLER = '''"""Serves this model on Inference Endpoints."""

from quee_hf.deployment.endpoint import EndpointHandler

__all__ = ["EndpointHandler"]
'''
_MODEL_FILES = {HANDLER_FILE: _MODEL_HANDLER, REQUIREMENTS_FILE: "quee-hf\n"}


def write_host_files(folder: Path) -> None:
    """Write `HOST_FILES`: Python that needs nothing of this package, and the packages that it does need."""
    router = bundle(
        [(f"{__package__}.host", name) for name in ("HostRouter", "describe_images")], docstring=_ROUTER
    )
    read = [(f"{__package__}.image_reader", "ImageReader"), ("quee_hf.images", "load_rgb")]
    reader = bundle([*read, ("quee_hf.images", "to_rgb")], docstring=_READER)
    provided = {READER_MODULE: defined_names(reader), ROUTER_MODULE: defined_names(router)}
    handler = bundle(
        [(f"{__package__}.host_endpoint", "EndpointHandler")], docstring=_HANDLER, provided=provided
    )
    requirements = "\n".join(_HOST_REQUIREMENTS) + "\n"
    for name, text in zip(HOST_FILES, (router, reader, handler, requirements), strict=True):
        (folder / name).write_text(text, encoding="utf-8")


def write_handler(folder: Path, *, overwrite: bool) -> list[Path]:
    """Write what serves a model's folder with PyTorch on Inference Endpoints.

    Args:
        folder: Of a saved model.
        overwrite: Whether files of these names that somebody wrote are replaced.

    Returns:
        The files.

    Raises:
        ValueError: If the folder holds no model, or there are such files.
    """
    if not (folder / "config.json").is_file():
        raise ValueError(f"{folder} has no config.json: a handler is written beside a saved model.")
    for name, text in _MODEL_FILES.items():
        file = folder / name
        if not overwrite and file.exists() and file.read_text(encoding="utf-8", errors="replace") != text:
            raise ValueError(f"{file} exists and is another: give overwrite=True to replace it.")
    for name, text in _MODEL_FILES.items():
        (folder / name).write_text(text, encoding="utf-8")
    return [folder / name for name in _MODEL_FILES]
