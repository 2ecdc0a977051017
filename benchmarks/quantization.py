"""Accuracy of every quantization method at every bit-width, on the real models and images.

Run: `python benchmarks/quantization.py`. Every combination of model, method and seed is kept in
`runs/quantization/` once it is done, so an interrupted run goes on. A seed draws 128 calibration images
from the training images. Test images are used here and nowhere else. Writes
`benchmarks/results/quantization.json`, `docs/pictures/quantization.png`, and tables in
`docs/quantization.md`.
"""

from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
from _results import write_section
from _timing import write_result
from assets import EXPERIMENTS, ROOT, RUNS
from tqdm import tqdm
from transformers import AutoImageProcessor, AutoModelForImageClassification, CLIPVisionModelWithProjection

from quee_hf import QuEEForImageClassification, quantize
from quee_hf.backbones.loading import open_classifier
from quee_hf.data import load_image_dataset

LEVELS = [8, 7, 6, 5, 4]
SEEDS = (0, 1, 2)
NUM_IMAGES = 128
THREADS = 2
BATCH_SIZE = 50
METHODS: dict[str, dict[str, Any]] = {
    "min_max": {"method": "min_max"},
    "mse": {"method": "mse"},
    "torch_dynamic": {"method": "torch_dynamic"},
    "ptq4vit": {"method": "ptq4vit"},
    "ptq4vit, as_coded": {"method": "ptq4vit", "gradient_source": "as_coded"},
    "ptq4vit, perturbed": {"method": "ptq4vit", "gradient_source": "perturbed"},
    "repq": {"method": "repq"},
    "repq, ridge": {"method": "repq", "ridge": 0.01},
    "repq, log": {"method": "repq", "log": True},
}
# Measured with one draw of images only.
EXTRAS: dict[str, dict[str, Any]] = {
    "repq, nested": {"method": "repq", "weight_sharing": "nested"},
    "mse, smoothquant": {"method": "mse", "smoothing": "search"},
}
FLOAT, TORCH_AO = "float32", "torch.ao, batch 50"
CELLS = RUNS / "quantization"
DOCUMENT = ROOT / "docs" / "quantization.md"
PICTURE = ROOT / "docs" / "pictures" / "quantization.png"


def wrap(experiment: dict[str, Any]) -> QuEEForImageClassification:
    """Wrap an asset's model with no exit but its own."""
    embeddings = {"class_embeddings": experiment["options"][1]} if experiment["options"] else {}
    return QuEEForImageClassification.from_backbone(
        experiment["model"], exit_blocks=[12], levels=LEVELS, **embeddings
    )


@cache
def read(name: str) -> tuple[dict[str, Any], Any, torch.Tensor, torch.Tensor]:
    """Return an experiment, its training images, and its test images and their labels as tensors."""
    experiment = EXPERIMENTS[name]()
    processor = AutoImageProcessor.from_pretrained(experiment["model"], backend="pil")
    train = load_image_dataset(str(experiment["train"])).with_processor(processor)
    test = load_image_dataset(str(experiment["test"])).with_processor(processor)
    items = [test[index] for index in range(len(test))]
    pixels = torch.stack([item["pixel_values"] for item in items])
    return experiment, train, pixels, torch.tensor([int(item["labels"]) for item in items])


@torch.inference_mode()
def hits(
    classify: Callable[[torch.Tensor], torch.Tensor], pixels: torch.Tensor, labels: torch.Tensor
) -> np.ndarray:
    """Tell which images are classified correctly."""
    guesses = [classify(batch).argmax(dim=-1) for batch in pixels.split(BATCH_SIZE)]
    return (torch.cat(guesses) == labels).numpy()


def stock_classifier(experiment: dict[str, Any]) -> Callable[[torch.Tensor], torch.Tensor]:
    """Return the HF model itself, its linear layers but the head quantized by PyTorch."""
    quantizable = {torch.nn.Linear}
    if not experiment["options"]:
        model = AutoModelForImageClassification.from_pretrained(experiment["model"]).eval()
        head = model.classifier
        model = torch.ao.quantization.quantize_dynamic(model, quantizable, dtype=torch.qint8)
        model.classifier = head
        return lambda pixels: model(pixels).logits
    source = open_classifier(experiment["model"], experiment["options"][1])
    tower = CLIPVisionModelWithProjection.from_pretrained(experiment["model"]).eval()
    projection = tower.visual_projection
    tower = torch.ao.quantization.quantize_dynamic(tower, quantizable, dtype=torch.qint8)
    tower.visual_projection = projection
    return lambda pixels: (
        torch.nn.functional.normalize(tower(pixels).image_embeds, dim=-1) @ source.class_embeddings.T
    )


def cell_path(name: str, method: str, seed: int) -> Path:
    words = "-".join(method.replace(",", "").replace(".", "").split())
    return CELLS / f"{name}-{words}-{seed}.npz"


def measure(name: str, method: str, seed: int) -> None:
    """Quantize one model with one method and one draw of images, and keep which test images it gets right."""
    experiment, train, pixels, labels = read(name)
    found: dict[str, np.ndarray] = {}
    if method == FLOAT:
        model = wrap(experiment)
        model.config.levels = ["fp32"]
        found["32"] = hits(lambda batch: model(batch).logits, pixels, labels)
    elif method == TORCH_AO:
        found["8"] = hits(stock_classifier(experiment), pixels, labels)
    else:
        model = wrap(experiment)
        rows = np.random.default_rng(seed).permutation(len(train))[:NUM_IMAGES]
        images = torch.stack([train[int(row)]["pixel_values"] for row in rows])
        quantize(model, images, seed=seed, **{**METHODS, **EXTRAS}[method])
        for level in LEVELS:
            found[str(level)] = hits(
                lambda batch, level=level: model(batch, path=(level,)).logits, pixels, labels
            )
    path = cell_path(name, method, seed)
    partial = path.with_suffix(".partial.npz")
    np.savez(partial, **found)
    partial.rename(path)


def seeds_of(method: str) -> tuple[int, ...]:
    """Which draws of calibration images a method is measured with."""
    return SEEDS if method in METHODS else SEEDS[:1]


def jobs() -> Iterator[tuple[str, str, int]]:
    """All combinations, one seed after the other."""
    for seed in SEEDS:
        for method in [*([FLOAT, TORCH_AO] if seed == SEEDS[0] else []), *METHODS]:
            for name in EXPERIMENTS:
                yield name, method, seed
    for method in EXTRAS:
        for name in EXPERIMENTS:
            yield name, method, SEEDS[0]


def interval(values: np.ndarray) -> tuple[float, float, float]:
    """Mean over images and its 95 % interval, for values that are means over seeds, `(images,)`."""
    mean, half = float(values.mean()), 1.96 * float(values.std(ddof=1)) / len(values) ** 0.5
    return mean, mean - half, mean + half


def summarize(name: str) -> dict[str, Any]:
    """Accuracy, and paired differences to full precision and between methods, over all seeds."""
    exact = np.load(cell_path(name, FLOAT, 0))["32"].astype(float)
    loaded = {
        method: [np.load(cell_path(name, method, seed)) for seed in seeds_of(method)]
        for method in [*METHODS, *EXTRAS]
    }
    right = {
        (method, level): np.stack([cell[str(level)] for cell in cells]).astype(float)
        for method, cells in loaded.items()
        for level in LEVELS
    }
    rows = [
        {
            "method": method,
            "level": level,
            "accuracy_by_seed": hit.mean(axis=1).tolist(),
            "accuracy": interval(hit.mean(axis=0)),
            "difference_to_float": interval(hit.mean(axis=0) - exact),
        }
        for (method, level), hit in right.items()
    ]
    comparisons = [
        {
            "better": a,
            "than": b,
            "level": level,
            "difference": interval((right[a, level] - right[b, level]).mean(axis=0)),
        }
        for a, b in (("repq", "ptq4vit"), ("ptq4vit", "min_max"))
        for level in LEVELS
    ]
    stock = np.load(cell_path(name, TORCH_AO, 0))["8"].astype(float)
    return {
        "title": EXPERIMENTS[name]()["title"],
        "num_test_images": len(exact),
        "float": interval(exact),
        "torch_ao": interval(stock),
        "rows": rows,
        "comparisons": comparisons,
    }


def draw(results: dict[str, Any]) -> None:
    """Draw what each method loses at each bit-width."""
    figure, axes = plt.subplots(1, len(results), figsize=(6 * len(results), 4.5), layout="constrained")
    for axis, result in zip(np.atleast_1d(axes), results.values(), strict=True):
        for number, method in enumerate([*METHODS, *EXTRAS]):
            rows = {row["level"]: row for row in result["rows"] if row["method"] == method}
            losses = [100 * rows[level]["difference_to_float"][0] for level in LEVELS]
            style = "-" if method in ("repq", "ptq4vit", "min_max", "mse", "torch_dynamic") else "--"
            axis.plot(
                range(len(LEVELS)), losses, style, marker="o", ms=4, color=f"C{number % 10}", label=method
            )
        axis.axhline(0, color="black", lw=0.8)
        axis.set_xticks(range(len(LEVELS)), [str(level) for level in LEVELS])
        axis.set_ylim(-12, 1)
        axis.set_xlabel("bits, weights and activations")
        axis.set_ylabel("accuracy − float32 (points)")
        axis.set_title(f"{result['title']} (float32: {result['float'][0]:.1%})", fontsize=10)
        axis.grid(alpha=0.3)
    np.atleast_1d(axes)[0].legend(fontsize=8, loc="lower left")
    PICTURE.parent.mkdir(exist_ok=True)
    figure.savefig(PICTURE, dpi=120)
    plt.close(figure)


def percent(values: Any) -> str:
    """Write a mean and half of its interval in points."""
    mean, low, high = (100 * value for value in values)
    return f"{mean:+.2f} ± {(high - low) / 2:.2f}"


def describe_method(result: dict[str, Any], method: str) -> str:
    """Write one row of a table."""
    cells = [f"| {method} "]
    for row in result["rows"]:
        if row["method"] == method:
            seeds = [100 * value for value in row["accuracy_by_seed"]]
            spread = f" ({min(seeds):.2f} to {max(seeds):.2f})" if len(seeds) > 1 else ""
            cells.append(f"| {np.mean(seeds):.2f}{spread}; {percent(row['difference_to_float'])} ")
    return "".join(cells) + "|"


def describe(results: dict[str, Any]) -> str:
    """Write the results as Markdown."""
    parts = ["![Accuracy lost by each method at each width](pictures/quantization.png)"]
    for result in results.values():
        header = " | ".join(f"{level} bits" for level in LEVELS)
        lines = [
            f"**{result['title']}**: {result['num_test_images']} test images, float32"
            f" {result['float'][0]:.2%}, {len(SEEDS)} draws of {NUM_IMAGES} calibration images"
            f" ({', '.join(EXTRAS)}: 1 draw)",
            "",
            f"| method | {header} |",
            "|---" * (len(LEVELS) + 1) + "|",
            *(describe_method(result, method) for method in [*METHODS, *EXTRAS]),
            "",
            "PyTorch's own `quantize_dynamic` on the Hugging Face model, in batches of"
            f" {BATCH_SIZE}, at 8 bits: {result['torch_ao'][0]:.2%}. Compared on the same images and draws:",
            "",
        ]
        for comparison in result["comparisons"]:
            names = f"{comparison['better']} − {comparison['than']}"
            lines.append(f"- {names} at {comparison['level']} bits: {percent(comparison['difference'])}")
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def main() -> None:
    torch.set_num_threads(THREADS)
    CELLS.mkdir(parents=True, exist_ok=True)
    open_jobs = [job for job in jobs() if not cell_path(*job).exists()]
    for job in tqdm(open_jobs, desc="Measuring", unit="run"):
        measure(*job)
    results = {name: summarize(name) for name in EXPERIMENTS}
    write_result("quantization", {"seeds": len(SEEDS), "calibration_images": NUM_IMAGES, "results": results})
    draw(results)
    write_section(DOCUMENT, describe(results), command="python benchmarks/quantization.py")


if __name__ == "__main__":
    main()
