"""Where labelled images come from: parquet files, image folders and the Hub. Nothing is decoded here."""

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import pyarrow
import pyarrow.parquet
from PIL import Image

from quee_hf.errors import BadDatasetError, BadImageError
from quee_hf.images import IMAGE_SUFFIXES, image_files, load_rgb
from quee_hf.saved_config import DAMAGE

if TYPE_CHECKING:
    import datasets

ACCEPTED_SOURCES = (
    "Accepted are a parquet file (several: a list, or joined by commas), a folder with one subfolder of "
    "images per class, and a dataset on the Hub, 'owner/name' or 'owner/name:split'"
)
_IMAGE_COLUMNS = ("image", "img")
_LABEL_COLUMNS = ("label", "labels", "fine_label")  # the last is CIFAR-100's on the Hub
NO_LABEL = -1
_HUB_ID = re.compile(r"(?P<id>[\w-][\w.-]*/[\w-][\w.-]*)(:(?P<split>[\w.-]+))?")


class Cells(Protocol):
    """A column of images: an image file's bytes, its path, or nothing."""

    def __len__(self) -> int: ...

    def __getitem__(self, row: int, /) -> bytes | str | None: ...


@dataclass(frozen=True)
class EncodedImages:
    """Images as files hold them, with their labels as the source writes them.

    Args:
        cells: One for each image.
        names: What to call each image in a message: its file, or its row.
        labels: Integers or strings; `NO_LABEL` for each if they were not read.
        class_names: The name of each integer label, where the source knows it.
    """

    cells: Cells
    names: Sequence[str]
    labels: Sequence[Any]
    class_names: list[str] | None

    def read(self, row: int) -> bytes:
        """Return the bytes of one image file, or raise `BadImageError`."""
        cell = self.cells[row]
        if isinstance(cell, bytes):
            return cell
        if cell is None:
            raise BadImageError(f"Cannot read image {self.names[row]}: the cell is empty.")
        try:
            return Path(cell).read_bytes()
        except OSError as error:
            raise BadImageError(f"Cannot read image {self.names[row]}: {error.strerror}.") from error

    def decode(self, row: int) -> Image.Image:
        """Return one image as `quee_hf.images.load_rgb` does, or raise `BadImageError`."""
        return load_rgb(self.read(row), name=self.names[row])


def read_source(
    source: str | Path | Sequence[str | Path], split: str | None, *, labelled: bool = True
) -> EncodedImages:
    """Find out what `source` is and read its labels and encoded images.

    Args:
        source: One of `ACCEPTED_SOURCES`. A comma inside an existing path is part of the path.
        split: Of a dataset on the Hub, or the subfolder of an image folder.
        labelled: Whether labels are read. Without, columns of labels need not be there, and images may be
            anywhere in a folder.

    Raises:
        BadDatasetError: If the source is none of these, or is damaged. The message names it.
    """
    parts = _parts_of(source)
    paths = [Path(part).expanduser() for part in parts]
    if parts and all(path.suffix == ".parquet" for path in paths):
        if split is not None:
            raise BadDatasetError(f"A parquet file has no splits, but split={split!r} was asked of {source}.")
        return _join([_read_parquet(path, labelled) for path in paths])
    if len(parts) != 1:
        problem = "joins what are not parquet files" if parts else "names nothing"
        raise BadDatasetError(f"'{source}' {problem}. {ACCEPTED_SOURCES}.")
    if paths[0].is_dir():
        folder = paths[0] / split if split else paths[0]
        return _read_folder(folder) if labelled else _read_files(folder)
    match = None if paths[0].exists() else _HUB_ID.fullmatch(parts[0])
    if match is None:
        problem = "is a file of another kind" if paths[0].exists() else "does not exist"
        raise BadDatasetError(f"'{parts[0]}' {problem}. {ACCEPTED_SOURCES}.")
    if split and match["split"] and split != match["split"]:
        raise BadDatasetError(f"Two splits were asked for: '{parts[0]}' and split={split!r}.")
    return _read_hub(match["id"], split or match["split"], labelled)


def _parts_of(source: str | Path | Sequence[str | Path]) -> list[str]:
    """Return the single sources that `source` lists."""
    if isinstance(source, Path) or (isinstance(source, str) and source.strip() and Path(source).exists()):
        return [str(source)]
    listed = source.split(",") if isinstance(source, str) else [str(part) for part in source]
    return [part.strip() for part in listed if part.strip()]


def _join(sources: list[EncodedImages]) -> EncodedImages:
    """Put sources one after the other; their classes must agree."""
    known = [source.class_names for source in sources if source.class_names]
    if any(class_names != known[0] for class_names in known):
        described = "; ".join(f"{source.names[:1]}: {source.class_names}" for source in sources)
        raise BadDatasetError(f"The parquet files have different classes. {described}.")
    return EncodedImages(
        cells=[source.cells[row] for source in sources for row in range(len(source.cells))],
        names=[name for source in sources for name in source.names],
        labels=[label for source in sources for label in source.labels],
        class_names=known[0] if known else None,
    )


def _read_parquet(path: Path, labelled: bool) -> EncodedImages:
    """Read the image and label columns of one file."""
    if not path.is_file():
        raise BadDatasetError(f"'{path}' does not exist. {ACCEPTED_SOURCES}.")
    try:
        schema = pyarrow.parquet.read_schema(path)
        columns = _columns_of(schema.names, str(path), labelled)
        table = pyarrow.parquet.read_table(path, columns=list(columns))
    except (pyarrow.ArrowException, OSError) as error:
        raise BadDatasetError(f"Cannot read the parquet file '{path}': {error}") from error
    images, *labels = (table.column(column).to_pylist() for column in columns)
    return EncodedImages(
        cells=[_cell_of(image, path.parent, str(path)) for image in images],
        names=[f"row {row} of {path}" for row in range(len(images))],
        labels=labels[0] if labelled else [NO_LABEL] * len(images),
        class_names=_stored_class_names(schema, columns[1]) if labelled else None,
    )


def _columns_of(present: Sequence[str], name: str, labelled: bool) -> list[str]:
    """Return which column holds the images and, if these are wanted, which the labels."""
    found = []
    for accepted in (_IMAGE_COLUMNS, _LABEL_COLUMNS)[: 1 + labelled]:
        matching = [column for column in accepted if column in present]
        if not matching:
            wanted = " or ".join(accepted)
            raise BadDatasetError(f"'{name}' has no column {wanted}, only {', '.join(present)}.")
        found.append(matching[0])
    return found


def _cell_of(image: object, folder: Path, name: str) -> bytes | str | None:
    """Return the bytes in a cell, else the path, relative to `folder`."""
    if isinstance(image, dict):
        image = image.get("bytes") or image.get("path")
    if isinstance(image, str):
        return str(folder / image)
    if image is None or isinstance(image, bytes):
        return image
    raise BadDatasetError(f"The image column of '{name}' holds {type(image).__name__}, not encoded images.")


def _stored_class_names(schema: pyarrow.Schema, column: str) -> list[str] | None:
    """Return the class names that `datasets` writes into a parquet file, if any."""
    try:
        stored = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
        feature = stored.get("info", {}).get("features", {}).get(column, {})
        names = feature.get("names")
        return [str(name) for name in names] if names else None
    except DAMAGE as error:
        raise BadDatasetError(f"The class names in a parquet file cannot be read: {error!r}.") from error


def _read_folder(folder: Path) -> EncodedImages:
    """List the image files of every class folder, both in the order of their names."""
    if not folder.is_dir():
        raise BadDatasetError(f"'{folder}' does not exist. {ACCEPTED_SOURCES}.")
    class_folders = [path for path in _listing(folder) if path.is_dir()]
    if not class_folders:
        raise BadDatasetError(f"'{folder}' has no subfolders, one for each class. {ACCEPTED_SOURCES}.")
    files: list[str] = []
    labels: list[int] = []
    for label, class_folder in enumerate(class_folders):
        inside = list(_listing(class_folder))
        images = [str(path) for path in inside if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file()]
        if not images and any(path.is_dir() for path in inside):
            raise BadDatasetError(
                f"'{class_folder}' holds folders, not images of one class. If it is a split, pass "
                f"split='{class_folder.name}', or the folder itself."
            )
        files += images
        labels += [label] * len(images)
    return EncodedImages(files, files, labels, [path.name for path in class_folders])


def _read_files(folder: Path) -> EncodedImages:
    """List the image files in a folder, at any depth."""
    files = [str(path) for path in image_files(folder)]
    if not files:
        raise BadDatasetError(f"There are no images in '{folder}'.")
    return EncodedImages(files, files, [NO_LABEL] * len(files), None)


def _listing(folder: Path) -> Iterator[Path]:
    """Yield what is in a folder, sorted, without hidden entries."""
    return (path for path in sorted(folder.iterdir()) if not path.name.startswith("."))


class _HubImages:
    """The image column of a dataset on the Hub, which stays on disk."""

    def __init__(self, rows: "datasets.Dataset", name: str) -> None:
        self._rows = rows
        self._name = name

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, row: int, /) -> bytes | str | None:
        (image,) = self._rows[int(row)].values()
        return _cell_of(image, Path(), self._name)


def _read_hub(dataset_id: str, split: str | None, labelled: bool) -> EncodedImages:
    """Download (or take from the cache) one split of a dataset."""
    import datasets  # takes a second to import, and only the Hub needs it

    try:
        loaded = datasets.load_dataset(dataset_id, split=split)
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        raise BadDatasetError(
            f"'{dataset_id}' is no existing path, and the Hub did not give it as a dataset: {error} "
            f"{ACCEPTED_SOURCES}."
        ) from error
    if isinstance(loaded, dict) and len(loaded) > 1:
        splits = ", ".join(loaded)
        raise BadDatasetError(f"'{dataset_id}' has the splits {splits}: name one, '{dataset_id}:<split>'.")
    rows = next(iter(loaded.values())) if isinstance(loaded, dict) else loaded
    image, *label = _columns_of(rows.column_names, dataset_id, labelled)
    if not isinstance(rows.features[image], datasets.Image):
        kind = rows.features[image]
        raise BadDatasetError(f"Column '{image}' of '{dataset_id}' holds no images, but {kind}.")
    encoded = rows.select_columns([image]).cast_column(image, datasets.Image(decode=False))
    return EncodedImages(
        cells=_HubImages(encoded, dataset_id),
        names=[f"row {row} of {dataset_id}:{rows.split}" for row in range(len(rows))],
        labels=rows[label[0]][:] if labelled else [NO_LABEL] * len(rows),
        class_names=getattr(rows.features[label[0]], "names", None) if labelled else None,
    )


def shown_source(source: str) -> str:
    """Name a source of images without the folders of this machine, for reports that others read.

    Example:
        >>> shown_source("owner/name:test")
        'owner/name:test'
    """
    paths = {part: Path(part).expanduser() for part in _parts_of(source)}
    return ",".join(path.name if path.exists() else part for part, path in paths.items())
