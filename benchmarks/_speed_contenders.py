"""One contender of `speed.py` in a process of its own, which answers the commands of `_speed_turns.py`.

Run by `speed.py`: `python _speed_contenders.py SPEC`. Commands and answers are lines of JSON; between
commands the process waits for its input. Imports are local: no interpreter has all packages.
"""

import json
import os
import statistics
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.float32]


@dataclass(frozen=True)
class Runner:
    """What is timed, and what stands before and after it.

    Args:
        convert: From pixels to what `run` takes; not timed.
        run: The forward.
        logits: From what `run` returns to logits; not timed.
        packages: Whose versions matter.
        takes_all: Whether `run` takes all images at once; its time then counts as that of many batches.
    """

    convert: Callable[[Pixels], Any]
    run: Callable[[Any], Any]
    logits: Callable[[Any], NDArray[Any]]
    packages: tuple[str, ...]
    takes_all: bool = False


def load_hf(spec: dict[str, Any]) -> Runner:
    """The stock model, eager."""
    model, dtype = _hf_model(spec)
    return _torch_runner(model, dtype, ("torch", "transformers"))


def load_torchao(spec: dict[str, Any]) -> Runner:
    """The stock model, INT8 with ranges of activations taken as they come, compiled for this batch size."""
    import torch
    from torch._inductor import config
    from torchao.quantization import Int8DynamicActivationInt8WeightConfig, quantize_

    model, dtype = _hf_model(spec)
    quantize_(model, Int8DynamicActivationInt8WeightConfig())
    config.freezing = True  # weights become constants: on CPUs the faster way
    compiled = torch.compile(model, dynamic=False, mode="max-autotune")
    return _torch_runner(compiled, dtype, ("torch", "torchao"))


def load_onnxruntime(spec: dict[str, Any]) -> Runner:
    """An ONNX model, for this batch size."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = spec["threads"]
    options.add_free_dimension_override_by_name("batch", spec["batch_size"])
    path = Path(spec["folder"]) / spec["model"] / "model.onnx"
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return Runner(
        np.ascontiguousarray,
        lambda pixels: session.run(None, {"pixel_values": pixels}),
        lambda outputs: outputs[0],
        ("onnxruntime",),
    )


def load_openvino(spec: dict[str, Any]) -> Runner:
    """An OpenVINO model, for this batch size."""
    import openvino

    core = openvino.Core()
    model = core.read_model(Path(spec["folder"]) / spec["model"] / "model.xml")
    shape = model.input(0).partial_shape
    shape[0] = spec["batch_size"]
    model.reshape({0: shape})
    settings = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": spec["threads"],
        "INFERENCE_PRECISION_HINT": spec["precision"],
    }
    request = core.compile_model(model, "CPU", settings).create_infer_request()
    return Runner(
        np.ascontiguousarray,
        lambda pixels: request.infer({0: pixels}, share_inputs=True, share_outputs=True),
        lambda outputs: np.array(outputs[0]),
        ("openvino",),
    )


def load_quee(spec: dict[str, Any]) -> Runner:
    """A QuEE model on an engine: whole at its first level, or routed, in batches or as a stream."""
    import torch

    from quee_hf import QuEEForImageClassification

    torch.set_num_threads(spec["threads"])
    model = QuEEForImageClassification.from_pretrained(spec["quee_model"]).eval()
    model.set_engine(spec["engine"])
    if spec["is_routed"]:
        settings: dict[str, Any] = {"cost_lambda": spec["cost_lambda"]}
    else:
        settings = {"path": [8] * model.config.num_exits}
    packages = {"openvino": ("openvino",), "onnxruntime": ("onnxruntime",)}.get(spec["engine"], ())

    def run(pixels: Any) -> Any:
        with torch.inference_mode():
            return model(pixels, **settings).logits

    def run_stream(pixels: Any) -> Any:
        batches = pixels.split(spec["batch_size"])
        outputs = model.classify_stream(batches, batch_size=spec["batch_size"], **settings)
        return torch.cat([output.logits for output in outputs])

    is_stream = spec.get("is_stream", False)
    chosen, names = run_stream if is_stream else run, ("torch", "quee-hf", *packages)
    return Runner(torch.tensor, chosen, lambda logits: logits.numpy(), names, takes_all=is_stream)


LOADERS = {
    "hf": load_hf,
    "torchao": load_torchao,
    "onnxruntime": load_onnxruntime,
    "openvino": load_openvino,
    "quee": load_quee,
}


def _hf_model(spec: dict[str, Any]) -> tuple[Any, Any]:
    import torch
    from transformers import AutoModelForImageClassification

    torch.set_num_threads(spec["threads"])
    dtype = getattr(torch, spec["dtype"])
    path = Path(spec["folder"]) / "backbone"
    return AutoModelForImageClassification.from_pretrained(path, dtype=dtype).eval(), dtype


def _torch_runner(model: Any, dtype: Any, packages: tuple[str, ...]) -> Runner:
    import torch

    def run(pixels: Any) -> Any:
        with torch.no_grad():
            return model(pixels).logits

    return Runner(
        lambda pixels: torch.tensor(pixels, dtype=dtype), run, lambda out: out.float().numpy(), packages
    )


class Session:
    """A loaded contender and its place in the images.

    Args:
        runner: The contender.
        spec: What it was loaded from, and how.
    """

    def __init__(self, runner: Runner, spec: dict[str, Any]) -> None:
        self.runner = runner
        self.batch_size = spec["batch_size"]
        made_with = Path(spec["folder"]) / spec.get("model", "") / "versions.json"
        self.versions = json.loads(made_with.read_text()) if made_with.exists() else {}
        self.images = np.load(Path(spec["folder"]) / "inputs" / "test.npy", mmap_mode="r")
        self.num_batches = spec["num_timed"] // self.batch_size if self.runner.takes_all else 1  # in a run
        self.step = self.batch_size * self.num_batches
        starts = range(0, spec["num_timed"] - self.step + 1, self.step)
        self.batches = [self.runner.convert(self._pixels(start, start + self.step)) for start in starts]
        self.position = 0
        self.last_seconds = 0.0
        # Routed models compile a segment when the first image comes to it: they see all images once.
        start = time.perf_counter()
        for batch in (self.batches[0], *self.batches):
            self.runner.run(batch)
            if time.perf_counter() - start > spec["warmup_seconds"] and not spec.get("is_routed"):
                break

    def describe(self) -> dict[str, Any]:
        """Versions of what runs."""
        return {"versions": {**self.versions, **{name: version(name) for name in self.runner.packages}}}

    def visit(self, seconds: float) -> dict[str, Any]:
        """Run batch after batch for about this long."""
        if self.last_seconds < seconds / 2:
            self._run_next()  # caches hold what other contenders left there
        times: list[float] = []
        while sum(times) < seconds:
            times.append(self._run_next())
        batches = self.num_batches * len(times)
        self.last_seconds = times[-1]
        return {
            "median_ms": statistics.median(times) * 1e3 / self.num_batches,
            "mean_ms": sum(times) * 1e3 / batches,
            "num_batches": batches,
        }

    def classify(self, count: int, path: str) -> dict[str, Any]:
        """Write the logits of the first test images to a file."""
        starts = range(0, count - self.batch_size + 1, self.step)
        parts = (self._pixels(start, min(start + self.step, count)) for start in starts)
        outputs = (self.runner.run(self.runner.convert(pixels)) for pixels in parts)
        np.save(path, np.concatenate([self.runner.logits(output) for output in outputs]))
        return {}

    def _run_next(self) -> float:
        batch = self.batches[self.position]
        self.position = (self.position + 1) % len(self.batches)
        start = time.perf_counter()
        self.runner.run(batch)
        return time.perf_counter() - start

    def _pixels(self, start: int, stop: int) -> Pixels:
        return np.array(self.images[start:stop])


def main() -> None:
    # Libraries print: what stands in the log then must not stand among the answers.
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    try:
        spec = json.loads(sys.argv[1])
        session = Session(LOADERS[spec["kind"]](spec), spec)
        answers.write(json.dumps(session.describe()) + "\n")
        for line in sys.stdin:
            command = json.loads(line)
            cpu = time.process_time()
            answer = getattr(session, command.pop("do"))(**command)
            answers.write(json.dumps({**answer, "cpu_seconds": time.process_time() - cpu}) + "\n")
    except Exception as error:  # whatever a library raises becomes the reason in the table
        traceback.print_exc()
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        answers.write(json.dumps({"error": reason}) + "\n")


if __name__ == "__main__":
    main()
