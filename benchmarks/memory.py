"""Memory of a routed model by engine, levels and whether the model keeps its weights beside the engine.

Run: `python benchmarks/memory.py`, on Linux. Builds DINOv2-S models from what `QUEE_ASSETS` points to, and
measures each configuration in processes of its own. Writes `benchmarks/results/memory.json`,
`docs/results/memory.md` and a picture. Exits and gates are not trained: memory does not depend on what they
say.
"""

import argparse
import ctypes
import gc
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

import torch
from _memory_report import write_page
from _timing import write_result
from assets import ASSETS

from quee_hf import QuEEForImageClassification, quantize
from quee_hf.data import load_image_dataset
from quee_hf.execution.engines import ENGINES, REFERENCE

ROOT = Path(__file__).parents[1]
EXIT_BLOCKS = [3, 5, 7, 9, 12]
LEVELS = {"8": [8], "8-bf16": ["bf16", 8], "8-6-5": [8, 6, 5]}
KEEP = {"*.scores": "fp32", "*.mix": "fp32"}  # as the recipe has it
NUM_CALIBRATION, BATCH_SIZE, NUM_BATCHES, THREADS = 16, 8, 20, 2
LAMBDAS = [0.0, 0.02, 0.05, 0.1, 0.2, 0.5]
PAUSE = 0.002  # seconds between two looks at a process


def build(folder: Path) -> None:
    """Save a model for each set of levels, a tiny one of the same kind, and images."""
    from transformers import AutoImageProcessor, Dinov2Config, Dinov2ForImageClassification

    source = ASSETS / "models" / "dinov2-small-cifar10-70px"
    processor = AutoImageProcessor.from_pretrained(source, backend="pil")
    rows = load_image_dataset(str(ASSETS / "cifar10" / "train-00.parquet")).spread(NUM_CALIBRATION)
    images = processor([rows[i]["image"] for i in range(NUM_CALIBRATION)], return_tensors="pt")
    pixels = images["pixel_values"]
    torch.save(pixels[:BATCH_SIZE], folder / "pixels.pt")
    tiny = Dinov2ForImageClassification(
        Dinov2Config(
            hidden_size=32, num_hidden_layers=12, num_attention_heads=2, image_size=70, num_labels=10
        )
    )
    for name, levels in LEVELS.items():
        for size, backbone in (("small", source), ("tiny", tiny.eval())):
            torch.manual_seed(0)
            model = QuEEForImageClassification.from_backbone(backbone, exit_blocks=EXIT_BLOCKS, levels=levels)
            quantize(model, pixels, keep=KEEP)
            model.config.trained_parts = ["gates", "heads"]
            model.save_pretrained(folder / f"{size}-{name}")


def resident() -> dict[str, float]:
    """Return what this process has in memory, in MB: all of it, and what is not of files."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    lines = (line.split() for line in Path("/proc/self/smaps_rollup").read_text().splitlines()[1:])
    sizes = {parts[0]: int(parts[1]) * 1024 / 1e6 for parts in lines}
    return {"all": sizes["Rss:"], "anonymous": sizes["Anonymous:"]}


def status(process: int | str, field: str) -> float:
    """Return a size from a process's status, in MB."""
    text = Path(f"/proc/{process}/status").read_text()
    return next(int(line.split()[1]) * 1024 / 1e6 for line in text.splitlines() if line.startswith(field))


def reset_peak() -> None:
    """Start measuring the highest resident size anew."""
    Path("/proc/self/clear_refs").write_text("5")


def load(path: Path, engine: str, keep_weights: bool) -> QuEEForImageClassification:
    """Load a model and choose its engine."""
    model = QuEEForImageClassification.from_pretrained(path)
    model.set_engine(engine, keep_weights=keep_weights)
    return model


def prepare(model: QuEEForImageClassification, pixels: torch.Tensor) -> None:
    """Run every segment at every level that routing may choose, once."""
    model(pixels, cost_lambda=0.1, output_all_paths=True)


def serve(model: QuEEForImageClassification, pixels: torch.Tensor) -> None:
    """Route batches at several lambdas."""
    for number in range(NUM_BATCHES):
        model(pixels, cost_lambda=LAMBDAS[number % len(LAMBDAS)])


@torch.inference_mode()
def measure(folder: Path, name: str, engine: str, keep_weights: bool) -> None:
    """Print, as lines of JSON, when a phase begins and at last what was measured above an idle process."""
    torch.set_num_threads(THREADS)
    pixels = torch.load(folder / "pixels.pt")
    tiny = load(folder / f"tiny-{name}", engine, keep_weights)
    prepare(tiny, pixels)
    serve(tiny, pixels)
    del tiny
    idle = resident()
    result: dict[str, Any] = {"idle": idle}
    reset_peak()
    print(json.dumps({"phase": "preparing"}), flush=True)
    model = load(folder / f"small-{name}", engine, keep_weights)
    prepare(model, pixels)
    result["preparing"] = status("self", "VmHWM") - idle["all"]
    resident()
    reset_peak()
    print(json.dumps({"phase": "serving"}), flush=True)
    serve(model, pixels)
    result["serving"] = status("self", "VmHWM") - idle["all"]
    now = resident()
    result["resident"] = {kind: now[kind] - idle[kind] for kind in idle}
    print(json.dumps(result), flush=True)


class Watch(threading.Thread):
    """Follows the memory of a process that is not of files, and keeps the most in each phase."""

    def __init__(self, process: int) -> None:
        super().__init__(daemon=True)
        self._process, self.phase = process, ""
        self.highest: dict[str, float] = {}

    def run(self) -> None:
        """Look until the process has ended."""
        try:
            while True:
                phase, now = self.phase, status(self._process, "RssAnon")
                self.highest[phase] = max(now, self.highest.get(phase, 0.0))
                time.sleep(PAUSE)
        except (OSError, StopIteration):  # ended; what has ended but was not waited for has no such line
            return


def run(folder: Path, name: str, engine: str, keep_weights: bool) -> dict[str, float]:
    """Measure a configuration in a process of its own; sizes in MB above that process when idle."""
    command = [sys.executable, __file__, "--measure", str(folder), name, engine, str(int(keep_weights))]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        watch = Watch(process.pid)
        watch.start()
        result: dict[str, Any] = {}
        assert process.stdout is not None
        for line in process.stdout:
            result = json.loads(line)
            watch.phase = result.get("phase", "")
    if process.returncode:
        raise RuntimeError(f"{command} failed.")
    idle = result["idle"]["anonymous"]
    return {
        "resident": result["resident"]["all"],
        "resident_anonymous": result["resident"]["anonymous"],
        "peak_preparing": result["preparing"],
        "peak_preparing_anonymous": watch.highest["preparing"] - idle,
        "peak_serving": result["serving"],
    }


def on_paper(path: Path) -> dict[str, float]:
    """Return the bytes of a model's weights, in MB: codes of each level, bfloat16, and the rest."""
    sizes = {"codes": 0.0, "bf16": 0.0, "rest": 0.0}
    for name, tensor in QuEEForImageClassification.from_pretrained(path).state_dict().items():
        kind = "bf16" if tensor.dtype == torch.bfloat16 else "rest"
        sizes["codes" if ".codes_" in name else kind] += tensor.nbytes / 1e6
    return {**sizes, "all": sum(sizes.values())}


def measure_all(folder: Path, rounds: int) -> dict[str, Any]:
    """Measure every configuration; medians over rounds."""
    build(folder)
    rows = []
    for name in LEVELS:
        paper = on_paper(folder / f"small-{name}")
        for engine in ENGINES:
            for keep_weights in (True, False) if engine != REFERENCE else (True,):
                found = [run(folder, name, engine, keep_weights) for _ in range(rounds)]
                sizes = {field: median(one[field] for one in found) for field in found[0]}
                row = {"levels": LEVELS[name], "engine": engine, "keeps_weights": keep_weights}
                ratio = sizes["peak_serving"] / paper["all"]
                rows.append({**row, "weights_mb": paper, "mb": sizes, "serving_over_weights": ratio})
                print(rows[-1])
    return {
        "model": "DINOv2-S, 70 px, exits after blocks 3, 5, 7, 9, 12",
        "batch_size": BATCH_SIZE,
        "rounds": rounds,
        "engine_versions": {name: version(name) for name in ("onnxruntime", "openvino")},
        "rows": rows,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3, help="processes of each configuration")
    parser.add_argument("--measure", nargs=4, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        folder, name, engine, keep_weights = arguments.measure
        measure(Path(folder), name, engine, keep_weights == "1")
        return
    torch.set_num_threads(THREADS)
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    with tempfile.TemporaryDirectory() as folder:
        write_result("memory", measure_all(Path(folder), arguments.rounds))
    write_page(
        json.loads((ROOT / "benchmarks" / "results" / "memory.json").read_text()), ROOT / "docs" / "results"
    )


if __name__ == "__main__":
    main()
