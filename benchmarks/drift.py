"""How often `DriftMonitor` takes chance for drift on real images, and how often it sees drift.

Run: `python benchmarks/drift.py RUN`, where `quee build` has made RUN. The images are those that the build
kept for operating points: one half makes the reference, windows are drawn from the other. Test images are
only reported. Writes `benchmarks/results/drift.json` and `docs/results/drift.md`.
"""

import argparse
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _shifted import MILD_SHIFTS, SHIFTS, pixels_of
from _timing import RESULTS, write_result
from by_time import rows_of
from transformers import AutoImageProcessor

from quee_hf import (
    DriftMonitor,
    QuEEForImageClassification,
    QuEEImageClassifierOutput,
    record_drift_reference,
)
from quee_hf.build.stages import load_outputs
from quee_hf.data import load_image_dataset
from quee_hf.data.roles import OPERATING_POINTS
from quee_hf.execution.path_outputs import PathOutputs, replay
from quee_hf.intervals import wilson_interval
from quee_hf.tables import markdown_table

ROOT = Path(__file__).parents[1]
ASSETS = Path(os.environ.get("QUEE_ASSETS", ROOT.parent / "shared" / "assets"))
RATES = (0.01, 0.05)
SPLITS = 100
WINDOWS = (100, 200, 500)
DRAWS = 100
COST_LAMBDA = 0.1
_BATCH_SIZE = 64


def routed(model: Any, outputs: PathOutputs, lambdas: torch.Tensor) -> QuEEImageClassifierOutput:
    """Return what a forward would, of images whose outputs are known."""
    routes, router = replay(model, outputs, lambdas), model.router
    exits = (router.path_rows[routes.node.numpy()] >= 0).sum(axis=1) - 1
    return QuEEImageClassifierOutput(
        logits=routes.logits,
        exit_index=torch.from_numpy(exits),
        error_probability=routes.error,
        cost_lambda=routes.cost_lambda,
    )


def lambdas_of(kind: str, count: int, random: np.random.Generator) -> torch.Tensor:
    """Return a lambda for each image: one for all, or each another."""
    if kind == "one lambda":
        return torch.full((count,), COST_LAMBDA)
    return torch.from_numpy(np.exp(random.uniform(np.log(0.005), np.log(1.0), count))).float()


def false_alarms(model: Any, outputs: PathOutputs) -> list[dict[str, Any]]:
    """Divide images at random, many times over, into a reference and a window."""
    counts = {(kind, rate): 0 for kind in ("one lambda", "a lambda for each image") for rate in RATES}
    half = len(outputs) // 2
    for seed in range(SPLITS):
        random = np.random.default_rng(seed)
        order = torch.from_numpy(random.permutation(len(outputs)))
        record_drift_reference(model, outputs.select(order[:half]))
        window = outputs.select(order[half : half + WINDOWS[-1]])
        for kind, rate in counts:
            output = routed(model, window, lambdas_of(kind, len(window), random))
            monitor = DriftMonitor(model, window=len(window), false_alarm_rate=rate, seed=seed)
            monitor.observe(output)
            counts[kind, rate] += bool(monitor.report()["is_drifted"])
    rows = [
        {
            "kind": kind,
            "rate": rate,
            "found": count / SPLITS,
            "interval": list(wilson_interval(count, SPLITS)),
        }
        for (kind, rate), count in counts.items()
    ]
    print(rows, flush=True)
    return rows


@torch.inference_mode()
def run(model: Any, pixels: torch.Tensor) -> QuEEImageClassifierOutput:
    """Classify images at one lambda."""
    outputs = [model(batch, cost_lambda=COST_LAMBDA) for batch in pixels.split(_BATCH_SIZE)]
    names = ("logits", "exit_index", "error_probability", "cost_lambda", "cost")
    return QuEEImageClassifierOutput(**{name: torch.cat([each[name] for each in outputs]) for name in names})


def select(output: QuEEImageClassifierOutput, rows: torch.Tensor) -> QuEEImageClassifierOutput:
    return QuEEImageClassifierOutput(**{name: value[rows] for name, value in output.items()})


def power(model: Any, images: Any, processor: Any) -> list[dict[str, Any]]:
    """Draw windows of shifted images, and count how many are reported."""
    rows, labels = [], torch.tensor(np.array(images.labels))
    for kind, shift in {**SHIFTS, **MILD_SHIFTS}.items():
        pixels = pixels_of(images, processor, shift)
        output = run(model, pixels)
        row: dict[str, Any] = {
            "kind": kind,
            "accuracy": float((output.logits.argmax(dim=1) == labels).double().mean()),
            "cost": float(output.cost.double().mean()),
            "reported": {},
        }
        for window in WINDOWS:
            found = 0
            for seed in range(DRAWS):
                chosen = torch.from_numpy(np.random.default_rng(seed).permutation(len(images))[:window])
                monitor = DriftMonitor(model, window=window, seed=seed)
                monitor.observe(select(output, chosen))
                found += bool(monitor.report()["is_drifted"])
            row["reported"][str(window)] = found / DRAWS
        watched = DriftMonitor(model, window=len(images), shadow_share=0.2)
        with torch.inference_mode():
            for batch in pixels.split(_BATCH_SIZE):
                watched(batch, cost_lambda=COST_LAMBDA)
        report = watched.report()
        row |= {"psi": {name: shift.psi for name, shift in report["shifts"].items()}}
        row["agreement"] = report["agreement"]
        rows.append(row)
        print(row, flush=True)
    return rows


def on_test_images(model: Any, processor: Any) -> dict[str, Any]:
    """Watch test images, which played no role, in windows."""
    test = load_image_dataset(str(ASSETS / "cifar10" / "test.parquet"))
    order = np.random.default_rng(0).permutation(len(test))
    monitor = DriftMonitor(model, window=WINDOWS[-1])
    monitor.observe(run(model, pixels_of(test.select(order), processor, SHIFTS["clean"])))
    report = monitor.report()
    return {"num_windows": report["num_windows"], "num_drifted": report["num_drifted"]}


def write_page(result: dict[str, Any], path: Path) -> None:
    test = result["test"]
    text = [
        "# Drift",
        f"Written by `python benchmarks/drift.py` on {result['date']}, with torch"
        f" {result['versions']['torch']}.",
        f"DINOv2-S at 70 px on CIFAR-10, engine `{result['engine']}`; {result['num_images']} validation"
        " images that measured the operating points, of which one half is the reference and windows are"
        f" drawn from the other; λ = {COST_LAMBDA:g} where nothing else is said.",
        "## False alarms",
        f"{SPLITS} random divisions, each with a reference and a window of {WINDOWS[-1]} images of its own; λ"
        " for each image is drawn from 0.005 to 1.",
        markdown_table(
            ["λ", "asked for, at most", "found", "95 %"],
            [
                [
                    row["kind"],
                    f"{row['rate']:g}",
                    f"{row['found']:g}",
                    "{:.3f} to {:.3f}".format(*row["interval"]),
                ]
                for row in result["false_alarms"]
            ],
        ),
        f"Of {test['num_windows']} windows of {WINDOWS[-1]} test images, {test['num_drifted']} were reported,"
        " at a rate of 0.01.",
        "## Drift that is seen",
        "How many of the windows are reported, by their size, at a rate of 0.01; stability indices and"
        " agreement with the whole network (a fifth of the images as shadows) on all images of the half.",
        markdown_table(
            [
                *("images", "accuracy, %", "cost", *(f"{size}, %" for size in WINDOWS)),
                *("exit", "error", "confidence", "agreement, % (expected)"),
            ],
            [_cells(row) for row in result["power"]],
        ),
    ]
    path.write_text("\n\n".join(text) + "\n", encoding="utf-8")


def _cells(row: dict[str, Any]) -> list[str]:
    agreement = row["agreement"]
    return [
        row["kind"],
        f"{100 * row['accuracy']:.1f}",
        f"{row['cost']:.3f}",
        *(f"{100 * row['reported'][str(size)]:.0f}" for size in WINDOWS),
        *(f"{row['psi'][name]:.2f}" for name in ("exit", "error", "confidence")),
        f"{100 * agreement['share']:.1f} ({100 * agreement['expected']:.1f})",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path)
    parser.add_argument("--engine", default="openvino")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    model = QuEEForImageClassification.from_pretrained(arguments.run / "model").eval()
    model.set_engine(arguments.engine)
    processor = AutoImageProcessor.from_pretrained(arguments.run / "model", backend="pil")
    rows = rows_of(arguments.run, OPERATING_POINTS)
    outputs = load_outputs(arguments.run / "stages" / "5-path-outputs")[0].select(torch.tensor(rows))
    images = load_image_dataset(str(ASSETS / "cifar10" / "validation.parquet")).select(rows)
    found = {"false_alarms": false_alarms(model, outputs)}
    order = np.random.default_rng(0).permutation(len(rows))
    half = len(rows) // 2
    record_drift_reference(model, outputs.select(torch.from_numpy(order[:half])))
    found |= {"power": power(model, images.select(order[half:]), processor)}
    result = {
        "engine": model.engine,
        "num_images": len(rows),
        **found,
        "test": on_test_images(model, processor),
    }
    write_result("drift", result)
    write_page(json.loads((RESULTS / "drift.json").read_text()), ROOT / "docs" / "results" / "drift.md")


if __name__ == "__main__":
    main()
