"""Train a small ViT on handwritten digits, let it spend less on easy ones, and see what each digit costs.

Takes about two minutes on two cores and no network. Writes a model and two pictures to `quickstart-output/`.
"""

import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from PIL import Image
from sklearn.datasets import load_digits
from transformers import Trainer, ViTConfig, ViTForImageClassification, ViTImageProcessorPil, pipeline

from quee_hf import ExitHeadTrainer, GateTrainer, QuEEForImageClassification, quantize, recommended_arguments
from quee_hf.diagnostics import wilson_interval
from quee_hf.diagnostics.plots import plot_accuracy_cost, plot_image_sheet

OUTPUT, SHRINK = (
    Path("quickstart-output"),
    10 if "--tiny" in sys.argv else 1,
)  # tiny: for tests, learns nothing
transformers.set_seed(0)
torch.set_num_threads(1)  # tensors this small gain little from a second core, and lose much if it is busy
transformers.logging.disable_progress_bar()  # of files only; training shows its own,
transformers.ProgressCallback.on_log = lambda *_, **__: None  # but no line of numbers after each epoch

print("\n1/5  Reading 1,797 scanned digits of 8 x 8 pixels; each image has one role")
digits, random = load_digits(), np.random.default_rng(0)
images = [Image.fromarray(np.uint8(scan * 15.9)).convert("RGB").resize((16, 16)) for scan in digits.images]
processor = ViTImageProcessorPil(size={"height": 16, "width": 16})
chosen = random.permutation(1797)[: 1797 // SHRINK]
train, unseen, validation, test = np.split(chosen, np.array([750, 1150, 1350]) // SHRINK)


def items(indices: Any, tilt: float = 0) -> list[dict[str, Any]]:
    tilted = [images[i].rotate(random.uniform(-tilt, tilt), Image.Resampling.BILINEAR) for i in indices]
    pixels = processor(tilted, return_tensors="pt")["pixel_values"]
    return [
        {"pixel_values": x, "labels": int(digits.target[i])} for x, i in zip(pixels, indices, strict=True)
    ]


print("\n2/5  Training a ViT of 8 blocks")
sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 8, "num_attention_heads": 4}
names = {n: str(n) for n in range(10)}
vit = ViTForImageClassification(
    ViTConfig(**sizes, image_size=16, patch_size=4, initializer_range=0.1, id2label=names)
)
data: Any = {
    "train_dataset": items(train) + items(np.tile(train, 3), tilt=12),
    "eval_dataset": items(validation),
}
arguments = partial(
    recommended_arguments, str(OUTPUT / "checkpoints"), per_device_train_batch_size=64, use_cpu=True
)
Trainer(vit, arguments(num_train_epochs=12 // SHRINK, learning_rate=2e-3, warmup_steps=0.1), **data).train()

print("\n3/5  Adding exits, fewer bits, and gates that predict errors")
model = QuEEForImageClassification.from_backbone(vit, exit_blocks=[1, 2, 4, 8], levels=[8, 4, 3])
ExitHeadTrainer(model, arguments(num_train_epochs=20 // SHRINK, learning_rate=5e-3), **data).train()
quantize(model, data["train_dataset"])
data["train_dataset"] = items(unseen)  # gates learn from mistakes, which are rare on images trained on
GateTrainer(model, arguments(num_train_epochs=30 // SHRINK, learning_rate=1e-2), **data).train()
model.fit_operating_points(data["eval_dataset"])
for part in (model, processor):
    part.save_pretrained(OUTPUT / "model")

print(
    "\n4/5  Classifying the test images; left: how, right: share of images that leave after block 1, 2, 4, 8\n"
)
classify = pipeline("image-classification", model=str(OUTPUT / "model"), device="cpu")


def measure(name: str, **route: Any) -> tuple[float, float, float, float, list[Any]]:
    results = classify([images[i] for i in test], batch_size=64, top_k=1, return_routing=True, **route)
    num_right = sum(
        r["scores"][0]["label"] == str(digits.target[i]) for r, i in zip(results, test, strict=True)
    )
    cost, accuracy = np.mean([r["routing"]["cost"] for r in results]), num_right / len(test)
    low, high = wilson_interval(num_right, len(test))
    exits = [r["routing"]["exit_block"] for r in results]
    shares = " ".join(f"{exits.count(block) / len(test):4.0%}" for block in model.config.exit_blocks)
    print(f"{name:<24} cost {cost:4.0%}  accuracy {accuracy:5.1%} ({low:.1%} - {high:.1%})  {shares}")
    return cost, accuracy, low, high, results


lambdas = [0, 0.003, 0.01, 0.03, 0.1, 0.2, 0.4]
paths = {f"{bits} bits throughout": [bits] * 4 for bits in (8, 4, 3)}
paths |= {f"8 bits, exit at block {block}": [8] * n for n, block in ((3, 4), (2, 2), (1, 1))}
routed = {value: measure(f"routed, cost_lambda={value}", cost_lambda=value) for value in lambdas}
alike = {name: measure(name, path=path) for name, path in paths.items()}

print("\n5/5  Drawing")
costs, accuracies, lows, highs, _ = zip(*routed.values(), strict=True)
curves = {"routed, each image its own way": (costs, accuracies, (lows, highs))}
points = {name: (cost, accuracy) for name, (cost, accuracy, *_) in alike.items()}
title = f"{len(test)} handwritten digits: routed (with 95 % interval), or all alike"
plot_accuracy_cost(curves, points, OUTPUT / "accuracy-cost.png", title)


def caption(i: int, result: Any) -> tuple[Image.Image, list[str]]:
    route = result["routing"]
    path = "-".join(map(str, route["path"]))
    ...
