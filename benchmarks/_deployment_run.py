"""Runs in an environment without PyTorch: routes a folder of images with an exported model.

Run: `python _deployment_run.py EXPORTED IMAGES RESULT.npz BATCH_SIZE LAMBDA...`, by `deployment.py`.
"""

import sys
from pathlib import Path

import numpy as np

exported, images, result, batch_size, *lambdas = sys.argv[1:]
sys.path.insert(0, exported)

from quee_images import ImageReader  # noqa: E402
from quee_router import HostRouter  # noqa: E402

read, router = ImageReader.from_folder(exported), HostRouter(exported)
files = sorted(Path(images).glob("*.png"))
starts = range(0, len(files), int(batch_size))
pixels = np.concatenate([read(files[start : start + int(batch_size)]) for start in starts])
found = {"pixels": pixels}
for value in lambdas:
    parts = [router(pixels[start : start + int(batch_size)], cost_lambda=float(value)) for start in starts]
    found[f"logits {value}"] = np.concatenate([part.logits for part in parts])
    found[f"path {value}"] = np.concatenate([part.path for part in parts])
assert "torch" not in sys.modules
np.savez(result, **found)
