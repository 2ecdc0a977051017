"""Tests of `quee_hf.demo.batches`."""

import math

import pytest

from quee_hf.demo.batches import BatchAnswer, classify_files
from quee_hf.demo.classification import classify
from quee_hf.demo.settings import Setting
from quee_hf.images import load_rgb


@pytest.mark.parametrize("setting", [Setting(cost_lambda=0.1), Setting(path=(8, 6))], ids=["routed", "path"])
def test_every_file_gets_what_it_gets_alone(classifier, pictures, setting):
    answer = classify_files(classifier, pictures, setting)
    assert [file.name for file in answer.files] == [file.name for file in pictures]
    for file, found in zip(pictures, answer.files, strict=True):
        alone = classify(classifier, load_rgb(file), setting)
        assert (found.label, found.path) == (alone.exits[-1].label, alone.path)
        assert found.score == pytest.approx(
            alone.exits[-1].score, abs=1e-5
        )  # sums of float32 in another order
        assert found.cost == pytest.approx(alone.spending.cost)
        assert found.error == (None if alone.error is None else pytest.approx(alone.error, abs=1e-5))
    assert answer.mean_cost == pytest.approx(sum(file.cost for file in answer.files) / len(pictures))
    shares = answer.exit_shares(classifier.config.num_exits)
    assert sum(shares) == pytest.approx(1)
    assert shares[0] == sum(len(file.path) == 1 for file in answer.files) / len(pictures)


def test_more_files_than_a_batch(classifier, pictures):
    answer = classify_files(classifier, pictures * 8, Setting(cost_lambda=0.1))
    assert [file.name for file in answer.files] == [file.name for file in pictures] * 8
    assert [file.label for file in answer.files] == [file.label for file in answer.files[:6]] * 8


def test_files_that_cannot_be_read_are_named_and_left_out(classifier, pictures, broken, tmp_path):
    (tmp_path / "notes.txt").write_text("no image")
    files = [pictures[0], broken, pictures[1], tmp_path / "notes.txt", tmp_path / "missing.png"]
    answer = classify_files(classifier, files, Setting(cost_lambda=0.1))
    assert [file.name for file in answer.files] == ["0.png", "1.png"]
    assert len(answer.unreadable) == 3
    for sentence, name in zip(answer.unreadable, ("broken.jpg", "notes.txt", "missing.png"), strict=True):
        assert sentence.startswith(f"Cannot read image {name}: ")
        assert str(tmp_path) not in sentence  # where the server keeps files is nobody's business


def test_nothing_readable_is_no_error(classifier, broken):
    answer = classify_files(classifier, [broken], Setting(cost_lambda=0.1))
    assert answer.files == ()
    assert math.isnan(answer.mean_cost)
    assert BatchAnswer((), ()).exit_shares(3) == [0, 0, 0]
