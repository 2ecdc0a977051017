"""A tiny model that routes, and files of images for it."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.profiles import make_profile
from tests.tiny import VARIANTS, quantize_fast, routable, wrap
from transformers import ViTImageProcessorPil

from quee_hf.demo.classification import Classifier

SIZE = 32


def processor() -> ViTImageProcessorPil:
    return ViTImageProcessorPil(size={"height": SIZE, "width": SIZE}, do_convert_rgb=True)


def operating_points() -> list[dict]:
    """Return points whose mean costs and accuracies are easy to look at."""
    rows = [(0.0, 1.0, 0.9), (0.1, 0.6, 0.85), (0.2, 0.5, 0.8), (0.5, 0.25, 0.6), (1.0, 0.25, 0.6)]
    return [
        {"cost_lambda": each, "cost": cost, "accuracy": accuracy, "num_images": 100, "cost_model": "bitops"}
        for each, cost, accuracy in rows
    ]


@pytest.fixture(scope="session")
def classifier() -> Classifier:
    """Everything a model can have: gates, operating points, a profile."""
    model = routable()
    config = model.config
    config.operating_points, config.cost_lambda = operating_points(), 0.1
    config.record = {"profile": make_profile(config.num_exits, len(config.levels))}
    config.id2label = dict(enumerate(["cat", "dog", "<b>", "crane", "crane"]))
    return Classifier(model, processor())


@pytest.fixture(scope="session")
def untrained() -> Classifier:
    """A model that can only run one path for all."""
    model = wrap(VARIANTS["vit"].build(), levels=[8, 6, 4])
    quantize_fast(model)
    return Classifier(model, processor())


def noise(seed: int, size: int = 20) -> Image.Image:
    """Return a picture of its own for each seed."""
    random = np.random.default_rng(seed)
    pixels = random.uniform(0, 255, 3) + random.normal(0, 60, (size, size, 3))
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


@pytest.fixture
def pictures(tmp_path) -> list[Path]:
    """Return files of images, all different."""
    files = [tmp_path / f"{number}.png" for number in range(6)]
    for number, file in enumerate(files):
        noise(number).save(file)
    return files


@pytest.fixture
def broken(tmp_path) -> Path:
    file = tmp_path / "broken.jpg"
    file.write_bytes(b"\xff\xd8 no image")
    return file
