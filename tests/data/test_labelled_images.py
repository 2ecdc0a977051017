"""Tests of `quee_hf.data.labelled_images`: what is checked, selected, split and processed."""

import io
import logging
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from transformers import AutoImageProcessor, ViTImageProcessorPil, default_data_collator

from quee_hf.data import LabelledImages, count_shared_images, load_image_dataset
from quee_hf.errors import BadDatasetError


def shaded(shade: int, size=(5, 4)) -> Image.Image:
    return Image.new("RGB", size, (shade, 0, 0))


def numbered(labels, class_names=None) -> LabelledImages:
    """Image number i is of shade i."""
    return LabelledImages.from_images([shaded(shade) for shade in range(len(labels))], labels, class_names)


def shades(dataset) -> list[int]:
    return [example["image"].getpixel((0, 0))[0] for example in dataset]


@pytest.fixture
def folder(tmp_path):
    """Four images of two classes, of which `cat/1.png` is cut short and `dog/1.png` is text."""
    for shade, name in enumerate(["cat/0.png", "cat/1.png", "dog/0.png", "dog/1.png"]):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        buffer = io.BytesIO()
        shaded(shade).save(buffer, "PNG")
        path.write_bytes(buffer.getvalue())
    (tmp_path / "cat/1.png").write_bytes((tmp_path / "cat/1.png").read_bytes()[:-30])
    (tmp_path / "dog/1.png").write_text("woof")
    return tmp_path


class TestLoading:
    def test_items_are_rgb_images_and_integer_labels(self):
        dataset = LabelledImages.from_images([Image.new("L", (5, 4), 7), Image.new("CMYK", (3, 2))], [1, 0])
        assert len(dataset) == 2
        assert dataset[0]["image"].mode == dataset[1]["image"].mode == "RGB"
        assert dataset[0]["image"].getpixel((0, 0)) == (7, 7, 7)
        assert [type(example["label"]) for example in dataset] == [int, int]
        assert dataset[-1]["label"] == 0

    def test_reading_past_the_end_is_an_index_error(self):
        with pytest.raises(IndexError):
            numbered([0, 1])[2]

    def test_bad_images_are_named_and_counted(self, folder):
        with pytest.raises(BadDatasetError, match=r"2 of 4 images cannot be read: .*cat.1\.png.*dog.1\.png"):
            load_image_dataset(folder)

    def test_only_the_first_few_bad_images_are_named(self, folder):
        for number in range(5):
            (folder / "dog" / f"x{number}.png").write_text("woof")
        with pytest.raises(BadDatasetError, match=r"7 of 9 images") as caught:
            load_image_dataset(folder)
        assert str(caught.value).count("Cannot read image") == 3

    def test_bad_images_are_skipped_on_request_and_said_so(self, folder, caplog):
        with caplog.at_level(logging.WARNING):
            dataset = load_image_dataset(folder, skip_bad=True)
        assert "2 of 4 images" in caplog.text
        assert (shades(dataset), dataset.labels.tolist()) == ([0, 2], [0, 1])
        assert len(dataset.skipped) == 2
        assert "1.png" in dataset.skipped[0]
        (folder / "cat/1.png").unlink()
        (folder / "dog/1.png").unlink()
        assert dataset.fingerprint == load_image_dataset(folder).fingerprint

    def test_good_images_skip_nothing(self, folder, caplog):
        (folder / "cat/1.png").unlink()
        (folder / "dog/1.png").unlink()
        strict, lenient = load_image_dataset(folder), load_image_dataset(folder, skip_bad=True)
        assert strict.fingerprint == lenient.fingerprint
        assert lenient.skipped == ()
        assert not caplog.records

    def test_nothing_but_bad_images_is_refused_even_when_skipping(self, folder):
        (folder / "cat/0.png").unlink()
        (folder / "dog/0.png").unlink()
        with pytest.raises(BadDatasetError, match="2 of 2 images"):
            load_image_dataset(folder, skip_bad=True)

    def test_no_images_at_all_is_refused(self, tmp_path):
        (tmp_path / "cat").mkdir()
        with pytest.raises(BadDatasetError, match="There are no images in"):
            load_image_dataset(tmp_path)


class TestLabels:
    def test_words_are_numbered_in_sorted_order(self):
        dataset = numbered(["dog", "cat", "dog"])
        assert dataset.class_names == ["cat", "dog"]
        assert dataset.labels.tolist() == [1, 0, 1]

    def test_words_follow_given_class_names(self):
        assert numbered(["dog", "cat"], ["dog", "cat"]).labels.tolist() == [0, 1]

    @pytest.mark.parametrize(
        ("labels", "class_names", "message"),
        [
            ([0, -1], None, r"1 labels are not one of 0, 1, \.\.\.: -1 \(number 1\)"),
            ([0, 2], ["a", "b"], r"not one of 0 to 1: 2"),
            ([0, None], None, "None"),
            ([0, 1.5], None, r"1\.5"),
            ([0, "a"], None, "'a'"),
            (["a", "c"], ["a", "b"], "'c'"),
        ],
        ids=["negative", "too-high", "none", "fraction", "mixed", "unknown-word"],
    )
    def test_bad_labels_are_named(self, labels, class_names, message):
        with pytest.raises(BadDatasetError, match=message):
            numbered(labels, class_names)

    def test_class_names_can_be_replaced_or_removed(self):
        dataset = numbered([0, 1], ["n01", "n02"])
        assert dataset.with_class_names(["cat", "dog"]).class_names == ["cat", "dog"]
        assert dataset.with_class_names(None).class_names is None
        with pytest.raises(ValueError, match="1 class names, but a label 1"):
            dataset.with_class_names(["cat"])

    def test_lengths_must_agree(self):
        with pytest.raises(ValueError, match="1 images, but 2 labels"):
            LabelledImages.from_images([shaded(0)], [0, 1])


class TestFingerprint:
    def test_equal_content_has_an_equal_fingerprint_wherever_it_lies(self, tmp_path):
        for place in ("here", "there"):
            (tmp_path / place / "cat").mkdir(parents=True)
            shaded(3).save(tmp_path / place / "cat" / f"{place}.png")
        first, second = (load_image_dataset(tmp_path / place) for place in ("here", "there"))
        assert first.fingerprint == second.fingerprint

    def test_every_change_changes_it(self):
        base = numbered([0, 1, 0])
        other_image = LabelledImages.from_images([shaded(9), shaded(1), shaded(2)], [0, 1, 0])
        variants = [base, other_image, numbered([0, 1, 1]), base.select([0, 1]), base.select([2, 1, 0])]
        assert len({variant.fingerprint for variant in variants}) == len(variants)

    def test_it_is_a_sha256_that_stays_the_same(self):
        one = numbered([5])
        assert one.fingerprint == one.select([0]).fingerprint == pickle.loads(pickle.dumps(one)).fingerprint
        assert len(bytes.fromhex(one.fingerprint)) == 32

    def test_shared_images_are_counted_without_regard_to_labels(self):
        first = numbered([0, 0, 0])
        second = LabelledImages.from_images([shaded(2), shaded(1), shaded(7)], [1, 1, 1])
        assert count_shared_images(first, second) == 2
        assert count_shared_images(first.select([0]), second) == 0


class TestSelect:
    @pytest.mark.parametrize(
        ("indices", "expected"),
        [([2, 0], [2, 0]), ([-1], [3]), ([], []), ([1, 1], [1, 1]), ([True, False, False, True], [0, 3])],
    )
    def test_positions_by_hand(self, indices, expected):
        selected = numbered([0, 1, 0, 1]).select(indices)
        assert shades(selected) == expected
        assert selected.labels.tolist() == [position % 2 for position in expected]

    def test_selection_of_a_selection(self):
        assert shades(numbered([0] * 6).select([5, 3, 1]).select([2, 0])) == [1, 5]

    def test_missing_position_is_an_index_error(self):
        with pytest.raises(IndexError):
            numbered([0, 0]).select([2])


class TestSplit:
    @settings(derandomize=True, deadline=None, max_examples=40)
    @given(
        labels=st.lists(st.integers(0, 4), min_size=20, max_size=80),
        fractions=st.lists(st.floats(0.1, 0.3), min_size=1, max_size=3),
        seed=st.integers(0, 2**32 - 1),
    )
    def test_parts_are_disjoint_and_near_their_share_in_every_class(self, labels, fractions, seed):
        image = shaded(0)
        dataset = LabelledImages.from_images([image] * len(labels), labels)
        parts = dataset.split(fractions, seed)
        rows = np.concatenate([part.rows for part in parts])
        assert len(set(rows)) == len(rows)
        for part, fraction in zip(parts, fractions, strict=True):
            # After any number of rows a part is ahead of its share by less than 1. Surpluses and deficits of
            # all parts (one of them is the rest) cancel, so it is behind by at most the number of the others.
            behind = len(fractions) + 1e-9
            assert -1 <= fraction * len(labels) - len(part) <= behind
            for label in range(5):  # a class lies between two such moments
                share = fraction * labels.count(label)
                assert abs((part.labels == label).sum() - share) <= behind + 1
            assert (np.diff(part.rows) > 0).all()

    def test_even_division_is_exact(self):
        labels = [0] * 10 + [1] * 20 + [2] * 30
        first, second = numbered(labels).split([0.3, 0.7], seed=1)
        assert np.bincount(first.labels).tolist() == [3, 6, 9]
        assert np.bincount(second.labels).tolist() == [7, 14, 21]

    def test_odd_classes_do_not_add_up_to_a_bias(self):
        # 40 classes of 5: rounding each class the same way would give 80 and 120.
        first, second = numbered([label for label in range(40) for _ in range(5)]).split([0.5, 0.5], seed=0)
        assert (len(first), len(second)) == (100, 100)
        assert set(np.bincount(first.labels).tolist()) <= {2, 3}

    def test_the_seed_decides(self):
        dataset = numbered([0, 1] * 20)
        first = [part.fingerprint for part in dataset.split([0.5, 0.5], seed=3)]
        assert first == [part.fingerprint for part in dataset.split([0.5, 0.5], seed=3)]
        assert first != [part.fingerprint for part in dataset.split([0.5, 0.5], seed=4)]

    @pytest.mark.parametrize("fractions", [[], [0.5, 0.6], [0.5, 0.0], [-0.1], [float("nan")]])
    def test_impossible_fractions_are_refused(self, fractions):
        with pytest.raises(ValueError, match="must be positive and sum to at most 1"):
            numbered([0, 1]).split(fractions, seed=0)

    def test_an_empty_part_is_refused(self):
        with pytest.raises(BadDatasetError, match="2 images are too few"):
            numbered([0, 1]).split([0.9, 0.1], seed=0)


class TestProcessed:
    @pytest.fixture
    def processor(self):
        return ViTImageProcessorPil(size={"height": 6, "width": 8})

    def test_items_are_what_the_processor_gives(self, processor):
        dataset = numbered([1, 0])
        item = dataset.with_processor(processor)[1]
        expected = processor(images=[dataset[1]["image"]], return_tensors="pt")["pixel_values"][0]
        assert item["pixel_values"].shape == (3, 6, 8)
        assert item["pixel_values"].dtype == torch.float32
        assert torch.equal(item["pixel_values"], expected)
        assert item["labels"] == 0

    def test_batches_from_workers_equal_single_items(self, processor):
        processed = numbered([0, 1, 2, 1, 0]).with_processor(processor)
        loader = torch.utils.data.DataLoader(
            processed, batch_size=2, num_workers=1, collate_fn=default_data_collator
        )
        batches = list(loader)
        assert torch.cat([batch["labels"] for batch in batches]).tolist() == [0, 1, 2, 1, 0]
        single = torch.stack([processed[position]["pixel_values"] for position in range(5)])
        assert torch.equal(torch.cat([batch["pixel_values"] for batch in batches]), single)

    def test_pickling_keeps_every_item(self, processor):
        processed = numbered([0, 1]).with_processor(processor)
        copy = pickle.loads(pickle.dumps(processed))
        assert len(copy) == 2
        assert torch.equal(copy[1]["pixel_values"], processed[1]["pixel_values"])


class TestRealFiles:
    def test_parquet_equals_what_datasets_reads(self, assets, tmp_path):
        datasets = pytest.importorskip("datasets")
        path = assets / "photos.parquet"
        stock = datasets.load_dataset("parquet", data_files=str(path), split="train", cache_dir=str(tmp_path))
        ours = load_image_dataset(path)
        assert len(ours) == len(stock) == 100
        assert ours.labels.tolist() == stock["label"][:]
        assert ours.class_names == stock.features["label"].names
        for position in (0, 41, 99):
            assert ours[position]["image"].tobytes() == stock[position]["image"].convert("RGB").tobytes()

    def test_cifar_roles_are_disjoint_images(self, assets):
        train = load_image_dataset(f"{assets}/cifar10/train-00.parquet,{assets}/cifar10/train-01.parquet")
        validation = load_image_dataset(assets / "cifar10/validation.parquet")
        assert (len(train), len(validation)) == (20_000, 5_000)
        assert train.class_names[0] == "airplane"
        assert count_shared_images(train, validation) == 0

    def test_real_processor_gives_the_model_its_input(self, assets):
        processor = AutoImageProcessor.from_pretrained(
            assets / "models/dinov2-small-cifar10-70px", backend="pil"
        )
        item = load_image_dataset(assets / "cifar10/validation.parquet").with_processor(processor)[0]
        assert item["pixel_values"].shape == (3, 70, 70)
