"""Exported tiny models, and what was written beside them, loaded as a user would."""

import importlib.util
import sys
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from transformers import ViTImageProcessorPil

from quee_hf import QuEEForImageClassification
from quee_hf.deployment import export_onnx

MODULES = ("quee_router", "quee_images", "handler")


def processor(size: int = 32) -> ViTImageProcessorPil:
    return ViTImageProcessorPil(size={"height": size, "width": size}, do_convert_rgb=True)


def export(model: QuEEForImageClassification, folder: Path) -> Path:
    export_onnx(model.eval(), folder, processor(int(model.config.image_size)))
    return folder


@contextmanager
def modules_of(folder: Path):
    """Import the files of an exported folder by their names, as long as the block lasts."""
    sys.path.insert(0, str(folder))
    found = {}
    try:
        for name in MODULES:
            spec = importlib.util.spec_from_file_location(name, folder / f"{name}.py")
            found[name] = sys.modules[name] = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(found[name])
        yield found
    finally:
        sys.path.remove(str(folder))
        for name in MODULES:
            sys.modules.pop(name, None)


def assert_same_routes(routed, output, tolerance: float = 1e-4) -> None:
    """Compare what a host found with a model's output: the same decisions, and numbers but for rounding."""
    assert routed.path.tolist() == output.path.tolist()
    assert routed.exit_index.tolist() == output.exit_index.tolist()
    assert np.array_equal(routed.cost, output.cost.numpy())
    for found, expected in (
        (routed.logits, output.logits),
        (routed.error_probability, output.error_probability),
    ):
        torch.testing.assert_close(
            torch.from_numpy(found), expected, rtol=tolerance, atol=tolerance, equal_nan=True
        )
