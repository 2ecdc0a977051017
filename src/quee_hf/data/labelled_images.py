"""Labelled images for training and measuring: checked once, kept encoded, decoded on access."""

import hashlib
import io
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image
from torch.utils.data import Dataset, Subset

from quee_hf.data.sources import EncodedImages, read_source
from quee_hf.errors import BadDatasetError, BadImageError
from quee_hf.images import to_rgb

logger = logging.getLogger(__name__)

_NUM_NAMED = 3  # how many culprits a message names before it only counts
_ROWS_PER_TASK = 256


@dataclass(frozen=True, eq=False)
class LabelledImages(Dataset[dict[str, Any]]):
    """A map-style dataset of `{"image": RGB image, "label": int}`, cheap to select from and to pickle.

    Made by `load_image_dataset` or `LabelledImages.from_images`.

    Args:
        encoded: Every image of the source, shared between selections.
        rows: `(N,)`, int64. Which images of `encoded` belong to this dataset, in order.
        labels: `(N,)`, int64.
        digests: `(N, 32)`, uint8. SHA-256 of each image's size and RGB pixels, however it is encoded.
        class_names: What each label means, where the source says so.
        skipped: One sentence per image that could not be read and was left out.
    """

    encoded: EncodedImages
    rows: NDArray[np.int64]
    labels: NDArray[np.int64]
    digests: NDArray[np.uint8]
    class_names: list[str] | None = None
    skipped: tuple[str, ...] = ()

    @classmethod
    def from_images(
        cls, images: Sequence[Image.Image], labels: Sequence[int | str], class_names: list[str] | None = None
    ) -> "LabelledImages":
        """Build a dataset from images in memory, stored without loss."""
        if len(images) != len(labels):
            raise ValueError(f"{len(images)} images, but {len(labels)} labels.")
        names = [f"number {position}" for position in range(len(images))]
        encoded = EncodedImages([_png(image) for image in images], names, labels, class_names)
        return _checked(encoded, skip_bad=False)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"image": self.encoded.decode(self.rows[index]), "label": int(self.labels[index])}

    @property
    def fingerprint(self) -> str:
        """SHA-256 of all pixels and labels, in order; independent of where and how they are stored."""
        content = hashlib.sha256(self.digests.tobytes())
        content.update(self.labels.astype("<i8").tobytes())
        return content.hexdigest()

    def select(self, indices: ArrayLike) -> "LabelledImages":
        """Return the given positions, in the given order, as a dataset.

        Args:
            indices: Integers, negative ones from the end, or a boolean mask of length N.

        Raises:
            IndexError: If a position does not exist.
        """
        indices = np.asarray(indices)
        positions = np.arange(len(self))[indices if indices.size else indices.astype(np.int64)]
        return replace(
            self, rows=self.rows[positions], labels=self.labels[positions], digests=self.digests[positions]
        )

    def spread(self, limit: int | None) -> "LabelledImages":
        """Return at most this many images, evenly spread: those of a folder are sorted by class."""
        if limit is None or limit >= len(self):
            return self
        return self.select([position * len(self) // limit for position in range(limit)])

    def distinct(self) -> "LabelledImages":
        """Return every image once: the first of those that are the same pixel for pixel."""
        _, first = np.unique(self.digests, axis=0, return_index=True)
        return self if len(first) == len(self) else self.select(np.sort(first))

    def split(self, fractions: Sequence[float], seed: int) -> list["LabelledImages"]:
        """Draw disjoint parts in which every class has its share, as near as whole images allow.

        Rows keep their order inside each part. What the fractions leave of 1 is in no part.

        Args:
            fractions: Share of each part, positive, together at most 1.
            seed: The same seed gives the same parts.

        Raises:
            ValueError: If the fractions are not such shares.
            BadDatasetError: If a part would be empty.
        """
        shares = np.asarray(fractions, dtype=np.float64)
        if shares.ndim != 1 or not shares.size or not (shares > 0).all() or shares.sum() > 1 + 1e-9:
            raise ValueError(f"`fractions` must be positive and sum to at most 1, got {list(fractions)}.")
        part_of = _stratified_parts(self.labels, shares, np.random.default_rng(seed))
        parts = [self.select(np.flatnonzero(part_of == part)) for part in range(len(shares))]
        if not all(len(part) for part in parts):
            raise BadDatasetError(f"{len(self)} images are too few to split into {list(fractions)}.")
        return parts

    def with_class_names(self, class_names: list[str] | None) -> "LabelledImages":
        """Return the same images and labels with other words for the labels, or with none."""
        if class_names is not None and len(self) and len(class_names) <= self.labels.max():
            raise ValueError(f"{len(class_names)} class names, but a label {self.labels.max()}.")
        return replace(self, class_names=class_names)

    def with_processor(self, image_processor: Callable[..., Mapping[str, Any]]) -> "ProcessedImages":
        """Return a dataset of what a model takes, made by a Hugging Face image processor."""
        return ProcessedImages(self, image_processor)


@dataclass(frozen=True, eq=False)
class ProcessedImages(Dataset[dict[str, Any]]):
    """A map-style dataset of `{"pixel_values": (C, H, W) float32 tensor, "labels": int}`."""

    images: LabelledImages
    image_processor: Callable[..., Mapping[str, Any]]

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> dict[str, Any]:
        example = self.images[index]
        processed = self.image_processor(images=example["image"], return_tensors="pt")
        return {"pixel_values": processed["pixel_values"][0].float(), "labels": example["label"]}


def known_images(dataset: object) -> ProcessedImages | None:
    """Return a data set of which it can be told what images it holds, or `None`.

    Args:
        dataset: `ProcessedImages`, or a `Subset` of such, is known.
    """
    if isinstance(dataset, Subset):
        inside = known_images(dataset.dataset)
        return inside and replace(inside, images=inside.images.select(list(dataset.indices)))
    return dataset if isinstance(dataset, ProcessedImages) else None


def load_image_dataset(
    source: str | Path | Sequence[str | Path],
    *,
    split: str | None = None,
    skip_bad: bool = False,
    labelled: bool = True,
) -> LabelledImages:
    """Read labelled images, and decode every one of them once to know that it can be decoded.

    Args:
        source: A parquet file with columns `image` (or `img`) and `label` (or `labels`, `fine_label`), or
            several of them as a list or joined by commas; a folder with one subfolder of images per class,
            whose labels follow the order of the folder names; or a dataset on the Hub, `owner/name` or
            `owner/name:split`.
        split: Of a dataset on the Hub, or the subfolder of an image folder (`train`).
        skip_bad: Leave out images that cannot be read, with a warning in the log and a line each
            in `skipped`.
        labelled: Whether labels are read; all are -1 without. Then a parquet file or a dataset needs no
            column of labels, and a folder's images may be anywhere in it.

    Returns:
        The images, encoded: in memory for parquet, on disk otherwise.

    Raises:
        BadDatasetError: If the source is missing, damaged or of another kind, if a label is not a class, or
            if an image cannot be read and `skip_bad` is false. The message names the culprits.
    """
    encoded = read_source(source, split, labelled=labelled)
    if not len(encoded.cells):
        raise BadDatasetError(f"There are no images in {source}.")
    return _checked(encoded, skip_bad=skip_bad, labelled=labelled)


def count_shared_images(first: LabelledImages, second: LabelledImages) -> int:
    """Count the images that are in both datasets, pixel for pixel; labels do not matter."""
    return len({row.tobytes() for row in first.digests} & {row.tobytes() for row in second.digests})


def _first_few(items: Sequence[str]) -> str:
    """Return the first items, and that there are more."""
    return ", ".join(items[:_NUM_NAMED]) + (", ..." if len(items) > _NUM_NAMED else "")


def _png(image: Image.Image) -> bytes:
    """Encode an image without loss, as `to_rgb` shows it."""
    buffer = io.BytesIO()
    to_rgb(image).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def _checked(encoded: EncodedImages, *, skip_bad: bool, labelled: bool = True) -> LabelledImages:
    """Check every label and image."""
    labels, class_names = _integer_labels(encoded) if labelled else (np.array(encoded.labels), None)
    digests, complaints = _examine(encoded)
    if complaints:
        summary = f"{len(complaints)} of {len(labels)} images cannot be read: " + " ".join(
            list(complaints.values())[:_NUM_NAMED] + ["..."] * (len(complaints) > _NUM_NAMED)
        )
        if not skip_bad or len(complaints) == len(labels):
            raise BadDatasetError(f"{summary} Pass skip_bad=True to leave out bad images among good ones.")
        logger.warning("Skipping bad images. %s", summary)
    good = np.setdiff1d(np.arange(len(labels)), np.fromiter(complaints, dtype=np.int64))
    return LabelledImages(encoded, good, labels[good], digests[good], class_names, tuple(complaints.values()))


def _integer_labels(encoded: EncodedImages) -> tuple[NDArray[np.int64], list[str] | None]:
    """Return labels as numbers; strings are numbered in sorted order unless the class names are known."""
    labels, class_names = list(encoded.labels), encoded.class_names
    if labels and all(isinstance(label, str) for label in labels):
        class_names = class_names or sorted(set(labels))
        number = {name: position for position, name in enumerate(class_names)}
        labels = [number.get(label, label) for label in labels]
    limit = len(class_names) if class_names else np.iinfo(np.int64).max
    bad = [
        f"{label!r} ({name})"
        for label, name in zip(labels, encoded.names, strict=True)
        if not isinstance(label, int | np.integer) or not 0 <= label < limit
    ]
    if bad:
        allowed = f"0 to {limit - 1}" if class_names else "0, 1, ..."
        raise BadDatasetError(f"{len(bad)} labels are not one of {allowed}: {_first_few(bad)}.")
    return np.array(labels, dtype=np.int64), class_names


def _examine(encoded: EncodedImages) -> tuple[NDArray[np.uint8], dict[int, str]]:
    """Return every image's digest, and for each bad one (by row) what is wrong with it."""
    num_images = len(encoded.cells)
    starts = range(0, num_images, _ROWS_PER_TASK)
    tasks = [range(start, min(start + _ROWS_PER_TASK, num_images)) for start in starts]
    # Threads, because Pillow decodes outside the interpreter lock.
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        examined = [pair for pairs in pool.map(partial(_examine_rows, encoded), tasks) for pair in pairs]
    digests = np.frombuffer(b"".join(digest for digest, _ in examined), dtype=np.uint8).reshape(-1, 32)
    return digests, {row: complaint for row, (_, complaint) in enumerate(examined) if complaint}


def _examine_rows(encoded: EncodedImages, rows: range) -> list[tuple[bytes, str]]:
    """Return digest and complaint, either of them empty in meaning, of some images."""
    examined = []
    for row in rows:
        try:
            examined.append((_digest(encoded.decode(row)), ""))
        except BadImageError as error:
            examined.append((bytes(32), str(error)))
    return examined


def _digest(image: Image.Image) -> bytes:
    """Return a SHA-256 of what a model sees of an image."""
    content = hashlib.sha256(str(image.size).encode())
    content.update(image.tobytes())
    return content.digest()


def _stratified_parts(
    labels: NDArray[np.int64], shares: NDArray[np.float64], rng: np.random.Generator
) -> NDArray[np.int64]:
    """Return the part of every row; `len(shares)` stands for none.

    Rows are dealt class by class, each to the part that is furthest behind its share. So every class, and the
    whole, is divided as the shares say but for a row or two, even where no class divides evenly.
    """
    quotas = np.append(shares, max(0.0, 1.0 - shares.sum()))
    shuffled = rng.permutation(len(labels))
    rank_of_class = rng.permutation(labels.max(initial=0) + 1)
    by_class = shuffled[np.argsort(rank_of_class[labels[shuffled]], kind="stable")]
    part_of = np.empty(len(labels), dtype=np.int64)
    num_dealt = np.zeros(len(quotas))
    for turn, row in enumerate(by_class, start=1):
        part = int(np.argmax(quotas * turn - num_dealt))
        num_dealt[part] += 1
        part_of[row] = part
    return part_of
