"""Image files that verbs are given: found, read in batches, and what could not be read."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from quee_hf.cli.display import say

if TYPE_CHECKING:
    from PIL import Image


def expand(images: list[str]) -> list[Path]:
    """Replace directories by the image files in them, sorted."""
    from quee_hf.images import image_files

    files: list[Path] = []
    for image in map(Path, images):
        if not image.is_dir():
            files.append(image)
            continue
        inside = image_files(image)
        if not inside:
            raise ValueError(f"There are no images in {image}.")
        files += inside
    return files


def read_batches(
    files: list[Path], batch_size: int, unreadable: list[dict[str, str]]
) -> Iterator[list[tuple[Path, "Image.Image"]]]:
    """Yield readable images in batches, and note the others."""
    from quee_hf.errors import BadImageError
    from quee_hf.images import load_rgb

    batch = []
    for file in files:
        try:
            batch.append((file, load_rgb(file)))
        except BadImageError as error:
            unreadable.append({"image": str(file), "error": str(error)})
        if len(batch) == batch_size:
            yield batch
            batch = []
    if batch:
        yield batch


def report_unreadable(unreadable: list[dict[str, str]], num_files: int, *, skip_bad: bool) -> None:
    """Say which images could not be read, and fail if there are any, unless that is allowed."""
    for bad in unreadable:
        say(f"quee: {bad['error']}")
    if unreadable:
        say(f"quee: {len(unreadable)} of {num_files} images could not be read.")
        if not skip_bad:
            raise typer.Exit(1)
