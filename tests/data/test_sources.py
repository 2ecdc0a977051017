"""Tests of `quee_hf.data.sources`: each kind of source, and what is said about everything that is none."""

import io
import json

import datasets
import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from PIL import Image

from quee_hf.data import shown_source
from quee_hf.data.sources import read_source
from quee_hf.errors import BadDatasetError, BadImageError


def png(value: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (3, 2), (value, 0, 0)).save(buffer, "PNG")
    return buffer.getvalue()


def write_parquet(path, images, labels, *, class_names=None, columns=("image", "label")):
    table = pyarrow.table(dict(zip(columns, (images, labels), strict=True)))
    if class_names:
        features = {columns[1]: {"names": class_names, "_type": "ClassLabel"}}
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    pyarrow.parquet.write_table(table, path)
    return path


@pytest.fixture
def folder(tmp_path):
    """Images `cat/0.png`, `cat/1.png` and `dog/0.png`, each a shade of red."""
    for value, name in enumerate(["cat/0.png", "cat/1.png", "dog/0.png"]):
        path = tmp_path / "animals" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(value))
    return tmp_path / "animals"


def shades(encoded) -> list[int]:
    return [encoded.decode(row).getpixel((0, 0))[0] for row in range(len(encoded.cells))]


class TestParquet:
    @pytest.mark.parametrize("columns", [("image", "label"), ("img", "labels"), ("img", "fine_label")])
    @pytest.mark.parametrize("wrap", [lambda data: data, lambda data: {"bytes": data, "path": None}])
    def test_reads_images_labels_and_names(self, tmp_path, columns, wrap):
        images = [wrap(png(7)), wrap(png(8))]
        path = write_parquet(tmp_path / "a.parquet", images, [1, 0], class_names=["x", "y"], columns=columns)
        encoded = read_source(path, None)
        assert shades(encoded) == [7, 8]
        assert list(encoded.labels) == [1, 0]
        assert encoded.class_names == ["x", "y"]
        assert encoded.names[1] == f"row 1 of {path}"

    def test_reads_what_datasets_writes(self, tmp_path):
        features = datasets.Features(
            {
                "img": datasets.Image(),
                "label": datasets.ClassLabel(names=["x", "y"]),
                "note": datasets.Value("string"),
            }
        )
        images = [Image.new("RGB", (3, 2), (shade, 0, 0)) for shade in (5, 6)]
        rows = datasets.Dataset.from_dict(
            {"img": images, "label": [1, 0], "note": ["", ""]}, features=features
        )
        rows.to_parquet(tmp_path / "a.parquet")
        encoded = read_source(str(tmp_path / "a.parquet"), None)
        assert (shades(encoded), list(encoded.labels), encoded.class_names) == ([5, 6], [1, 0], ["x", "y"])

    @pytest.mark.parametrize("as_list", [True, False], ids=["list", "commas"])
    def test_files_are_joined_in_order(self, tmp_path, as_list):
        first = write_parquet(tmp_path / "1.parquet", [png(1)], [0], class_names=["x"])
        second = write_parquet(tmp_path / "2.parquet", [png(2)], [0])
        encoded = read_source([first, second] if as_list else f"{first}, {second}", None)
        assert shades(encoded) == [1, 2]
        assert encoded.class_names == ["x"]
        assert encoded.names[1] == f"row 0 of {second}"

    def test_a_comma_in_an_existing_path_is_part_of_it(self, tmp_path):
        path = write_parquet(tmp_path / "a,b.parquet", [png(3)], [0])
        assert shades(read_source(str(path), None)) == [3]

    def test_relative_path_in_a_cell_is_relative_to_the_file(self, tmp_path, folder):
        cell = {"bytes": None, "path": "animals/cat/1.png"}
        path = write_parquet(tmp_path / "a.parquet", [cell], [0])
        assert shades(read_source(path, None)) == [1]

    def test_empty_cell_is_a_bad_image(self, tmp_path):
        path = write_parquet(tmp_path / "a.parquet", [png(1), None], [0, 0])
        with pytest.raises(BadImageError, match=r"row 1 of .*a\.parquet: the cell is empty"):
            read_source(path, None).decode(1)

    def test_different_classes_are_not_joined(self, tmp_path):
        first = write_parquet(tmp_path / "1.parquet", [png(1)], [0], class_names=["x", "y"])
        second = write_parquet(tmp_path / "2.parquet", [png(2)], [0], class_names=["y", "x"])
        with pytest.raises(
            BadDatasetError, match=r"different classes.*1\.parquet.*\['x', 'y'\].*2\.parquet.*\['y', 'x'\]"
        ):
            read_source([first, second], None)

    def test_missing_column_is_named_with_those_present(self, tmp_path):
        path = write_parquet(tmp_path / "a.parquet", [png(1)], [0], columns=("image", "target"))
        with pytest.raises(
            BadDatasetError, match=r"a\.parquet' has no column label or .*, only image, target"
        ):
            read_source(path, None)

    def test_column_of_something_else_is_refused(self, tmp_path):
        path = write_parquet(tmp_path / "a.parquet", [1.5], [0])
        with pytest.raises(BadDatasetError, match=r"image column of .*a\.parquet' holds float"):
            read_source(path, None)

    def test_damaged_file_is_named(self, tmp_path):
        path = tmp_path / "a.parquet"
        path.write_bytes(b"PAR1 and no more")
        with pytest.raises(BadDatasetError, match=r"Cannot read the parquet file '.*a\.parquet'"):
            read_source(path, None)

    def test_split_of_a_parquet_file_is_refused(self, tmp_path):
        path = write_parquet(tmp_path / "a.parquet", [png(1)], [0])
        with pytest.raises(BadDatasetError, match="has no splits, but split='test'"):
            read_source(path, "test")


class TestFolder:
    def test_classes_and_files_are_sorted(self, folder):
        encoded = read_source(folder, None)
        assert encoded.class_names == ["cat", "dog"]
        assert shades(encoded) == [0, 1, 2]
        assert list(encoded.labels) == [0, 0, 1]
        assert encoded.names[2] == str(folder / "dog" / "0.png")

    def test_what_is_no_image_is_ignored(self, folder):
        (folder / "cat" / "notes.txt").write_text("meow")
        (folder / "cat" / ".hidden.png").write_bytes(b"")
        (folder / ".cache").mkdir()
        (folder / "README.md").write_text("animals")
        assert len(read_source(folder, None).cells) == 3

    def test_class_without_images_keeps_its_number(self, folder):
        (folder / "bird").mkdir()
        encoded = read_source(folder, None)
        assert encoded.class_names == ["bird", "cat", "dog"]
        assert list(encoded.labels) == [1, 1, 2]

    def test_split_is_a_subfolder(self, folder):
        assert shades(read_source(folder.parent, folder.name)) == [0, 1, 2]

    def test_folder_of_splits_is_not_taken_for_classes(self, folder):
        with pytest.raises(BadDatasetError, match=r"holds folders.*split='animals'"):
            read_source(folder.parent, None)

    def test_folder_without_subfolders_is_refused(self, folder):
        with pytest.raises(BadDatasetError, match=r"cat' has no subfolders, one for each class"):
            read_source(folder / "cat", None)

    def test_vanished_file_is_a_bad_image(self, folder):
        encoded = read_source(folder, None)
        (folder / "cat" / "1.png").unlink()
        with pytest.raises(BadImageError, match=r"1\.png: No such file"):
            encoded.decode(1)


@pytest.mark.parametrize(
    "source",
    ["/nowhere/images", "nowhere", "./no/where", "nowhere.parquet", "missing/file.parquet", "a/b/c", ""],
)
def test_wrong_path_is_named_with_what_is_accepted(source):
    with pytest.raises(BadDatasetError, match=r"Accepted are a parquet file") as caught:
        read_source(source, None)
    assert f"'{source}'" in str(caught.value)


def test_file_of_another_kind_is_refused(tmp_path):
    path = tmp_path / "labels.csv"
    path.write_text("a,b")
    with pytest.raises(BadDatasetError, match=r"labels\.csv' is a file of another kind\. Accepted are"):
        read_source(path, None)


def test_only_parquet_files_are_joined(folder):
    with pytest.raises(BadDatasetError, match="joins what are not parquet files"):
        read_source([folder, folder], None)


class TestHub:
    """The Hub itself is replaced: what arrives from it is a real `datasets.Dataset`."""

    @pytest.fixture
    def rows(self):
        features = datasets.Features(
            {"img": datasets.Image(), "label": datasets.ClassLabel(names=["x", "y"])}
        )
        images = [Image.fromarray(np.full((2, 3, 3), shade, dtype=np.uint8)) for shade in (4, 9)]
        return datasets.Dataset.from_dict({"img": images, "label": [1, 0]}, features=features, split="test")

    @pytest.fixture
    def asked(self, monkeypatch, rows):
        calls = []

        def load_dataset(path, split=None):
            calls.append((path, split))
            return rows if split else datasets.DatasetDict(test=rows)

        monkeypatch.setattr(datasets, "load_dataset", load_dataset)
        return calls

    @pytest.mark.parametrize(
        ("source", "split", "call"),
        [
            ("owner/name", None, ("owner/name", None)),
            ("owner/name:test", None, ("owner/name", "test")),
            ("owner/name", "test", ("owner/name", "test")),
        ],
    )
    def test_id_and_split_are_asked_for(self, asked, source, split, call):
        encoded = read_source(source, split)
        assert asked == [call]
        assert (shades(encoded), list(encoded.labels), encoded.class_names) == ([4, 9], [1, 0], ["x", "y"])
        assert encoded.names[1] == "row 1 of owner/name:test"

    def test_two_different_splits_are_refused(self, asked):
        with pytest.raises(BadDatasetError, match=r"Two splits.*owner/name:train.*'test'"):
            read_source("owner/name:train", "test")

    def test_several_splits_are_listed(self, monkeypatch, rows):
        both = datasets.DatasetDict(train=rows, test=rows)
        monkeypatch.setattr(datasets, "load_dataset", lambda path, split: both)
        with pytest.raises(BadDatasetError, match=r"'owner/name' has the splits train, test: name one"):
            read_source("owner/name", None)

    @pytest.mark.parametrize(
        "error", [ConnectionError("offline"), ValueError("Unknown split"), OSError("gone")]
    )
    def test_failure_names_the_id_and_the_cause(self, monkeypatch, error):
        def load_dataset(path, split=None):
            raise error

        monkeypatch.setattr(datasets, "load_dataset", load_dataset)
        with pytest.raises(BadDatasetError, match=f"'owner/name' is no existing path.*{error}.*Accepted are"):
            read_source("owner/name", None)

    def test_column_without_images_is_refused(self, monkeypatch):
        rows = datasets.Dataset.from_dict({"image": ["text"], "label": [0]})
        monkeypatch.setattr(datasets, "load_dataset", lambda path, split: rows)
        with pytest.raises(BadDatasetError, match="'image' of 'owner/name' holds no images"):
            read_source("owner/name", "train")


class TestShownSource:
    def test_folders_are_left_out(self, tmp_path, monkeypatch):
        monkeypatch.setenv("HOME", str(tmp_path))
        for name in ("a.parquet", "b.parquet", "with,comma"):
            (tmp_path / name).touch()
        both = f"{tmp_path / 'a.parquet'}, {tmp_path / 'b.parquet'}"
        assert shown_source(both) == "a.parquet,b.parquet"
        assert shown_source("~/a.parquet") == "a.parquet"
        assert shown_source(str(tmp_path / "with,comma")) == "with,comma"

    def test_ids_on_the_hub_stay(self):
        assert shown_source("owner/name:test") == "owner/name:test"
