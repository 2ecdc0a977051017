"""A stand-in for a classifier and images of your own: a small ViT and handwritten digits, made in seconds."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from sklearn.datasets import load_digits
from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessorPil

# Which digits: what the classifier learns from, what it has not seen, what is left to test on.
FOLDERS = {"train": slice(0, 800), "unseen": slice(800, 1500), "test": slice(1500, None)}


def write_digits(folder: Path) -> None:
    """Write `train`, `unseen` and `test`, each a folder with a subfolder per class."""
    data = load_digits()
    for name, rows in FOLDERS.items():
        for number, (pixels, label) in enumerate(zip(data.images[rows], data.target[rows], strict=True)):
            file = folder / name / str(label) / f"{number:04}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray((pixels * 15.9).astype(np.uint8)).save(file)


def write_classifier(folder: Path, epochs: int = 25) -> None:
    """Train a ViT of four blocks on the digits, and save it with its image processor."""
    torch.manual_seed(0)
    data, processor = (
        load_digits(),
        ViTImageProcessorPil(size={"height": 16, "width": 16}, do_convert_rgb=True),
    )
    names = {digit: str(digit) for digit in range(10)}
    size = {"hidden_size": 64, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 128}
    config = ViTConfig(
        **size, image_size=16, patch_size=4, id2label=names, label2id={n: d for d, n in names.items()}
    )
    vit = ViTForImageClassification(config)
    images = [Image.fromarray((pixels * 15.9).astype(np.uint8)) for pixels in data.images[FOLDERS["train"]]]
    pixels = processor(images, return_tensors="pt")["pixel_values"]
    labels = torch.tensor(data.target[FOLDERS["train"]])
    optimizer = torch.optim.AdamW(vit.parameters(), 2e-3)
    for _ in range(epochs):
        for rows in torch.randperm(len(labels)).split(32):
            loss = vit(pixel_values=pixels[rows], labels=labels[rows]).loss
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    vit.eval().save_pretrained(folder)
    processor.save_pretrained(folder)
