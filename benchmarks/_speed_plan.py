"""What `speed.py` compares: sizes, contenders, and what each is made from. Standard library only."""

from dataclasses import dataclass, field
from typing import Any

BATCH_SIZES = (1, 8, 32)
ACCURACY_BATCH_SIZE = 8  # at which every contender runs
BASE = "hf-float32"  # what ratios refer to
NNCF = ("nncf-f32", "nncf-bf16")  # one peer: the faster of its settings


@dataclass(frozen=True)
class Size:
    """A model and its images.

    Args:
        title: In reports.
        source: Folder of the HF model among the assets; empty: random weights.
        is_routed: Whether our model is a built one, with gates; otherwise it is made of the HF model here.
    """

    title: str
    source: str
    is_routed: bool


SIZES = {
    "dinov2-70": Size("DINOv2-S, 70 px, CIFAR-10", "models/dinov2-small-cifar10-70px", is_routed=True),
    "vit-224": Size("ViT-S/16, 224 px, random weights", "", is_routed=False),
}


@dataclass(frozen=True)
class Contender:
    """One row.

    Args:
        label: In reports.
        kind: Which function of `_speed_contenders.py` loads it.
        stages: Of `_speed_prepare.py`, whose results it reads.
        options: Of that function.
        is_peers: Whether it needs the interpreter with packages that this project does not depend on.
        batch_sizes: At which it runs.
    """

    label: str
    kind: str
    stages: tuple[str, ...]
    options: dict[str, Any] = field(default_factory=dict)
    is_peers: bool = False
    batch_sizes: tuple[int, ...] = BATCH_SIZES

    @property
    def is_ours(self) -> bool:
        """Whether this is a QuEE model."""
        return self.kind == "quee"


# Stages in the order in which they can run, and whether they need the other interpreter.
STAGES = {
    "inputs": False,
    "backbone": False,
    "onnx": False,
    "ort-int8": False,
    "openvino": False,
    "nncf": True,
    "quee": False,
}

PEERS = {
    "hf-float32": Contender("Hugging Face, float32", "hf", ("backbone",), {"dtype": "float32"}),
    "hf-bfloat16": Contender("Hugging Face, bfloat16", "hf", ("backbone",), {"dtype": "bfloat16"}),
    "ort-float32": Contender("ONNX Runtime, float32", "onnxruntime", ("onnx",), {"model": "onnx"}),
    "ort-int8": Contender(
        "ONNX Runtime, INT8 static", "onnxruntime", ("onnx", "ort-int8"), {"model": "ort-int8"}
    ),
    "openvino-float32": Contender(
        "OpenVINO, float32", "openvino", ("openvino",), {"model": "openvino", "precision": "f32"}
    ),
    "openvino-bfloat16": Contender(
        "OpenVINO, bfloat16", "openvino", ("openvino",), {"model": "openvino", "precision": "bf16"}
    ),
    "nncf-f32": Contender(
        "OpenVINO + NNCF INT8, rest float32",
        "openvino",
        ("openvino", "nncf"),
        {"model": "nncf", "precision": "f32"},
    ),
    "nncf-bf16": Contender(
        "OpenVINO + NNCF INT8, rest bfloat16",
        "openvino",
        ("openvino", "nncf"),
        {"model": "nncf", "precision": "bf16"},
    ),
    "torchao-float32": Contender(
        "torchao INT8 dynamic, compiled, rest float32",
        "torchao",
        ("backbone",),
        {"dtype": "float32"},
        is_peers=True,
    ),
    "torchao-bfloat16": Contender(
        "torchao INT8 dynamic, compiled, rest bfloat16",
        "torchao",
        ("backbone",),
        {"dtype": "bfloat16"},
        is_peers=True,
    ),
}


def contenders(size: str, engines: tuple[str, ...]) -> dict[str, Contender]:
    """Return the rows of a size: peers, then QuEE on each engine, whole and routed."""
    stages = () if SIZES[size].is_routed else ("backbone", "quee")  # a built model is given
    ours = {}
    for engine in engines:
        # The model's own modules simulate integers: they are not meant to be quick.
        sizes = (ACCURACY_BATCH_SIZE,) if engine == "torch" else BATCH_SIZES
        settings = {"engine": engine, "is_routed": False}
        name = f"QuEE, {engine}, 8 bits, all blocks"
        ours[f"quee-{engine}-full"] = Contender(name, "quee", stages, settings, batch_sizes=sizes)
        if SIZES[size].is_routed:
            settings = {"engine": engine, "is_routed": True}
            name = f"QuEE, {engine}, routed"
            ours[f"quee-{engine}-routed"] = Contender(name, "quee", stages, settings, batch_sizes=sizes)
            many = tuple(size for size in sizes if size > 1)
            settings = {**settings, "is_stream": True}
            name = f"QuEE, {engine}, routed stream"
            ours[f"quee-{engine}-stream"] = Contender(name, "quee", stages, settings, batch_sizes=many)
    return {**PEERS, **ours}
