"""From a trained classifier to a routed one, on handwritten digits: `python examples/quickstart.py`.

Trains a small ViT on scikit-learn's digits, wraps it, trains its exits and gates, saves it, and routes test
images through the pipeline at several lambdas. Writes to `quickstart-output/`: the model, two pictures, and
what it was made of, the classifier and the images, to try `quee build` on.
"""

import shutil
import sys
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits
from tqdm import tqdm
from transformers import (
    Pipeline,
    PrinterCallback,
    ProgressCallback,
    Trainer,
    TrainingArguments,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessorPil,
    pipeline,
    set_seed,
)
from transformers.utils import logging

from quee_hf import ExitHeadTrainer, GateTrainer, QuEEForImageClassification, quantize, recommended_arguments
from quee_hf.data import LabelledImages
from quee_hf.diagnostics import wilson_interval
from quee_hf.plots import plot_accuracy_cost, plot_image_sheet

OUTPUT = Path("quickstart-output")
ROLES = ("train", "unseen", "held-out", "test")
EXITS, LEVELS, LAMBDAS = [1, 2, 4, 8], [8, 4, 3], [0.0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.4, 1.0]
IS_TINY = "--tiny" in sys.argv  # a few images and epochs: only shows that everything runs


class Bar(ProgressCallback):
    """The trainer's progress bar, without a line of numbers for every epoch."""

    def on_log(self, *args: object, **kwargs: object) -> None:
        """Say nothing."""


def fit(trainer: Trainer) -> None:
    for noisy in (ProgressCallback, PrinterCallback):
        trainer.remove_callback(noisy)
    trainer.add_callback(Bar)
    trainer.train()


def arguments(name: str, epochs: int, rate: float, **fields: object) -> TrainingArguments:
    fields = {"logging_strategy": "no", "per_device_train_batch_size": 32, **fields}
    return recommended_arguments(
        str(OUTPUT / "training" / name),
        num_train_epochs=2 if IS_TINY else epochs,
        learning_rate=rate,
        **fields,
    )


def digits_by_role() -> list[LabelledImages]:
    """Backbone and heads; gates; early stopping and operating points; test: no image plays two roles."""
    data = load_digits()
    images = [Image.fromarray((pixels * 15.9).astype(np.uint8)) for pixels in data.images]
    digits = LabelledImages.from_images(images, data.target.tolist(), [str(digit) for digit in range(10)])
    return digits.split([0.05] * 4 if IS_TINY else [0.35, 0.30, 0.10, 0.25], seed=0)


def write_images(parts: list[LabelledImages]) -> None:
    """Write each role as a folder with a subfolder per class, as one's own images may be."""
    shutil.rmtree(OUTPUT / "images", ignore_errors=True)
    for role, part in zip(ROLES, parts, strict=True):
        for number in range(len(part)):
            file = OUTPUT / "images" / role / str(part[number]["label"]) / f"{number:03}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            part[number]["image"].save(file)
    shutil.copy(next((OUTPUT / "images" / "test" / "7").iterdir()), OUTPUT / "digit.png")


def train_classifier(train: list[dict]) -> ViTForImageClassification:
    size = {"hidden_size": 64, "num_hidden_layers": 8, "num_attention_heads": 4, "intermediate_size": 128}
    names = {digit: str(digit) for digit in range(10)}
    vit = ViTForImageClassification(
        ViTConfig(**size, image_size=16, patch_size=4, id2label=names, initializer_range=0.1)
    )
    plain = {"eval_strategy": "no", "save_strategy": "no", "load_best_model_at_end": False}
    settings = arguments("vit", 40, 2e-3, warmup_steps=30, weight_decay=0.05, **plain)
    fit(Trainer(vit, settings, train_dataset=train))
    return vit


def route(classify: Pipeline, images: list[Image.Image], labels: list[int], **options: object) -> dict:
    """Classify all images at one operating point: which are right, and where each went."""
    stream = classify((image for image in images), batch_size=32, return_routing=True, **options)
    results = list(tqdm(stream, desc=str(options), total=len(images)))
    right = np.array([r["scores"][0]["label"] == str(t) for r, t in zip(results, labels, strict=True)])
    costs = np.array([result["routing"]["cost"] for result in results])
    return {"right": right, "cost": costs, "results": results}


def print_row(name: str, routed: dict) -> tuple[float, float, tuple[float, float]]:
    """Print one line of the table: cost, accuracy with its interval, share of the images per exit."""
    right, exits = routed["right"], [result["routing"]["exit_block"] for result in routed["results"]]
    low, high = wilson_interval(int(right.sum()), len(right))
    shares = "  ".join(f"{np.mean([block == e for block in exits]):4.0%}" for e in EXITS)
    print(
        f"{name:>22}  {routed['cost'].mean():5.3f}  {right.mean():6.1%} ({low:.1%} to {high:.1%})   {shares}"
    )
    return routed["cost"].mean(), right.mean(), (low, high)


def captions(routed: dict, index: int, truth: int) -> list[str]:
    result = routed["results"][index]
    routing, answer = result["routing"], result["scores"][0]["label"]
    leaving, path = f"out after block {routing['exit_block']}", "-".join(map(str, routing["path"]))
    return [f"{truth} read as {answer}", leaving, f"bits {path}", f"cost {routing['cost']:.0%}"]


def build(
    processor: ViTImageProcessorPil, train: list[dict], gate: list[dict], validation: list[dict]
) -> QuEEForImageClassification:
    """Train a classifier, wrap it, and train what is new."""
    print("1/4 Train a ViT of 8 blocks on handwritten digits")
    vit = train_classifier(train)
    for part in (vit, processor):
        part.save_pretrained(OUTPUT / "classifier")
    print(f"2/4 Add exits after blocks {EXITS}, and compute every segment with {LEVELS} bits")
    model = QuEEForImageClassification.from_backbone(vit, exit_blocks=EXITS, levels=LEVELS)
    fit(ExitHeadTrainer(model, arguments("heads", 30, 3e-3), train_dataset=train, eval_dataset=validation))
    quantize(model, train)
    print("3/4 Train the gates on images that the ViT has not seen")
    fit(GateTrainer(model, arguments("gates", 40, 5e-3), train_dataset=gate, eval_dataset=validation))
    model.eval().fit_operating_points(validation)
    return model


def report(routed: dict, static: dict, images: list[Image.Image], labels: list[int]) -> None:
    """Print the table and draw the pictures."""
    print(f"\n{'':>22}   cost  accuracy (95 % interval)   share leaving after block {EXITS}")
    rows = [print_row(f"cost_lambda = {value}", result) for value, result in routed.items()]
    points = {name: print_row(name, result)[:2] for name, result in static.items()}
    costs, accuracies, intervals = zip(*rows, strict=True)
    curve = {"routed, one point per cost_lambda": (costs, accuracies, tuple(zip(*intervals, strict=True)))}
    plot_accuracy_cost(
        curve, points, OUTPUT / "accuracy_cost.png", "Handwritten digits: accuracy against cost"
    )
    shown = routed[0.02]
    order = np.argsort(shown["cost"], kind="stable")
    sheet = [
        [(images[i], captions(shown, i, labels[i])) for i in part] for part in (order[:8], order[::-1][:8])
    ]
    plot_image_sheet(*sheet, OUTPUT / "easy_and_hard.png")
    print(f"\nPictures: {OUTPUT / 'accuracy_cost.png'} and {OUTPUT / 'easy_and_hard.png'}.")


def main() -> None:
    set_seed(0)
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    processor = ViTImageProcessorPil(size={"height": 16, "width": 16}, do_convert_rgb=True)
    *parts, test = digits_by_role()
    write_images([*parts, test])
    model = build(processor, *([dict(item) for item in part.with_processor(processor)] for part in parts))
    model.save_pretrained(OUTPUT / "model")
    processor.save_pretrained(OUTPUT / "model")
    shutil.rmtree(OUTPUT / "training")
    print("4/4 Load it as anyone would, and route the test images")
    classify = pipeline("image-classification", model=str(OUTPUT / "model"))
    images, labels = [test[i]["image"] for i in range(len(test))], test.labels.tolist()
    routed = {value: route(classify, images, labels, cost_lambda=value) for value in LAMBDAS}
    static = {f"always {bits} bits": route(classify, images, labels, path=[bits] * 4) for bits in LEVELS}
    report(routed, static, images, labels)
    print("Next, with a classifier and images of your own: quee build --help")


if __name__ == "__main__":
    main()
