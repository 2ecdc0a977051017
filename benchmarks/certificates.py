"""What can be certified on real images, and what it comes to on test images.

Run: `python benchmarks/certificates.py [dinov2-cifar10] [clip-tinyimagenet]`. Takes the models that
`assets.py` builds into `runs/`, or builds them; measures what their parts cost in time; certifies with the
images that a build keeps for operating points; and then routes test images, which played no role in anything,
at each lambda that was certified. Writes `benchmarks/results/certificates.json` and
`docs/results/certificates.md`.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _timing import RESULTS, write_result
from assets import EXPERIMENTS, ROOT, RUNS, build, chosen_names
from by_time import make, rows_of
from transformers import AutoImageProcessor

from quee_hf import QuEEForImageClassification
from quee_hf.certificates import CONFIDENCE
from quee_hf.certification import Promise, certify_outputs
from quee_hf.data import load_image_dataset
from quee_hf.data.roles import OPERATING_POINTS
from quee_hf.execution.path_outputs import collect_path_outputs
from quee_hf.intervals import wilson_interval
from quee_hf.tables import markdown_table

LIMITS = (0.005, 0.01, 0.02)
WAYS = (("accuracy", "betting"), ("accuracy", "hoeffding_bentkus"), ("consistency", "betting"))
ENGINE, THREADS = "openvino", 2
_BATCH_SIZE = 32


@torch.inference_mode()
def classify(model: QuEEForImageClassification, batches: list[torch.Tensor], **how: Any) -> tuple[Any, float]:
    """Return the classes of images, and their mean cost."""
    outputs = [model(batch, **how) for batch in batches]
    classes = torch.cat([output.logits.argmax(dim=1) for output in outputs]).numpy()
    return classes, float(torch.cat([output.cost for output in outputs]).double().mean())


def measure(run: Path, experiment: dict[str, Any]) -> dict[str, Any]:
    """Certify, and route test images."""
    model = make(run, RUNS / "by-time" / run.name, ENGINE, THREADS)
    processor = AutoImageProcessor.from_pretrained(run / "model", backend="pil")
    images = load_image_dataset(str(experiment["validation"])).select(rows_of(run, OPERATING_POINTS))
    outputs = collect_path_outputs(model.network, images.with_processor(processor), batch_size=_BATCH_SIZE)
    test = load_image_dataset(str(experiment["test"]))
    dataset = test.with_processor(processor)
    pixels = torch.stack([dataset[index]["pixel_values"] for index in range(len(dataset))])
    batches, labels = list(pixels.split(_BATCH_SIZE)), np.array(test.labels)
    whole, full_cost = classify(model, batches, path=[model.level_list[0]] * model.config.num_exits)
    rows = []
    for kind, method in WAYS:
        promise = Promise(kind, CONFIDENCE, method)
        certified = certify_outputs(model, outputs, promise, LIMITS, images.fingerprint)
        for limit, found in zip(LIMITS, certified, strict=True):
            row = {"promise": kind, "method": method, "limit": limit, "needed": found.images_needed}
            if found.certificate is not None:
                value = found.certificate["cost_lambda"]
                classes, cost = classify(model, batches, cost_lambda=value)
                row |= {
                    "cost_lambda": value,
                    "observed": found.certificate["observed"],
                    "drop": float((whole == labels).mean() - (classes == labels).mean()),
                    "differing": float((classes != whole).mean()),
                    "saved": 1 - cost / full_cost,
                }
            rows.append(row)
            print(row, flush=True)
    right = int((whole == labels).sum())
    return {
        "name": run.name,
        "title": experiment["title"],
        "num_images": len(images),
        "num_test": len(labels),
        "whole": [right / len(labels), *wilson_interval(right, len(labels))],
        "rows": rows,
    }


def write_page(result: dict[str, Any], path: Path) -> None:
    """Write the numbers as a page."""
    text = [
        "# Certificates on real images",
        f"Written by `python benchmarks/certificates.py` on {result['date']}, with torch"
        f" {result['versions']['torch']}; engine `{ENGINE}`, costs by the time that parts take on {THREADS}"
        " threads.",
        f"Certified with {CONFIDENCE:.0%} confidence from validation images that trained nothing; then routed"
        " on test images. *Drop* is what routing loses there against the whole network, in points;"
        " *differing* is how many get another class; *saved* is cost. Where nothing is certified, about as"
        " many images like these as are named would do.",
    ]
    for each in result["models"]:
        accuracy, low, high = (f"{100 * value:.2f}" for value in each["whole"])
        columns = ["promise", "method", "at most", "λ", "lost where certified", "drop", "differing, %"]
        text += [
            f"## {each['title']}",
            f"{each['num_images']} validation images; {each['num_test']} test images, of which the whole"
            f" network classifies {accuracy} % ({low} to {high}).",
            markdown_table([*columns, "saved, %"], [_cells(row) for row in each["rows"]]),
        ]
    path.write_text("\n\n".join(text) + "\n", encoding="utf-8")


def _cells(row: dict[str, Any]) -> list[str]:
    first = [row["promise"], row["method"], f"{100 * row['limit']:g}"]
    if "cost_lambda" not in row:
        needed = row["needed"]
        return [*first, f"none: {needed} images" if needed else "none", "", "", "", ""]
    numbers = [f"{100 * row[name]:.2f}" for name in ("observed", "drop", "differing")]
    return [*first, f"{row['cost_lambda']:g}", *numbers, f"{100 * row['saved']:.1f}"]


def main() -> None:
    models = []
    for name in chosen_names(__doc__):
        experiment = EXPERIMENTS[name]()
        if not (RUNS / name / "model").is_dir():
            build(name, experiment)
        models.append(measure(RUNS / name, experiment))
    write_result("certificates", {"models": models})
    result = json.loads((RESULTS / "certificates.json").read_text())
    write_page(result, ROOT / "docs" / "results" / "certificates.md")


if __name__ == "__main__":
    main()
