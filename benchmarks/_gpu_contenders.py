"""Contenders of `gpu.py`: which there are, and how each is loaded to run on a device in this process."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _speed_contenders import Runner
from _speed_plan import SIZES, Contender
from torch import Tensor
from transformers import AutoModelForImageClassification

from quee_hf import QuEEForImageClassification

STAGES = ("inputs", "backbone", "quee-levels")
BASE = "hf-float32"  # what ratios refer to
COMPILED = "hf-bfloat16-compiled"  # and the peer to beat
ENGINES = ("torch", "torch_int8")
_PATHS = {"bf16": "bf16", "8": "8 bits"}


def contenders(size: str) -> dict[str, Contender]:
    """Return the rows of a size: Hugging Face's model, then QuEE on each engine, whole and routed."""
    rows = {
        BASE: _hf("float32", is_compiled=False),
        COMPILED: _hf("bfloat16", is_compiled=True),
        "hf-float16": _hf("float16", is_compiled=False),
        "hf-float16-compiled": _hf("float16", is_compiled=True),
    }
    for engine in ENGINES:
        for level, words in _PATHS.items():
            settings = {"engine": engine, "is_routed": False, "level": level}
            rows[f"quee-{engine}-{level}"] = _quee(f"QuEE, {engine}, {words}, all blocks", settings)
        if SIZES[size].is_routed:
            settings = {"engine": engine, "is_routed": True}
            rows[f"quee-{engine}-routed"] = _quee(f"QuEE, {engine}, routed", settings)
    return rows


def _hf(dtype: str, *, is_compiled: bool) -> Contender:
    label = f"Hugging Face, {dtype}, SDPA{', compiled' if is_compiled else ''}"
    return Contender(label, "hf", STAGES, {"dtype": dtype, "is_compiled": is_compiled})


def _quee(label: str, settings: dict[str, Any]) -> Contender:
    return Contender(label, "quee", STAGES, settings)


def load_hf(spec: dict[str, Any]) -> Runner:
    """The stock model with PyTorch's fused attention, eager, or compiled for one batch size."""
    dtype = getattr(torch, spec["dtype"])
    path = Path(spec["folder"]) / "backbone"
    model = AutoModelForImageClassification.from_pretrained(path, dtype=dtype, attn_implementation="sdpa")
    model = model.eval().to(spec["device"])
    # On CUDA this mode includes CUDA graphs.
    forward = torch.compile(model, dynamic=False, mode="max-autotune") if spec["is_compiled"] else model
    return _runner(lambda pixels: forward(pixels).logits, spec["device"], dtype)


def load_quee(spec: dict[str, Any]) -> Runner:
    """A QuEE model on an engine: whole at one level, or routed."""
    model = QuEEForImageClassification.from_pretrained(spec["quee_model"]).eval().to(spec["device"])
    model.set_engine(spec["engine"])
    if spec["is_routed"]:
        settings: dict[str, Any] = {"cost_lambda": spec["cost_lambda"]}
    else:
        level = int(spec["level"]) if spec["level"].isdigit() else spec["level"]
        settings = {"path": [level] * model.config.num_exits}
    forward = torch.inference_mode()(lambda pixels: model(pixels, **settings).logits)
    return _runner(forward, spec["device"], torch.float32)


LOADERS = {"hf": load_hf, "quee": load_quee}


def _runner(forward: Callable[[Tensor], Tensor], device: str, dtype: torch.dtype) -> Runner:
    """Run a forward to its end: what a device was given, it has done."""
    wait = partial(torch.accelerator.synchronize, device) if device != "cpu" else lambda: None

    def run(pixels: Tensor) -> Tensor:
        torch.compiler.cudagraph_mark_step_begin()  # results of the run before are not needed any more
        with torch.no_grad():
            logits = forward(pixels)
        wait()
        return logits

    def logits_of(output: Tensor) -> Any:
        return output.float().cpu().numpy().astype(np.float32)

    def convert(pixels: Any) -> Tensor:
        return torch.tensor(pixels, dtype=dtype, device=device)

    return Runner(convert, run, logits_of, ("torch", "transformers", "quee-hf"))
