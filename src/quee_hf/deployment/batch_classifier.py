"""`BatchClassifier`: classify the rows of a table batch by batch, as Ray Data and `datasets` have them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from transformers import pipeline

import quee_hf  # noqa: F401 - registers the model and its pipeline
from quee_hf.images import load_rgb

ANSWERS = ("answer", "score", "exit_block", "cost", "error_probability")
_PIXELS = 3  # dimensions of an image in an array


class BatchClassifier:
    """Classify the images in a column, and give back the other columns with the answers beside them.

    Rows stay in their order. Whoever makes an instance loads the model, once; Ray Data makes one in each of
    its workers: `data.map_batches(BatchClassifier, fn_constructor_kwargs={"model": ...}, concurrency=2)`.

    Args:
        model: Directory or id on the Hub.
        image_column: Its cells are image files as bytes, as `{"bytes", "path"}` (of `datasets`) or as paths,
            images of Pillow, or arrays `(height, width, 3)`, uint8.
        batch_size: Images that a segment runs on; batches of rows may be larger.
        **options: Of the pipeline: `engine`, and what says how to route, such as `cost_lambda`.

    Raises:
        ValueError: If an option has no meaning for the model.
    """

    def __init__(
        self, model: str, *, image_column: str = "image", batch_size: int = 32, **options: Any
    ) -> None:
        self._image_column = image_column
        self._classify: Any = pipeline("image-classification", model=model, return_routing=True, **options)
        self._batch_size = batch_size

    def __call__(self, rows: Mapping[str, Any]) -> dict[str, Any]:
        """Classify a batch of rows.

        Args:
            rows: Columns of one length, by name.

        Returns:
            All columns but that of the images, and for each image "answer", the likeliest class, "score", its
            probability, "exit_block", "cost" and "error_probability", NaN where no gate was asked.

        Raises:
            ValueError: If there is no column of images, or one is called like what would be added.
            BadImageError: If an image cannot be read.
        """
        if self._image_column not in rows:
            raise ValueError(f"There is no column {self._image_column!r}, only {sorted(rows)}.")
        if taken := sorted(set(rows) & set(ANSWERS)):
            raise ValueError(f"There are columns {taken} already: call them otherwise.")
        cells = rows[self._image_column]
        images = [_image(cell, f"{row} of a batch") for row, cell in enumerate(cells)]
        found = self._classify(images, batch_size=self._batch_size, top_k=1) if images else []
        others = {name: column for name, column in rows.items() if name != self._image_column}
        return {**others, **_columns(found)}


def _columns(found: Sequence[dict[str, Any]]) -> dict[str, np.ndarray[Any, Any]]:
    routes = [each["routing"] for each in found]
    return {
        "answer": np.array([each["scores"][0]["label"] for each in found], dtype=np.str_),
        "score": np.array([each["scores"][0]["score"] for each in found], dtype=np.float32),
        "exit_block": np.array([route["exit_block"] for route in routes], dtype=np.int64),
        "cost": np.array([route["cost"] for route in routes], dtype=np.float32),
        "error_probability": np.array([route["error_probability"] for route in routes], dtype=np.float32),
    }


def _image(cell: Any, name: str) -> Image.Image:
    """Return the image in a cell, RGB."""
    if isinstance(cell, Mapping):
        name, cell = cell.get("path") or name, cell.get("bytes") or cell.get("path")
    if isinstance(cell, np.ndarray):
        if cell.ndim != _PIXELS or cell.dtype != np.uint8 or not cell.size:
            raise ValueError(
                f"Image {name} must be (height, width, 3), uint8, got {cell.shape}, {cell.dtype}."
            )
        cell = Image.fromarray(cell)
    if not isinstance(cell, bytes | str | Path | Image.Image):
        raise ValueError(
            f"Image {name} must be a file's bytes or path, or pixels, got {type(cell).__name__}."
        )
    return load_rgb(cell, name=None if isinstance(cell, str | Path) else name)
