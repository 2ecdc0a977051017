"""Tests of `quee_hf.data.label_matching`."""

import pytest
from PIL import Image

from quee_hf.data import LabelledImages, match_labels
from quee_hf.errors import BadDatasetError


def dataset(labels, class_names) -> LabelledImages:
    return LabelledImages.from_images([Image.new("RGB", (2, 2))] * len(labels), labels, class_names)


def test_same_order_changes_nothing():
    given = dataset([0, 1, 2], ["a", "b", "c"])
    assert match_labels(given, {0: "a", 1: "b", 2: "c"}) is given


def test_other_order_renumbers_so_that_every_image_keeps_its_word():
    given = dataset([0, 1, 2, 0], ["a", "b", "c"])
    matched = match_labels(given, {0: "c", 1: "a", 2: "b"})
    assert matched.labels.tolist() == [1, 2, 0, 1]
    assert matched.class_names == ["c", "a", "b"]
    before = [given.class_names[label] for label in given.labels]
    assert [matched.class_names[label] for label in matched.labels] == before
    assert given.labels.tolist() == [0, 1, 2, 0]


def test_matching_twice_changes_nothing():
    id2label = {0: "c", 1: "a", 2: "b"}
    once = match_labels(dataset([0, 1, 2], ["a", "b", "c"]), id2label)
    assert match_labels(once, id2label) is once


def test_folders_named_by_number_are_the_models_numbers():
    # Sorted as text, "10" comes before "2".
    names = sorted(str(number) for number in range(11))
    matched = match_labels(
        dataset(list(range(11)), names), {number: f"class {number}" for number in range(11)}
    )
    assert matched.labels.tolist() == [int(name) for name in names]
    assert matched.class_names == [f"class {number}" for number in range(11)]


def test_placeholder_names_of_the_model_say_nothing():
    given = dataset([0, 1], ["cat", "dog"])
    assert match_labels(given, {0: "LABEL_0", 1: "LABEL_1"}) is given


def test_dataset_without_names_is_taken_by_number():
    given = dataset([0, 1], None)
    assert match_labels(given, {0: "a", 1: "b"}) is given
    assert match_labels(given, {0: "a", 1: "b", 2: "c"}) is given


def test_number_beyond_the_models_classes_is_refused():
    with pytest.raises(BadDatasetError, match="model has 2 classes, but the dataset a label 2"):
        match_labels(dataset([0, 2], None), {0: "a", 1: "b"})


@pytest.mark.parametrize(
    ("names", "wanted"),
    [
        (["cat", "dog"], ["cat", "wolf"]),
        (["cat", "dog"], ["cat", "dog", "wolf"]),
        (["cat", "dog", "wolf"], ["cat", "dog"]),
        (["cat", "dog", "wolf"], ["LABEL_0", "LABEL_1"]),
        (["cat", "dog"], ["dog", "dog"]),
    ],
    ids=["other-word", "fewer", "more", "more-than-placeholders", "ambiguous"],
)
def test_mismatch_names_both_sides(names, wanted):
    with pytest.raises(BadDatasetError) as caught:
        match_labels(dataset([0, 1], names), dict(enumerate(wanted)))
    assert f"dataset has {len(names)} ({', '.join(names)})" in str(caught.value)
    assert f"model has {len(wanted)} ({', '.join(wanted)})" in str(caught.value)


def test_duplicate_names_in_the_same_order_are_accepted():
    # ImageNet has two classes "crane".
    given = dataset([0, 1, 2], ["crane", "dog", "crane"])
    assert match_labels(given, {0: "crane", 1: "dog", 2: "crane"}) is given


def test_long_lists_are_cut():
    names = [f"name {number:04}" for number in range(1000)]
    with pytest.raises(BadDatasetError) as caught:
        match_labels(dataset([0], names), {0: "cat"})
    assert len(str(caught.value)) < 400
    assert "1000 (name 0000, " in str(caught.value)


def test_real_class_folders_fit_the_real_model(assets):
    config = pytest.importorskip("transformers").AutoConfig.from_pretrained(
        assets / "models/dinov2-small-cifar10-70px"
    )
    shuffled = sorted(config.id2label.values(), reverse=True)
    matched = match_labels(dataset(list(range(10)), shuffled), config.id2label)
    assert [config.id2label[int(label)] for label in matched.labels] == shuffled
