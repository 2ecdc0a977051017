"""Tests of `BatchClassifier`: rows keep what they are, and get the pipeline's answers."""

import io

import datasets
import numpy as np
import pytest
from PIL import Image
from tests.deployment.deployed import processor
from tests.tiny import routable
from transformers import pipeline

from quee_hf import BadImageError
from quee_hf.deployment.batch_classifier import ANSWERS, BatchClassifier

COUNT = 11


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    routable(levels=["fp32"]).eval().save_pretrained(folder)
    processor().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def pictures():
    random = np.random.default_rng(0)
    noise = [random.normal(128, 10 + 8 * number, (20 + number, 30, 3)) for number in range(COUNT)]
    return [Image.fromarray(each.clip(0, 255).astype(np.uint8)) for each in noise]


def png(picture):
    file = io.BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()


@pytest.fixture(scope="module")
def expected(folder, pictures):
    classify = pipeline("image-classification", model=str(folder), return_routing=True)
    return [classify(picture, cost_lambda=0.1, top_k=1) for picture in pictures]


@pytest.fixture
def as_files(tmp_path):
    def write(picture):
        path = tmp_path / f"{picture.height}.png"
        path.write_bytes(png(picture))
        return str(path)

    return write


@pytest.mark.parametrize("kind", ["bytes", "datasets", "path", "pixels", "image"])
def test_answers_are_the_pipelines_and_rows_keep_their_names(folder, pictures, expected, kind, as_files):
    cells = {
        "bytes": png,
        "datasets": lambda picture: {"bytes": png(picture), "path": None},
        "path": as_files,
        "pixels": np.asarray,
        "image": lambda picture: picture,
    }[kind]
    classify = BatchClassifier(str(folder), image_column="picture", batch_size=4, cost_lambda=0.1)
    rows = {
        "id": np.arange(COUNT)[::-1],
        "label": ["?"] * COUNT,
        "picture": [cells(each) for each in pictures],
    }
    found = classify(rows)
    assert set(found) == {"id", "label", *ANSWERS}
    assert found["id"].tolist() == list(range(COUNT))[::-1]
    assert found["label"] == ["?"] * COUNT
    for name in ("exit_block", "cost", "error_probability"):
        wanted = [each["routing"][name] for each in expected]
        # Other batches: float32 sums.
        assert found[name].tolist() == pytest.approx(wanted, rel=1e-4, abs=1e-5), name
    assert found["answer"].tolist() == [each["scores"][0]["label"] for each in expected]
    assert found["score"].tolist() == pytest.approx(
        [each["scores"][0]["score"] for each in expected], abs=1e-4
    )
    assert len({each["routing"]["exit_block"] for each in expected}) > 1


def test_datasets_map_takes_it(folder, pictures, expected, tmp_path):
    data = datasets.Dataset.from_dict({"id": list(range(COUNT)), "image": pictures})
    for decode in (True, False):
        rows = data.cast_column("image", datasets.Image(decode=decode))
        classify = BatchClassifier(str(folder), batch_size=4, cost_lambda=0.1)
        file = str(tmp_path / f"{decode}.arrow")
        found = rows.map(
            classify,
            batched=True,
            batch_size=6,
            remove_columns="image",
            cache_file_name=file,
            new_fingerprint="x",
        )
        assert found["id"][:] == list(range(COUNT))
        assert found["answer"][:] == [each["scores"][0]["label"] for each in expected]


def test_a_batch_of_nothing_has_the_same_columns(folder):
    found = BatchClassifier(str(folder))({"image": [], "id": np.arange(0)})
    assert set(found) == {"id", *ANSWERS}
    assert all(len(column) == 0 for column in found.values())
    assert found["cost"].dtype == np.float32


def test_where_no_gate_was_asked_there_is_no_predicted_error(folder, pictures):
    found = BatchClassifier(str(folder), path=["fp32"])({"image": pictures[:3]})
    assert np.isnan(found["error_probability"]).all()
    assert found["exit_block"].tolist() == [1, 1, 1]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ({"img": []}, r"There is no column 'image', only \['img'\]"),
        ({"image": [], "cost": []}, r"There are columns \['cost'\] already"),
        ({"image": [np.zeros((4, 4, 3))]}, r"Image 0 of a batch must be \(height, width, 3\), uint8, got"),
        ({"image": [None]}, "Image 0 of a batch must be a file's bytes or path, or pixels, got NoneType"),
    ],
)
def test_what_cannot_be_classified_is_refused(folder, rows, message):
    with pytest.raises(ValueError, match=message):
        BatchClassifier(str(folder))(rows)


@pytest.mark.parametrize(
    "as_cell", [lambda content: content, lambda content: {"bytes": content, "path": "a.png"}]
)
def test_a_damaged_image_is_named(folder, pictures, as_cell):
    cells = [png(pictures[0]), as_cell(png(pictures[1])[:60])]
    with pytest.raises(BadImageError, match=r"Cannot read image (1 of a batch|a\.png)"):
        BatchClassifier(str(folder))({"image": cells})
