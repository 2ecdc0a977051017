"""What quantizing costs: file sizes, load times, and time and memory of calibration.

Run: `python benchmarks/quantization_cost.py`. Writes `benchmarks/results/quantization_cost.json` and a table
in `docs/quantization.md`. Calibrations run in processes of their own, one after the other, with 2 threads.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from _results import write_section
from _timing import interleaved_ms, ratio, spread, write_result
from assets import EXPERIMENTS, ROOT
from tqdm import tqdm
from transformers import AutoImageProcessor, Dinov2Config, Dinov2ForImageClassification
from transformers.utils import logging

from quee_hf import QuEEForImageClassification, quantize
from quee_hf.data import load_image_dataset

THREADS = 2
EXITS = [4, 6, 8, 10, 12]
DINOV2_SMALL = {"width": 384, "num_blocks": 12, "image_size": 70}
# What is varied, one thing at a time, from the case that the others are compared with.
BASE: dict[str, Any] = {**DINOV2_SMALL, "method": "repq", "num_images": 128, "levels": [8, 7, 6]}
CASES: list[dict[str, Any]] = [
    {**BASE, **change}
    for change in (
        {},
        {"num_images": 32},
        {"levels": [8]},
        {"levels": [8, 7, 6, 5, 4]},
        {"width": 768},
        {"image_size": 140},
        {"method": "ptq4vit"},
        {"method": "ptq4vit", "num_images": 32},
        {"method": "ptq4vit", "levels": [8]},
    )
]


def real_images(count: int) -> torch.Tensor:
    """Return calibration images of the real model."""
    experiment = EXPERIMENTS["dinov2-cifar10"]()
    processor = AutoImageProcessor.from_pretrained(experiment["model"], backend="pil")
    images = load_image_dataset(str(experiment["train"])).with_processor(processor)
    return torch.stack([images[index]["pixel_values"] for index in range(count)])


def calibrate(case: dict[str, Any]) -> None:
    """Quantize once and print seconds and peak memory; runs in a process of its own."""
    torch.set_num_threads(THREADS)
    torch.manual_seed(0)
    if {name: case[name] for name in DINOV2_SMALL} == DINOV2_SMALL:
        model = QuEEForImageClassification.from_backbone(
            EXPERIMENTS["dinov2-cifar10"]()["model"], exit_blocks=EXITS, levels=case["levels"]
        )
        images = real_images(case["num_images"])
    else:
        size = {"image_size": case["image_size"], "patch_size": 14, "num_labels": 10}
        width = {"hidden_size": case["width"], "num_attention_heads": case["width"] // 64}
        backbone = Dinov2ForImageClassification(Dinov2Config(**size, **width))
        model = QuEEForImageClassification.from_backbone(backbone, exit_blocks=EXITS, levels=case["levels"])
        images = torch.randn(case["num_images"], 3, case["image_size"], case["image_size"])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.perf_counter()
    quantize(model, images, method=case["method"])
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(json.dumps({"seconds": seconds, "peak_gib": peak / 2**20, "before_gib": before / 2**20}))


def measure_calibration(case: dict[str, Any]) -> dict[str, Any]:
    """Run one case in a process of its own."""
    command = [sys.executable, __file__, "--case", json.dumps(case)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    return {**case, **json.loads(done.stdout.splitlines()[-1])}


def measure_files(folder: Path) -> dict[str, Any]:
    """Compare sizes and load times of saved models with the float32 model's."""
    source, images = EXPERIMENTS["dinov2-cifar10"]()["model"], real_images(4)
    kinds: dict[str, tuple[list[Any], str]] = {
        "float32": (["fp32"], "independent"),
        "nested 8 7 6": ([8, 7, 6], "nested"),
        "independent 8 6": ([8, 6], "independent"),
        "independent 8 7 6": ([8, 7, 6], "independent"),
    }
    for name, (levels, sharing) in kinds.items():
        model = QuEEForImageClassification.from_backbone(source, exit_blocks=EXITS, levels=levels)
        if levels != ["fp32"]:
            quantize(model, images, weight_sharing=sharing)
        model.save_pretrained(folder / name)
    sizes = {name: (folder / name / "model.safetensors").stat().st_size for name in kinds}
    times = interleaved_ms(
        {name: lambda name=name: QuEEForImageClassification.from_pretrained(folder / name) for name in kinds},
        repeats=15,
    )
    return {
        name: {
            "bytes": sizes[name],
            "of_float32": sizes[name] / sizes["float32"],
            "load_ms": spread(times[name]),
            "load_over_float32": ratio(times[name], times["float32"]),
        }
        for name in kinds
    }


def describe(files: dict[str, Any], cases: list[dict[str, Any]], context: dict[str, Any]) -> str:
    """Write the results as Markdown."""
    lines = [
        "| file of the DINOv2-S asset, 5 exits | size / float32 | load time / float32, median (spread) |",
        "|---|---|---|",
    ]
    for name, row in files.items():
        load = row["load_over_float32"]
        spread_of_load = f"{load['median']:.2f} ({load['low']:.2f} to {load['high']:.2f})"
        lines.append(f"| {name} | {row['of_float32']:.3f} | {spread_of_load} |")
    lines += [
        "",
        "| method | width | image | images | levels | seconds | peak GiB (before) |",
        "|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {case['method']} | {case['width']} | {case['image_size']} px | {case['num_images']} |"
        f" {' '.join(map(str, case['levels']))} | {case['seconds']:.0f} |"
        f" {case['peak_gib']:.2f} ({case['before_gib']:.2f}) |"
        for case in cases
    ]
    return "\n".join([*lines, "", f"{context['threads']} threads; other work may have run beside."])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--case", type=json.loads, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.case is not None:
        calibrate(arguments.case)
        return
    torch.set_num_threads(THREADS)
    logging.disable_progress_bar()
    with tempfile.TemporaryDirectory() as folder:
        files = measure_files(Path(folder))
    cases = [measure_calibration(case) for case in tqdm(CASES, desc="Calibrating", unit="case")]
    write_result("quantization_cost", {"files": files, "calibration": cases})
    text = describe(files, cases, {"threads": THREADS})
    command = "python benchmarks/quantization_cost.py"
    write_section(ROOT / "docs" / "quantization.md", text, command=command, name="cost")


if __name__ == "__main__":
    main()
