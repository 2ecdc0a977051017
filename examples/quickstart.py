"""Train a small ViT on handwritten digits, let it spend less on easy ones, and see what each digit costs.

Takes about two minutes on two cores and no network. Writes models and pictures to `quickstart-output/`.
"""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from PIL import Image
from sklearn.datasets import load_digits
from transformers import (
    TrainingArguments,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessorPil,
    pipeline,
)

from quee_hf import ExitHeadTrainer, GateTrainer, QuEEForImageClassification, quantize, recommended_arguments
from quee_hf.diagnostics import wilson_interval
from quee_hf.diagnostics.plots import plot_accuracy_cost, plot_image_sheet

TINY = "--tiny" in sys.argv  # for tests: seconds instead of minutes, and nothing is learnt
OUTPUT, EXIT_BLOCKS, LEVELS = Path("quickstart-output"), [1, 2, 4, 8], [8, 4, 3]  # levels are numbers of bits
transformers.set_seed(0)
torch.set_num_threads(1)  # tensors this small gain little from a second core, and lose much if it is busy
transformers.logging.disable_progress_bar()  # of reading and writing files; those of training stay
transformers.ProgressCallback.on_log = lambda *_, **__: None  # nor do they print a line after each epoch

print("\n1/5  Reading 1,797 scanned digits of 8 x 8 pixels; each has one role")
digits, random = load_digits(), np.random.default_rng(0)
images = [Image.fromarray(np.uint8(scan * 15.9)).convert("RGB").resize((16, 16)) for scan in digits.images]
processor = ViTImageProcessorPil(size={"height": 16, "width": 16})
ends = [100, 150, 200, 250] if TINY else [750, 1150, 1350, 1797]
train, unseen, validation, test = np.split(random.permutation(1797)[: ends[-1]], ends[:-1])


def items(indices: Any, tilt: float = 0) -> list[dict[str, Any]]:
    tilted = [images[i].rotate(random.uniform(-tilt, tilt), Image.Resampling.BILINEAR) for i in indices]
    pixels = processor(tilted, return_tensors="pt")["pixel_values"]
    return [
        {"pixel_values": x, "labels": int(digits.target[i])} for x, i in zip(pixels, indices, strict=True)
    ]


train_items = items(train) + items(np.tile(train, 0 if TINY else 3), tilt=12)
validation_items = items(validation)

print("\n2/5  Training a ViT of 8 blocks")
config = ViTConfig(
    hidden_size=64, num_hidden_layers=8, num_attention_heads=4, intermediate_size=128, image_size=16,
    patch_size=4, initializer_range=0.1, num_labels=10, id2label={n: str(n) for n in range(10)},
)  # fmt: skip
vit = ViTForImageClassification(config)
both: Any = {"output_dir": str(OUTPUT / "checkpoints"), "use_cpu": True, "per_device_train_batch_size": 64}
rate: Any = {"learning_rate": 2e-3, "lr_scheduler_type": "cosine", "warmup_steps": 0.1, "weight_decay": 0.05}
args = TrainingArguments(
    **both, **rate, num_train_epochs=1 if TINY else 12, save_strategy="no", report_to="none"
)
transformers.Trainer(vit, args, train_dataset=train_items).train()

print("\n3/5  Adding exits, numbers of bits, and gates that predict errors")
model = QuEEForImageClassification.from_backbone(vit, exit_blocks=EXIT_BLOCKS, levels=LEVELS)
args = recommended_arguments(**both, num_train_epochs=1 if TINY else 20, learning_rate=5e-3)
ExitHeadTrainer(model, args, train_dataset=train_items, eval_dataset=validation_items).train()
quantize(model, train_items)
both["per_device_train_batch_size"] = 32
args = recommended_arguments(**both, num_train_epochs=1 if TINY else 30, learning_rate=1e-2)
GateTrainer(model, args, train_dataset=items(unseen), eval_dataset=validation_items).train()
model.fit_operating_points(validation_items)
for part in (model, processor):
    part.save_pretrained(OUTPUT / "model")

print("\n4/5  Classifying the test images with the pipeline\n")
classify = pipeline("image-classification", model=str(OUTPUT / "model"), device="cpu")


def measure(name: str, **route: Any) -> dict[str, Any]:
    results = classify([images[i] for i in test], batch_size=64, top_k=1, return_routing=True, **route)
    num_right = sum(
        r["scores"][0]["label"] == str(digits.target[i]) for r, i in zip(results, test, strict=True)
    )
    cost, accuracy = np.mean([r["routing"]["cost"] for r in results]), num_right / len(test)
    low, high = wilson_interval(num_right, len(test))
    exits = [r["routing"]["exit_block"] for r in results]
    shares = "".join(f"{exits.count(block) / len(test):6.0%}" for block in EXIT_BLOCKS)
    print(f"{name:<24} {cost:6.1%}  {accuracy:6.1%} ({low:5.1%} - {high:6.1%}) {shares}")
    return {"cost": cost, "accuracy": accuracy, "low": low, "high": high, "results": results}


print(
    f"{'':<24}   cost  accuracy (95 % interval)  leave after block" + "".join(f"{b:6d}" for b in EXIT_BLOCKS)
)
routed = [measure(f"cost_lambda={value}", cost_lambda=value) for value in [0, 0.01, 0.03, 0.1, 0.2, 0.5, 1]]
static = {f"{bits} bits, 8 blocks": measure(f"{bits} bits, 8 blocks", path=[bits] * 4) for bits in LEVELS}
static |= {
    f"8 bits, {b} blocks": measure(f"8 bits, {b} blocks", path=[8] * k) for k, b in ((3, 4), (2, 2), (1, 1))
}

print("\n5/5  Drawing")
columns = {key: [point[key] for point in routed] for key in routed[0]}
plot_accuracy_cost(
    {"routed": (columns["cost"], columns["accuracy"], (columns["low"], columns["high"]))},
    {name: (p["cost"], p["accuracy"]) for name, p in static.items()},
    OUTPUT / "accuracy-cost.png",
    "t",
)


def caption(p):
    r = p[1]["routing"]
    return images[p[0]], [
        f"a {digits.target[p[0]]}, read as {p[1]['scores'][0]['label']}",
        "-".join(map(str, r["path"])) + f" → exit at block {r['exit_block']}",
        f"cost {r['cost']:.0%}",
        f"predicted error {r['error_probability']:.1%}",
    ]


for R, l in zip(routed, [0, 0.01, 0.03, 0.1, 0.2, 0.5, 1]):
    s = sorted(
        zip(test, R["results"]), key=lambda p: (p[1]["routing"]["cost"], p[1]["routing"]["error_probability"])
    )
    plot_image_sheet([caption(p) for p in s[:6]], [caption(p) for p in s[-6:]], OUTPUT / f"sheet{l}.png")
