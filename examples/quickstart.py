"""Train a small ViT on handwritten digits, let it spend less on easy ones, and see what each digit costs.

Takes two minutes on two cores and no network. Writes models and pictures to `quickstart-output/`.
"""

import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from PIL import Image
from sklearn.datasets import load_digits
from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessorPil, pipeline

from quee_hf import ExitHeadTrainer, GateTrainer, QuEEForImageClassification, quantize, recommended_arguments
from quee_hf.diagnostics import wilson_interval
from quee_hf.diagnostics.plots import plot_accuracy_cost, plot_image_sheet

OUTPUT, TINY = Path("quickstart-output"), "--tiny" in sys.argv  # tiny: seconds, for tests
EXIT_BLOCKS, LEVELS, LAMBDAS = [1, 2, 4, 8], [8, 4, 3], [0, 0.01, 0.03, 0.1, 0.2, 0.5, 1]
SIZES = {"train": 750, "gates": 400, "validation": 200, "test": 447}  # images of each role; none has two


class QuietBar(transformers.ProgressCallback):
    """The Trainer's progress bar, without a line of numbers after every epoch."""

    def on_log(self, *args: Any, **kwargs: Any) -> None: ...


def train(trainer: transformers.Trainer) -> None:
    trainer.remove_callback(transformers.ProgressCallback)
    trainer.add_callback(QuietBar)
    trainer.train()


def tilted(image: Image.Image) -> Image.Image:
    return image.rotate(random.uniform(-12, 12), Image.Resampling.BILINEAR, translate=(random.integers(-1, 2), 0))


def items(role: str, num_copies: int = 1) -> list[dict[str, Any]]:
    images = pictures[role] + [(tilted(image), label) for image, label in pictures[role] * (num_copies - 1)]
    return [{"pixel_values": torch.tensor(processor(i)["pixel_values"][0]), "labels": n} for i, n in images]


def measure(name: str, **route: Any) -> tuple[float, float, tuple[float, float], list[Any]]:
    images = [image for image, _ in pictures["test"]]
    results = classify(images, batch_size=64, top_k=1, return_routing=True, **route)
    right = sum(r["scores"][0]["label"] == str(n) for r, (_, n) in zip(results, pictures["test"], strict=True))
    cost = np.mean([result["routing"]["cost"] for result in results])
    low, high = wilson_interval(right, len(results))
    blocks = [result["routing"]["exit_block"] for result in results]
    shares = "".join(f"{blocks.count(block) / len(blocks):6.0%}" for block in EXIT_BLOCKS)
    print(f"{name:<24}{cost:>5.0%}   {right / len(results):5.1%} ({low:.1%} - {high:.1%})  {shares}")
    return cost, right / len(results), (low, high), results


transformers.logging.set_verbosity_error()
transformers.set_seed(0)
torch.set_num_threads(1)  # tensors this small gain little from more, and lose much when cores are busy
