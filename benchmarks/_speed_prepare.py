"""What contenders of `speed.py` and `gpu.py` are made from; each stage writes one folder.

`speed.py` runs each in a process of its own: `python _speed_prepare.py STAGE FOLDER SOURCE`. Imports are
local: no interpreter has all packages.
"""

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

NUM_CALIBRATION = 300
NUM_TIMED = 256  # test images that inputs cycle through
_CHUNK = 250


def inputs(folder: Path, output: Path, source: str) -> None:
    """Preprocess images: `test.npy` with `labels.npy`, and `calibration.npy` from training images."""
    from transformers import AutoImageProcessor, ViTImageProcessor

    from quee_hf.data import load_image_dataset

    assets = Path(os.environ["QUEE_ASSETS"])
    if source:
        processor = AutoImageProcessor.from_pretrained(assets / source, backend="pil")
    else:
        processor = ViTImageProcessor()  # 224 pixels; there is nothing to be right about
    train = load_image_dataset(str(assets / "cifar10" / "train-00.parquet")).spread(NUM_CALIBRATION)
    test = load_image_dataset(str(assets / "cifar10" / "test.parquet"))
    if not source:
        test = test.select(range(NUM_TIMED))
    for name, images in (("calibration", train), ("test", test)):
        chunks = [
            processor([images[index]["image"] for index in chunk], return_tensors="np")["pixel_values"]
            for chunk in _chunks(len(images))
        ]
        np.save(output / f"{name}.npy", np.concatenate(chunks).astype(np.float32))
    np.save(output / "labels.npy", test.labels)


def backbone(folder: Path, output: Path, source: str) -> None:
    """Save the float32 HF model: an asset, or ViT-S/16 with random weights."""
    import torch
    from transformers import AutoModelForImageClassification, ViTConfig, ViTForImageClassification

    if source:
        path = Path(os.environ["QUEE_ASSETS"]) / source
        model = AutoModelForImageClassification.from_pretrained(path, dtype=torch.float32)
    else:
        torch.manual_seed(0)
        shape = {"hidden_size": 384, "num_attention_heads": 6, "intermediate_size": 1536}
        model = ViTForImageClassification(ViTConfig(num_hidden_layers=12, num_labels=1000, **shape))
    model.save_pretrained(output)


def quee(folder: Path, output: Path, source: str) -> None:
    """Quantize the backbone to 8 bits as a QuEE model with one exit."""
    import torch

    from quee_hf import QuEEForImageClassification, quantize

    model = QuEEForImageClassification.from_backbone(folder / "backbone", exit_blocks=[12], levels=[8])
    quantize(model, torch.from_numpy(_calibration(folder)), method="repq")
    model.save_pretrained(output)


def quee_levels(folder: Path, output: Path, source: str) -> None:
    """Make a QuEE model with one exit that runs in bfloat16 and at 8 bits, for `gpu.py`."""
    import torch

    from quee_hf import QuEEForImageClassification, quantize

    levels = ["bf16", 8]
    model = QuEEForImageClassification.from_backbone(folder / "backbone", exit_blocks=[12], levels=levels)
    keep = {"*.scores": "bf16", "*.mix": "bf16"}  # attention's products are few, and fused in floats
    quantize(model, torch.from_numpy(_calibration(folder)), method="repq", keep=keep)
    model.save_pretrained(output)


def onnx(folder: Path, output: Path, source: str) -> None:
    """Export the backbone to ONNX, for any batch size."""
    import torch

    torch.onnx.export(
        _logits_only(folder),
        (torch.from_numpy(_calibration(folder)[:2]),),
        output / "model.onnx",
        input_names=["pixel_values"],
        output_names=["logits"],
        dynamic_axes={"pixel_values": {0: "batch"}, "logits": {0: "batch"}},
        opset_version=17,
        dynamo=False,
    )


def ort_int8(folder: Path, output: Path, source: str) -> None:
    """Quantize the ONNX model with ONNX Runtime: static, pairs of QuantizeLinear and DequantizeLinear."""
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            images = _calibration(folder)
            self.items: Iterator[dict[str, Any]] = (
                {"pixel_values": images[index : index + 1]} for index in range(len(images))
            )

        def get_next(self) -> dict[str, Any] | None:
            return next(self.items, None)

    optimized = output / "optimized.onnx"
    quant_pre_process(folder / "onnx" / "model.onnx", optimized, skip_symbolic_shape=True)
    quantize_static(
        optimized,
        output / "model.onnx",
        Reader(),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        op_types_to_quantize=["Conv", "Gemm", "MatMul"],
    )


def openvino(folder: Path, output: Path, source: str) -> None:
    """Convert the backbone to OpenVINO's format, float32."""
    import openvino as ov
    import torch

    images = torch.from_numpy(_calibration(folder)[:2])
    model = ov.convert_model(_logits_only(folder), example_input=images)
    model.reshape({0: [-1, *images.shape[1:]]})
    ov.save_model(model, output / "model.xml", compress_to_fp16=False)


def nncf(folder: Path, output: Path, source: str) -> None:
    """Quantize the OpenVINO model with NNCF, as its authors recommend for transformers."""
    import nncf as toolkit
    import openvino as ov

    images = _calibration(folder)
    quantized = toolkit.quantize(
        ov.Core().read_model(folder / "openvino" / "model.xml"),
        toolkit.Dataset([images[index : index + 1] for index in range(len(images))]),
        model_type=toolkit.ModelType.TRANSFORMER,
        subset_size=len(images),
    )
    ov.save_model(quantized, output / "model.xml", compress_to_fp16=False)
    (output / "versions.json").write_text(json.dumps({"nncf": toolkit.__version__}))


def _logits_only(folder: Path) -> Any:
    """Return the backbone as a module from pixels to logits."""
    import torch
    from transformers import AutoModelForImageClassification

    class Logits(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = AutoModelForImageClassification.from_pretrained(folder / "backbone")

        def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
            return self.model(pixel_values).logits

    return Logits().eval()


def _calibration(folder: Path) -> NDArray[np.float32]:
    return np.load(folder / "inputs" / "calibration.npy")


def _chunks(count: int) -> Iterator[range]:
    return (range(start, min(start + _CHUNK, count)) for start in range(0, count, _CHUNK))


STAGES = {
    "inputs": inputs,
    "backbone": backbone,
    "quee": quee,
    "quee-levels": quee_levels,
    "onnx": onnx,
    "ort-int8": ort_int8,
    "openvino": openvino,
    "nncf": nncf,
}


def run_stage(stage: str, folder: Path, source: str) -> None:
    """Write the folder of a stage; it is there only when it is complete."""
    output = folder / f"{stage}.partial"
    output.mkdir(exist_ok=True)
    STAGES[stage](folder, output, source)
    output.rename(folder / stage)


if __name__ == "__main__":
    run_stage(sys.argv[1], Path(sys.argv[2]), sys.argv[3])
