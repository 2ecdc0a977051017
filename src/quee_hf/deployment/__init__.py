"""Deployment: models that run without PyTorch, and handlers for Inference Endpoints."""

import os
from typing import TYPE_CHECKING, Any

from quee_hf.errors import MissingExtraError

if TYPE_CHECKING:
    from quee_hf.modeling import QuEEForImageClassification

__all__ = ["export_onnx"]


def export_onnx(
    model: "QuEEForImageClassification",
    directory: str | os.PathLike[str],
    image_processor: Any = None,
    *,
    overwrite: bool = False,
) -> None:
    """Write a model as ONNX graphs, with what routes images through them without PyTorch.

    The folder holds a graph for the embedding, for each segment at each level, each exit's head and each
    gate; `router.json`; `quee_router.py`, whose `HostRouter` needs NumPy and ONNX Runtime; `quee_images.py`,
    whose `ImageReader` needs NumPy and Pillow; `requirements.txt`; and `handler.py` for Inference Endpoints.
    Integer levels run on integer kernels; "bf16" runs as "fp32".

    Args:
        model: On the CPU, and quantized, if it has integer levels. If its gates are not trained, images can
            only be sent along one path for all.
        directory: Where to; it appears when all files are written.
        image_processor: The model's; if not given, or if it does what `ImageReader` cannot do, images have
            to be made pixel values by other means.
        overwrite: Whether an earlier export in the same place is replaced.

    Raises:
        MissingExtraError: If ONNX or ONNX Runtime is not installed.
        NotReadyError: If the model is not quantized, has no weights of its own, or is elsewhere.
        ValueError: If the directory holds something else, or something cannot be computed by integer kernels.
    """
    try:
        from quee_hf.deployment.export import write_export
    except ImportError as error:
        raise MissingExtraError(
            f"Exporting needs ONNX and ONNX Runtime: {error}. Run `pip install quee-hf[onnxruntime]`."
        ) from error
    write_export(model, directory, image_processor, overwrite=overwrite)
