"""Train T2T-ViT-7 from scratch on a part of CIFAR-10, build a QuEE model of it, and route test images.

Run: `python benchmarks/t2t_vit.py`. Takes the images that `QUEE_ASSETS` points to, enlarged to 64 pixels, and
one thread, into `runs/`; an interrupted run goes on after the last epoch, and the last stage of the build. It
shows that the way from a new backbone to a routed model is whole: for accuracy, training is far too short.
Test images are used here and nowhere else. Writes `benchmarks/results/t2t_vit.json` and
`docs/results/t2t-vit-7-cifar10.md`.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as parquet
import torch
from _timing import RESULTS, write_result
from assets import ASSETS, ROOT, RUNS
from torch import Tensor
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset, Subset
from transformers import AutoImageProcessor, Trainer, TrainingArguments, ViTImageProcessorPil, set_seed

from quee_hf import QuEEForImageClassification, T2TViTConfig, T2TViTForImageClassification
from quee_hf.checkpoints import atomic_directory
from quee_hf.data import load_image_dataset
from quee_hf.diagnostics.report import describe_accuracy
from quee_hf.tables import markdown_table

COMMAND, PAGE = "python benchmarks/t2t_vit.py", "t2t-vit-7-cifar10"
IMAGE_SIZE, MARGIN = 64, 8  # pixels; images are moved by up to the margin in training
EXITS, LEVELS, HEAD, LAMBDAS = "2,4,7", "8,7,6,5", "linear", "0,0.01,0.02,0.05,0.1,0.2"
NUM_UNSEEN = NUM_TEST = 2000
NUM_ALONE = 200  # test images that are run alone on their paths, too
NEAR = 1e-4  # logits of order 1, in float32
MIXED = (0.0, 0.01, 0.05, 0.2)  # lambdas of these images, one after the other
ENGINES = ("onnxruntime", "openvino", "torch_int8")
NORMALISATION = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}


def write_parts(folder: Path, num_train: int) -> dict[str, Path]:
    """Write the images of each role to a file of their own, those that are not there yet."""
    sources = {
        "train": ("train-00", num_train),
        "unseen": ("validation", NUM_UNSEEN),
        "test": ("test", NUM_TEST),
    }
    folder.mkdir(parents=True, exist_ok=True)
    files = {}
    for role, (source, count) in sources.items():
        files[role] = folder / f"{role}.parquet"
        if not files[role].exists():
            partial = folder / f"{role}.partial"
            parquet.write_table(parquet.read_table(ASSETS / "cifar10" / f"{source}.parquet")[:count], partial)
            partial.rename(files[role])
    return files


def make_processor() -> ViTImageProcessorPil:
    """Return what enlarges and normalises an image."""
    size = {"height": IMAGE_SIZE, "width": IMAGE_SIZE}
    return ViTImageProcessorPil(size=size, resample=3, do_convert_rgb=True, **NORMALISATION)


def augment(examples: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
    """Mirror half of the images, and move each by a few pixels."""
    batch = []
    for example in examples:
        padded = functional.pad(example["pixel_values"], [MARGIN] * 4)
        top, left = torch.randint(2 * MARGIN + 1, (2,)).tolist()
        pixels = padded[:, top : top + IMAGE_SIZE, left : left + IMAGE_SIZE]
        batch.append(pixels.flip(2) if torch.rand(()) < 0.5 else pixels)
    return {
        "pixel_values": torch.stack(batch),
        "labels": torch.tensor([example["labels"] for example in examples]),
    }


def last_checkpoint(folder: Path) -> Path | None:
    """Return the newest complete checkpoint: the state of the trainer is what is written last."""
    found = [path.parent for path in folder.glob("checkpoint-*/trainer_state.json")]
    return max(found, key=lambda path: int(path.name.rpartition("-")[2]), default=None)


def train(folder: Path, images: Path, num_epochs: int) -> None:
    """Train the classifier, or what is left of it, and save it with its image processor."""
    target, checkpoints = folder / "classifier", folder / "training"
    if (target / "config.json").exists():
        print(f"{target} is there.")
        return
    source, processor = load_image_dataset(str(images)), make_processor()
    names = dict(enumerate(source.class_names))
    set_seed(0)
    config = T2TViTConfig.of_size(
        "t2t_vit_7",
        image_size=IMAGE_SIZE,
        id2label=names,
        label2id={name: index for index, name in names.items()},
    )
    arguments = TrainingArguments(
        str(checkpoints),
        num_train_epochs=num_epochs,
        per_device_train_batch_size=64,
        learning_rate=1e-3,
        weight_decay=0.05,
        lr_scheduler_type="cosine",
        warmup_steps=40,
        save_strategy="epoch",
        save_total_limit=2,
        logging_strategy="epoch",
        report_to="none",
        use_cpu=True,
        dataloader_pin_memory=False,
        remove_unused_columns=False,
    )
    trainer = Trainer(
        T2TViTForImageClassification(config),
        arguments,
        train_dataset=source.with_processor(processor),
        data_collator=augment,
    )
    newest = last_checkpoint(checkpoints)
    print(f"Training goes on from {newest}." if newest else "Training begins.")
    trainer.train(resume_from_checkpoint=None if newest is None else str(newest))
    with atomic_directory(target) as staging:
        trainer.model.eval().save_pretrained(staging)
        processor.save_pretrained(staging)
        losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
        (staging / "losses.json").write_text(json.dumps(losses))


def quee(*words: object) -> None:
    """Run `quee`."""
    command = [str(word) for word in (Path(sys.executable).parent / "quee", *words)]
    subprocess.run(command, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})


@torch.inference_mode()
def classify(model: T2TViTForImageClassification, images: Dataset[Any]) -> Tensor:
    """Return the logits of all images."""
    return torch.cat([model(batch["pixel_values"]).logits for batch in DataLoader(images, batch_size=50)])


@torch.inference_mode()
def route(model: QuEEForImageClassification, images: Dataset[Any]) -> tuple[Tensor, Tensor]:
    """Return logits and paths of images at lambdas that differ from one to the next."""
    outputs = []
    for batch in DataLoader(images, batch_size=40):
        pixel_values = batch["pixel_values"]
        lambdas = torch.tensor(MIXED).repeat(len(pixel_values))[: len(pixel_values)]
        outputs.append(model(pixel_values, cost_lambda=lambdas))
    return torch.cat([one.logits for one in outputs]), torch.cat([one.path for one in outputs])


def check_routes(model: QuEEForImageClassification, images: Dataset[Any]) -> dict[str, Any]:
    """Compare routed images with each run alone on its path, and engines with the model's own modules."""
    logits, paths = route(model, images)
    differences = []
    for index in range(len(images)):  # type: ignore[arg-type]
        levels = [model.level_list[level] for level in paths[index].tolist() if level >= 0]
        with torch.inference_mode():
            alone = model(images[index]["pixel_values"][None], path=levels).logits[0]
        differences.append(float((alone - logits[index]).abs().max()))
    engines = {}
    for name in ENGINES:
        model.set_engine(name)
        found = route(model, images)[1]
        engines[name] = float((found == paths).all(dim=1).double().mean())
    model.set_engine("torch")
    return {
        "num_images": len(images),  # type: ignore[arg-type]
        "num_paths_taken": len(paths.unique(dim=0)),
        "largest_difference_from_alone": max(differences),
        "share_near_alone": sum(each < NEAR for each in differences) / len(differences),
        "same_path": engines,
    }


def measure(folder: Path, parts: Mapping[str, Path]) -> dict[str, Any]:
    """Build, evaluate on the test images, and return what came of it."""
    build, evaluation = folder / "build", folder / "evaluation.json"
    settings = ["--exits", EXITS, "--levels", LEVELS, "--head", HEAD]
    data = ["--train", parts["train"], "--validation", parts["unseen"]]
    quee("build", "--model", folder / "classifier", *data, *settings, "--output", build)
    picture = ROOT / "docs" / "results" / f"{PAGE}.png"
    words = ["--data", parts["test"], "--cost-lambda", LAMBDAS, "--output", evaluation, "--picture", picture]
    quee("evaluate", build / "model", *words)
    test = load_image_dataset(str(parts["test"])).with_processor(
        AutoImageProcessor.from_pretrained(folder / "classifier", backend="pil")
    )
    classifier = T2TViTForImageClassification.from_pretrained(folder / "classifier")
    logits = classify(classifier, test)
    labels = torch.tensor([test[index]["labels"] for index in range(len(test))])
    model = QuEEForImageClassification.from_pretrained(build / "model")
    return {
        "settings": " ".join(settings),
        "losses": json.loads((folder / "classifier" / "losses.json").read_text()),
        "float": describe_accuracy(logits.argmax(dim=-1) == labels),
        "routes": check_routes(model, Subset(test, range(NUM_ALONE))),
        **{key: value for key, value in json.loads(evaluation.read_text()).items() if key in _KEPT},
    }


_KEPT = ("exit_blocks", "levels", "num_paths", "cost_model", "points", "exits", "uniform_paths")


def describe(result: Mapping[str, Any]) -> str:
    """Write the result as a page."""
    routes, versions = result["routes"], result["versions"]
    losses = ", ".join(f"{loss:.2f}" for loss in result["losses"])
    rows = [["HF model, float32", "", "", _accuracy(result["float"])]]
    rows += [
        [f"all leave after block {row['exit_block']}, {row['path'][0]} bits", *_cells(row)]
        for row in result["exits"][:-1]
    ]
    rows += [[f"whole network, {row['path'][0]} bits", *_cells(row)] for row in result["uniform_paths"]]
    rows += [[f"routed, λ = {row['cost_lambda']:g}", *_cells(row)] for row in result["points"]]
    same = ", ".join(f"{share:.1%} with `{name}`" for name, share in routes["same_path"].items())
    lambdas = ", ".join(f"{value:g}" for value in MIXED)
    parts = [
        "# T2T-ViT-7 on CIFAR-10, from scratch",
        f"Written by `{COMMAND}`, with torch {versions['torch']} and transformers {versions['transformers']},"
        " on one thread.",
        f"T2T-ViT-7 trained from new weights on {result['num_train']} training images, enlarged to"
        f" {IMAGE_SIZE} pixels, for {len(result['losses'])} epochs (mean loss of each: {losses}), then"
        f" `quee build {result['settings']}` with the same images for heads and ranges and {NUM_UNSEEN}"
        f" unseen ones for gates and operating points. {result['points'][0]['num_images']} test images"
        " were used for nothing else; 95 % intervals; costs in BitOPs of the blocks, relative to"
        f" the whole network at {result['levels'][0]} bits. So short a training is no"
        " measure of the architecture: what it shows is that every step works.",
        f"![Accuracy over cost]({PAGE}.png)",
        markdown_table(["", "cost", "% leaving after each exit", "accuracy"], rows).strip(),
        f"The first {routes['num_images']} test images, at λ = {lambdas} in turn, take"
        f" {routes['num_paths_taken']} different paths. Of them {routes['share_near_alone']:.1%} have the"
        f" logits that they have alone on their paths within {NEAR:g}, the others within"
        f" {routes['largest_difference_from_alone']:.1e}: there, a number lies so near the middle between two"
        " codes that the order of a sum decides. Images that take the same path on an engine:"
        f" {same}.",
    ]
    return "\n\n".join(parts) + "\n"


def _cells(row: Mapping[str, Any]) -> list[str]:
    shares = "/".join(f"{100 * share:.0f}" for share in row.get("exit_shares", ()))
    return [f"{row['cost']:.3f}", shares, _accuracy(row)]


def _accuracy(row: Mapping[str, Any]) -> str:
    low, high = row["accuracy_interval"]
    return f"{row['accuracy']:.1%} ({low:.1%} to {high:.1%})"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--train-images", type=int, default=6000, help="at most 10000")
    parser.add_argument("--epochs", type=int, default=4)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    folder = RUNS / f"t2t-vit-7-{arguments.train_images}x{arguments.epochs}"
    start = time.perf_counter()
    parts = write_parts(folder / "images", arguments.train_images)
    train(folder, parts["train"], arguments.epochs)
    result = {"num_train": arguments.train_images, **measure(folder, parts)}
    print(f"{time.perf_counter() - start:.0f} s, what was there already not counted.")
    write_result("t2t_vit", result)
    page = describe(json.loads((RESULTS / "t2t_vit.json").read_text()))
    (ROOT / "docs" / "results" / f"{PAGE}.md").write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
