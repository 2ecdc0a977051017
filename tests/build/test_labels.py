"""Tests of `quee_hf.build.labels`."""

import pytest
from PIL import Image

from quee_hf.build.labels import choose_class_names, match_images
from quee_hf.data import LabelledImages
from quee_hf.errors import BadDatasetError


def images(class_names, labels=(0, 1, 1)) -> LabelledImages:
    return LabelledImages.from_images([Image.new("RGB", (2, 2))] * len(labels), list(labels), class_names)


@pytest.mark.parametrize(
    ("given", "own", "of_data", "expected"),
    [
        (["a", "b"], ["c", "d"], ["e", "f"], ["a", "b"]),
        (None, ["c", "d"], ["e", "f"], ["c", "d"]),
        (None, None, ["e", "f"], ["e", "f"]),
        (None, None, ["e", "f", "g"], ["LABEL_0", "LABEL_1"]),
        (None, None, None, ["LABEL_0", "LABEL_1"]),
    ],
)
def test_names_come_from_the_first_who_knows(given, own, of_data, expected):
    assert choose_class_names(given, own, 2, images(of_data)) == expected


def test_names_in_another_order_are_renumbered():
    matched = match_images(images(["cat", "dog"]), ["dog", "cat"], by="names", name="data")
    assert matched.labels.tolist() == [1, 0, 0]


def test_numbers_ignore_names():
    matched = match_images(images(["cat", "dog"]), ["dog", "cat"], by="numbers", name="data")
    assert matched.labels.tolist() == [0, 1, 1]


def test_given_names_rename_the_classes_of_the_data():
    matched = match_images(images(["n01", "n02"]), ["dog", "cat"], by="names", name="data", is_renaming=True)
    assert matched.labels.tolist() == [0, 1, 1]
    # But where the data has the same names, they decide.
    matched = match_images(images(["cat", "dog"]), ["dog", "cat"], by="names", name="data", is_renaming=True)
    assert matched.labels.tolist() == [1, 0, 0]


def test_other_names_are_refused_with_a_way_out():
    with pytest.raises(BadDatasetError, match=r"^data: .*n01, n02.*--match-labels numbers"):
        match_images(images(["n01", "n02"]), ["dog", "cat"], by="names", name="data")


def test_another_number_of_classes_has_no_way_out():
    with pytest.raises(BadDatasetError, match=r"has 2 .* has 3 ") as raised:
        match_images(images(["cat", "dog"]), ["dog", "cat", "cow"], by="names", name="data", is_renaming=True)
    assert "--match-labels" not in str(raised.value)
    with pytest.raises(BadDatasetError, match="3 classes, but the dataset a label 3"):
        match_images(images(None, (0, 3)), ["dog", "cat", "cow"], by="numbers", name="data")
