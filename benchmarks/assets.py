"""Build and judge QuEE models on the real models and images that `QUEE_ASSETS` points to.

Run: `python benchmarks/assets.py [dinov2-cifar10] [clip-tinyimagenet]`. Each is built with `quee build` into
`runs/`, where an interrupted run goes on. Test images are used here and nowhere else. Writes
`benchmarks/results/<name>.json`, a picture in `docs/pictures/`, a model card, and the results in the README.
"""

import argparse
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as parquet
import torch
from _results import write_readme_section
from _timing import write_result
from transformers import AutoImageProcessor, AutoModelForImageClassification, CLIPVisionModelWithProjection

from quee_hf import QuEEConfig, QuEEForImageClassification
from quee_hf.backbones.loading import open_classifier
from quee_hf.baselines.confidence import DEFAULT_THRESHOLDS, threshold_exits
from quee_hf.build.records import record_test
from quee_hf.data import load_image_dataset
from quee_hf.diagnostics.curves import area_under_curve, bootstrap_area_difference, cost_at_accuracy
from quee_hf.diagnostics.gate_quality import describe_gates
from quee_hf.diagnostics.report import (
    as_sweep,
    describe_accuracy,
    describe_exits,
    describe_routing,
    describe_uniform,
    route_images,
)
from quee_hf.diagnostics.static_paths import collect_all_outputs
from quee_hf.execution.operating_points import DEFAULT_LAMBDAS
from quee_hf.hub.card import write_card
from quee_hf.plots import plot_accuracy_cost

ROOT = Path(__file__).parents[1]
ASSETS = Path(os.environ.get("QUEE_ASSETS", ROOT.parent / "shared" / "assets"))
RUNS = ROOT / "runs"


def cifar10() -> dict[str, Any]:
    """Fine-tuned DINOv2-S; heads and ranges from seen images, gates and operating points from unseen ones."""
    images = ASSETS / "cifar10"
    return {
        "title": "DINOv2-S (70 px) on CIFAR-10",
        "recipe": "dinov2",
        "model": ASSETS / "models" / "dinov2-small-cifar10-70px",
        "train": f"{images / 'train-00.parquet'},{images / 'train-01.parquet'}",
        "validation": images / "validation.parquet",
        "test": images / "test.parquet",
        "options": [],
    }


def tinyimagenet() -> dict[str, Any]:
    """CLIP-style model against 200 class embeddings; even validation rows to fit, odd ones to test."""
    images, model = ASSETS / "tinyimagenet", ASSETS / "models" / "clip-vit-small-tinyimagenet-70px"
    rows = parquet.read_table(images / "validation.parquet")
    RUNS.mkdir(exist_ok=True)
    halves = [RUNS / "tinyimagenet-even.parquet", RUNS / "tinyimagenet-odd.parquet"]
    for parity, half in enumerate(halves):
        parquet.write_table(rows.take(list(range(parity, len(rows), 2))), half)
    return {
        "title": "CLIP-style ViT-S on Tiny ImageNet",
        "recipe": "clip",
        "model": model,
        "train": images / "train.parquet",
        "validation": halves[0],
        "test": halves[1],
        "options": [
            "--class-embeddings",
            model / "class_embeddings.safetensors",
            "--class-names",
            model / "classes.json",
        ],
    }


EXPERIMENTS = {"dinov2-cifar10": cifar10, "clip-tinyimagenet": tinyimagenet}


def build(name: str, experiment: dict[str, Any]) -> Path:
    """Run `quee build`, or what is left of it, and return the model's directory."""
    command = [Path(sys.executable).parent / "quee", "build", "--model", experiment["model"]]
    command += ["--train", experiment["train"]]
    command += ["--validation", experiment["validation"], "--recipe", experiment["recipe"]]
    command += ["--output", RUNS / name, *experiment["options"]]
    subprocess.run([str(part) for part in command], check=True)
    return RUNS / name / "model"


@torch.inference_mode()
def check_float(experiment: dict[str, Any], images: Any) -> dict[str, Any]:
    """Compare the float model wrapped at "fp32" with the HF model, on all test images."""
    options = {} if not experiment["options"] else {"class_embeddings": experiment["options"][1]}
    wrapped = QuEEForImageClassification.from_backbone(
        experiment["model"], exit_blocks=[12], levels=["fp32"], **options
    )
    if options:
        source = open_classifier(experiment["model"], options["class_embeddings"])
        tower = CLIPVisionModelWithProjection.from_pretrained(experiment["model"]).eval()

        def reference(pixels: torch.Tensor) -> torch.Tensor:
            embedding = torch.nn.functional.normalize(tower(pixels).image_embeds, dim=-1)
            return source.logit_scale * embedding @ source.class_embeddings.T
    else:
        classifier = AutoModelForImageClassification.from_pretrained(experiment["model"]).eval()

        def reference(pixels: torch.Tensor) -> torch.Tensor:
            return classifier(pixels).logits

    largest, right, reference_right = 0.0, [], []
    for batch in torch.utils.data.DataLoader(images, batch_size=64):
        ours, theirs = wrapped(batch["pixel_values"]).logits, reference(batch["pixel_values"])
        largest = max(largest, float((ours - theirs).abs().max()))
        right.append(ours.argmax(dim=-1) == batch["labels"])
        reference_right.append(theirs.argmax(dim=-1) == batch["labels"])
    return {
        "largest_logit_difference": largest,
        "wrapped": describe_accuracy(torch.cat(right)),
        "hf_model": describe_accuracy(torch.cat(reference_right)),
    }


def compare(model: QuEEForImageClassification, outputs: Any, full_accuracy: float) -> dict[str, Any]:
    """Compare routing with max-probability thresholds on the same heads at the most exact level."""
    routed = route_images(model, outputs, DEFAULT_LAMBDAS)
    correct, cost = (part.numpy() for part in as_sweep(routed)[:2])
    thresholds = threshold_exits(model.router, outputs)
    other_correct, other_cost = thresholds.is_correct.numpy(), thresholds.cost.numpy()
    curves = {
        "routed": (cost.mean(1), correct.mean(1)),
        "threshold": (other_cost.mean(1), other_correct.mean(1)),
    }
    difference, low, high = bootstrap_area_difference(correct, cost, other_correct, other_cost)
    return {
        "area": {name: area_under_curve(*curve) for name, curve in curves.items()},
        "area_difference": {"value": difference, "interval": [low, high], "resamples": 1000},
        "cost_at_drop": {
            name: {str(drop): cost_at_accuracy(*curve, full_accuracy - drop) for drop in (0.005, 0.01, 0.02)}
            for name, curve in curves.items()
        },
        "routing": [describe_routing(r, model.config.num_exits) for r in routed],
        "thresholds": [
            {"threshold": value, "cost": float(c.mean()), "accuracy": float(a.mean())}
            for value, a, c in zip(DEFAULT_THRESHOLDS, other_correct, other_cost, strict=True)
        ],
    }


def keep_card(config: QuEEConfig, result: dict[str, Any], source: Path, folder: Path) -> None:
    """Write a built model's card, with what was measured on test images, and the config it comes from."""
    record_test(config, str(source), result["num_test_images"], result["routing"])
    config.save_pretrained(folder)
    write_card(folder, config)


def draw(result: dict[str, Any]) -> None:
    """Draw a result's accuracy over cost."""
    intervals = np.array([point["accuracy_interval"] for point in result["routing"]]).T
    routed = [[point[field] for point in result["routing"]] for field in ("cost", "accuracy")]
    threshold = [[point[field] for point in result["thresholds"]] for field in ("cost", "accuracy")]
    plot_accuracy_cost(
        {
            "QuEE, routed by λ": (*routed, tuple(intervals)),
            "max-probability threshold, 8 bits": (*threshold, None),
        },
        {
            f"whole network at {point['path'][0]} bits": (point["cost"], point["accuracy"])
            for point in result["whole_network"]
        },
        ROOT / "docs" / "pictures" / f"{result['name']}.png",
        result["title"],
    )


def judge(name: str, experiment: dict[str, Any]) -> None:
    """Build one model, measure it on its test images, and write the result and its picture."""
    directory = build(name, experiment)
    model = QuEEForImageClassification.from_pretrained(directory)
    processor = AutoImageProcessor.from_pretrained(directory, backend="pil")
    images = load_image_dataset(str(experiment["test"]))
    test = images.with_processor(processor)
    outputs = collect_all_outputs(model, test)
    uniform = describe_uniform(model, outputs.uniform)
    full_accuracy = uniform[0]["accuracy"]
    result = {
        "name": name,
        "title": experiment["title"],
        "num_test_images": len(test),
        "test_fingerprint": images.fingerprint,
        "float": check_float(experiment, test),
        "whole_network": uniform,
        "exits": describe_exits(model, outputs.routable),
        "gates": describe_gates(model, outputs.routable),
        **compare(model, outputs.routable, full_accuracy),
        "roles": model.config.record["roles"],
    }
    write_result(name, result)
    draw(result)
    keep_card(model.config, result, experiment["test"], ROOT / "model_cards" / f"quee-{name}")


def chosen_names(description: str | None) -> list[str]:
    """Read the names of experiments from the command line; all if there are none."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"some of {list(EXPERIMENTS)}; all if none")
    names = parser.parse_args().names or list(EXPERIMENTS)
    if unknown := set(names) - set(EXPERIMENTS):
        parser.error(f"{sorted(unknown)} is none of {list(EXPERIMENTS)}")
    return names


def main() -> None:
    for name in chosen_names(__doc__):
        judge(name, EXPERIMENTS[name]())
    write_readme_section(ROOT / "README.md")


if __name__ == "__main__":
    main()
