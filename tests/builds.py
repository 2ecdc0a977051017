"""What tests of `quee build` and of the other verbs work on: a tiny trained classifier, images of colours."""

import multiprocessing
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessorPil

CLASSES = ("red", "green", "blue", "grey")
NUM_BLOCKS = 3
_COLORS = np.array([[190, 60, 60], [60, 190, 60], [60, 60, 190], [120, 120, 120]])
_SIZE = 32

# Preloaded once, so that processes start at once; the interpreter of the tests itself has threads.
_SERVER = multiprocessing.get_context("forkserver")
_SERVER.set_forkserver_preload(["quee_hf.cli", "quee_hf.build", "quee_hf.diagnostics.evaluation"])
_RUN = """
import os, signal, sys, torch
from quee_hf.cli.app import app

def kill(event, details):
    if deadly is not None and event == deadly[0] and all(part in str(details[0]) for part in deadly[1:]):
        os.kill(os.getpid(), signal.SIGKILL)

with open(log, "w", buffering=1) as file:
    os.dup2(file.fileno(), 1), os.dup2(file.fileno(), 2)
sys.addaudithook(kill)
torch.set_num_threads(1)
app(arguments)
"""


def color_image(label: int, rng: np.random.Generator) -> Image.Image:
    """Return a noisy image of a class's colour; some are easily mistaken."""
    noise = rng.normal(0, 40, (_SIZE, _SIZE, 3)) + rng.normal(0, 55, 3)
    return Image.fromarray((_COLORS[label] + noise).clip(0, 255).astype(np.uint8))


def write_images(folder: Path, count: int, seed: int, classes: Sequence[str] = CLASSES) -> Path:
    """Write a folder with a subfolder per class."""
    rng = np.random.default_rng(seed)
    for position in range(count):
        label = position % len(classes)
        file = folder / classes[label] / f"{position:03}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        color_image(label, rng).save(file)
    return folder


def write_classifier(folder: Path, classes: Sequence[str] = CLASSES) -> Path:
    """Write a ViT of three blocks that was trained for a second, with its image processor."""
    config = ViTConfig(
        hidden_size=32,
        num_hidden_layers=NUM_BLOCKS,
        num_attention_heads=2,
        intermediate_size=48,
        image_size=_SIZE,
        patch_size=8,
        id2label=dict(enumerate(classes)),
        label2id={name: label for label, name in enumerate(classes)},
    )
    rng = np.random.default_rng(0)
    processor = ViTImageProcessorPil(size={"height": _SIZE, "width": _SIZE})
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = ViTForImageClassification(config).train()
        optimizer = torch.optim.Adam(model.parameters(), 3e-3)
        for _ in range(40):
            labels = rng.integers(0, len(_COLORS), 32)
            pictures = [color_image(label, rng) for label in labels]
            pixels = processor(pictures, return_tensors="pt")["pixel_values"]
            loss = model(pixel_values=pixels, labels=torch.from_numpy(labels)).loss
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    model.eval().save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def build_arguments(root: Path, output: Path, **options: object) -> list[str]:
    """Return the command line that builds from `root/model`, `root/train` and `root/validation`."""
    chosen = {
        "model": root / "model",
        "train": root / "train",
        "validation": root / "validation",
        "exits": "1,2",
        "levels": "8,4",
        "head_epochs": 4,
        "gate_epochs": 4,
        "calibration_images": 4,
        "output": output,
        **options,
    }
    arguments = ["build"]
    for name, value in chosen.items():
        if value is not None:
            arguments += [f"--{name.replace('_', '-')}"] + ([] if value is True else [str(value)])
    return arguments


def run(arguments: Sequence[str], log: Path, deadly: Sequence[str] | None = None) -> int:
    """Run `quee` in a process of its own, with one thread, and return its exit code.

    Args:
        arguments: After `quee`.
        log: File for all that is printed.
        deadly: If given, the process is killed, without a chance to tidy up, right before this happens: an
            event as `sys.addaudithook` names it, and parts of what it is about (of a path, say).
    """
    process = start_verb(arguments, log, deadly)
    process.join()
    return process.exitcode


def start_verb(
    arguments: Sequence[str], log: Path, deadly: Sequence[str] | None = None
) -> multiprocessing.Process:
    """Start what `run` runs."""
    return start(_RUN, {"arguments": list(arguments), "log": str(log), "deadly": deadly})


def start(code: str, names: dict[str, object]) -> multiprocessing.Process:
    """Start a process of its own that runs some code, with the given variables."""
    process = _SERVER.Process(target=exec, args=(code, names))
    process.start()
    return process
