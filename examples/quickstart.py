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
from transformers import TrainingArguments, ViTConfig, ViTForImageClassification, ViTImageProcessorPil, pipeline

from quee_hf import ExitHeadTrainer, GateTrainer, QuEEForImageClassification, quantize, recommended_arguments
from quee_hf.diagnostics import wilson_interval
from quee_hf.diagnostics.plots import plot_accuracy_cost, plot_image_sheet

TINY = "--tiny" in sys.argv  # for tests: seconds instead of minutes, and nothing is learnt
OUTPUT, EXIT_BLOCKS, LEVELS = Path("quickstart-output"), [1, 2, 4, 8], [8, 4, 3]  # levels are numbers of bits
transformers.set_seed(0)
torch.set_num_threads(1)  # tensors this small gain little from a second core, and lose much if it is busy
transformers.logging.set_verbosity_error()
transformers.ProgressCallback.on_log = lambda *_, **__: None  # the Trainer's bars, without a line per epoch

print("\n1/5  Reading 1,797 scanned digits of 8 x 8 pixels; every image has one role")
digits, random = load_digits(), np.random.default_rng(0)
images = [Image.fromarray(np.uint8(scan * 15.9)).convert("RGB").resize((16, 16)) for scan in digits.images]
processor = ViTImageProcessorPil(size={"height": 16, "width": 16})
ends = [100, 150, 200, 250] if TINY else [750, 1150, 1350, 1797]
train, unseen, validation, test = np.split(random.permutation(1797)[: ends[-1]], ends[:-1])


def items(indices: Any, tilt: float = 0) -> list[dict[str, Any]]:
    tilted = [images[i].rotate(random.uniform(-tilt, tilt), Image.Resampling.BILINEAR) for i in indices]
    pixels = processor(tilted, return_tensors="pt")["pixel_values"]
    return [{"pixel_values": x, "labels": int(digits.target[i])} for x, i in zip(pixels, indices, strict=True)]


print("\n2/5  Training a ViT of 8 blocks")
config = ViTConfig(
    hidden_size=64, num_hidden_layers=8, num_attention_heads=4, intermediate_size=128, image_size=16,
    patch_size=4, initializer_range=0.1, num_labels=10, id2label={n: str(n) for n in range(10)},
)  # fmt: skip
vit = ViTForImageClassification(config)
where: Any = {"output_dir": str(OUTPUT / "checkpoints"), "use_cpu": True, "report_to": "none"}
schedule: Any = {"learning_rate": 2e-3, "lr_scheduler_type": "cosine", "warmup_steps": 0.1, "weight_decay": 0.05}
args = TrainingArguments(
    **where, **schedule, num_train_epochs=1 if TINY else 12, per_device_train_batch_size=64, save_strategy="no"
)
tilted_copies = items(np.tile(train, 0 if TINY else 3), tilt=12)
transformers.Trainer(vit, args, train_dataset=items(train) + tilted_copies).train()

print("\n3/5  Adding exits, levels of precision, and gates that predict errors")
model = QuEEForImageClassification.from_backbone(vit, exit_blocks=EXIT_BLOCKS, levels=LEVELS)
args = recommended_arguments(**where, num_train_epochs=1 if TINY else 20)
ExitHeadTrainer(model, args, train_dataset=items(train), eval_dataset=items(validation)).train()
quantize(model, items(train))
args = recommended_arguments(
    **where, num_train_epochs=1 if TINY else 30, learning_rate=1e-2, per_device_train_batch_size=32
)
GateTrainer(model, args, train_dataset=items(unseen), eval_dataset=items(validation)).train()
model.fit_operating_points(items(validation))
for part in (model, processor):
    part.save_pretrained(OUTPUT / "model")

print("\n4/5  Classifying the test images with the pipeline\n")
classify = pipeline("image-classification", model=str(OUTPUT / "model"), device="cpu")


def measure(name: str, **route: Any) -> dict[str, Any]:
    results = classify([images[i] for i in test], batch_size=64, top_k=1, return_routing=True, **route)
    num_right = sum(r["scores"][0]["label"] == str(digits.target[i]) for r, i in zip(results, test, strict=True))
    cost, accuracy = np.mean([r["routing"]["cost"] for r in results]), num_right / len(test)
    low, high = wilson_interval(num_right, len(test))
    exits = [r["routing"]["exit_block"] for r in results]
    shares = "".join(f"{exits.count(block) / len(test):6.0%}" for block in EXIT_BLOCKS)
    print(f"{name:<24} {cost:5.1%}  {accuracy:6.1%} ({low:5.1%} - {high:6.1%}) {shares}")
    return {"cost": cost, "accuracy": accuracy, "low": low, "high": high, "results": results}


print(f"{'':<24} cost  accuracy (95 % interval)  leave after block" + "".join(f"{b:6d}" for b in EXIT_BLOCKS))
routed = [measure(f"cost_lambda={value}", cost_lambda=value) for value in [0, 0.01, 0.03, 0.1, 0.2, 0.5, 1]]
static = {f"{bits} bits, 8 blocks": measure(f"{bits} bits, 8 blocks", path=[bits] * 4) for bits in LEVELS}
for k in (3, 2, 1):
    static[name] = measure(name := f"8 bits, {EXIT_BLOCKS[k-1]} blocks", path=[8] * k)

print("\n5/5  Drawing")
