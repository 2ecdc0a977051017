"""How near engines come to the model's own modules, level by level and in their decisions.

Run: `python benchmarks/agreement.py --model runs/dinov2-cifar10/model`. Real test images go along the whole
network at each level, and are routed at several lambdas. Beside the engines stands the reference itself on
images that are changed by 1e-6: where a number lies near the middle between two codes, nobody can agree
better. Writes `benchmarks/results/agreement.json` and `docs/results/agreement.md`.
"""

import argparse
import json
import os
from pathlib import Path
from typing import Any

import torch
from _timing import RESULTS, write_result
from torch import Tensor
from tqdm import tqdm
from transformers import AutoImageProcessor

from quee_hf import QuEEForImageClassification
from quee_hf.data import load_image_dataset
from quee_hf.execution.engines import ENGINES, REFERENCE
from quee_hf.tables import markdown_table

ROOT = Path(__file__).parents[1]
ASSETS = Path(os.environ.get("QUEE_ASSETS", ROOT.parent / "shared" / "assets"))
CHANGED = f"{REFERENCE}, images changed by 1e-6"
_CHANGE = 1e-6
_BATCH_SIZE = 32
Found = dict[str, tuple[Tensor, Tensor]]  # name of a route -> logits and paths


@torch.inference_mode()
def run(model: QuEEForImageClassification, pixels: Tensor, lambdas: list[float]) -> Found:
    """Run all images along every whole path of one level, and routed."""
    routes: dict[str, dict[str, Any]] = {
        f"level {level}": {"path": [level] * model.config.num_exits} for level in model.level_list
    }
    routes |= {f"routed, λ = {value:g}": {"cost_lambda": value} for value in lambdas}
    found = {}
    for name, route in tqdm(routes.items(), desc=model.engine, unit="route"):
        outputs = [model(batch, **route) for batch in pixels.split(_BATCH_SIZE)]
        found[name] = (torch.cat([o.logits for o in outputs]), torch.cat([o.path for o in outputs]))
    return found


def compare(found: Found, expected: Found) -> dict[str, dict[str, float]]:
    """Compare what was found on each route with what is right."""
    rows = {}
    for name, (logits, paths) in found.items():
        reference, right_paths = expected[name]
        same_path = (paths == right_paths).all(dim=1)
        # Decisions are those to go on at some level, or to leave, taken where both stand at the same node.
        together = torch.cat(
            [torch.ones(len(paths), 1), (paths == right_paths).cumprod(dim=1)[:, :-1]], dim=1
        )
        taken = together.bool() & torch.cat(
            [torch.ones(len(paths), 1, dtype=torch.bool), paths[:, :-1] >= 0], dim=1
        )
        rows[name] = {
            "logit_error": float((logits - reference)[same_path].norm() / reference[same_path].norm()),
            "same_class": float((logits.argmax(1) == reference.argmax(1)).float().mean()),
            "same_path": float(same_path.float().mean()),
            "same_decision": float((paths == right_paths)[taken].float().mean()),
        }
    return rows


def write_page(result: dict[str, Any], path: Path) -> None:
    """Write the numbers as a page."""
    versions = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    text = [
        "# How near engines come to the reference",
        f"Written by `python benchmarks/agreement.py` on {result['date']}, with {versions};"
        f" {result['num_images']} test images of CIFAR-10, DINOv2-S at 70 px, batches of {_BATCH_SIZE}.",
        f"The reference is the engine `{REFERENCE}`, which simulates integer levels. *Logits* differ by this"
        " share of their norm, where paths are the same. A *decision* is one gate's for one image that stands"
        " where it does in the reference: to leave, or to go on at some level. The first row of each table is"
        f" the reference's own answer to images that are changed by a random {_CHANGE:g}: where a number lies"
        " near the middle between two codes, its last digit decides, and everything after follows. The aim is"
        " that at least 99.5 % of decisions are the same.",
    ]
    for route in next(iter(result["engines"].values())):
        rows = []
        for name, routes in result["engines"].items():
            entry = routes[route]
            shares = [f"{100 * entry[key]:.2f}" for key in ("logit_error", "same_class")]
            if route.startswith("routed"):
                shares += [f"{100 * entry[key]:.2f}" for key in ("same_path", "same_decision")]
            rows.append([name, *shares])
        titles = ["", "logits differ by, %", "same class, %"]
        if route.startswith("routed"):
            titles += ["same path, %", "same decision, %"]
        text += [f"## {route[0].upper()}{route[1:]}", markdown_table(titles, rows)]
    path.write_text("\n\n".join(text) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, default=ROOT / "runs" / "dinov2-cifar10" / "model")
    parser.add_argument("--num-images", type=int, default=1000)
    parser.add_argument("--cost-lambda", type=float, nargs="+", default=[0.05, 0.2])
    arguments = parser.parse_args()
    torch.set_num_threads(2)
    model = QuEEForImageClassification.from_pretrained(arguments.model).eval()
    processor = AutoImageProcessor.from_pretrained(arguments.model, backend="pil")
    images = load_image_dataset(str(ASSETS / "cifar10" / "test.parquet")).spread(arguments.num_images)
    dataset = images.with_processor(processor)
    pixels = torch.stack([dataset[index]["pixel_values"] for index in range(len(dataset))])
    expected = run(model, pixels, arguments.cost_lambda)
    change = _CHANGE * torch.randn(pixels.shape, generator=torch.Generator().manual_seed(0))
    found = {CHANGED: compare(run(model, pixels + change, arguments.cost_lambda), expected)}
    for engine in ENGINES:
        if engine != REFERENCE:
            model.set_engine(engine)
            found[engine] = compare(run(model, pixels, arguments.cost_lambda), expected)
    write_result("agreement", {"num_images": len(pixels), "engines": found})
    result = json.loads((RESULTS / "agreement.json").read_text())
    write_page(result, ROOT / "docs" / "results" / "agreement.md")


if __name__ == "__main__":
    main()
