"""Tests of `quee_hf.execution.feed`: what comes out is what was given, in order, read no earlier than needed."""

import gc
import itertools
import weakref

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import BatchFeature

from quee_hf.execution.feed import Feed


def numbered(*sizes: int) -> list[torch.Tensor]:
    """Return batches of these sizes; each image holds its number."""
    return list(torch.arange(sum(sizes)).float().reshape(-1, 1, 1, 1).split(list(sizes)))


def read(feed: Feed) -> tuple[list[list[int]], list[list[float]]]:
    found = list(feed)
    return [images.flatten().tolist() for images, _ in found], [lambdas.tolist() for _, lambdas in found]


@given(sizes=st.lists(st.integers(0, 9), max_size=9), batch_size=st.integers(1, 7))
def test_batches_are_full_and_in_order(sizes, batch_size):
    count = sum(sizes)
    images, lambdas = read(Feed(numbered(*sizes), range(count), batch_size))
    assert list(itertools.chain(*images)) == list(itertools.chain(*lambdas)) == list(range(count))
    assert [len(batch) for batch in images] == [batch_size] * (count // batch_size) + [
        rest for rest in [count % batch_size] if rest
    ]


def test_the_next_batch_is_read_when_it_is_needed():
    given = []

    def batches():
        for batch in numbered(2, 2, 2, 5, 1, 2):
            given.append(len(batch))
            yield batch

    found = iter(Feed(batches(), 0.0, batch_size=4))
    assert given == []
    for wanted in ([2, 2], [2, 2, 2, 5], [2, 2, 2, 5, 1], [2, 2, 2, 5, 1, 2]):
        next(found)
        assert given == wanted


def test_a_whole_batch_is_passed_on_and_not_copied():
    (batch,) = numbered(4)
    ((found, _),) = Feed([batch], 0.0, batch_size=4)
    assert found.data_ptr() == batch.data_ptr()


class TestBatches:
    @pytest.mark.parametrize("kind", [dict, BatchFeature])
    def test_may_be_mappings(self, kind):
        batches = [kind({"labels": torch.zeros(2), "pixel_values": batch}) for batch in numbered(2, 2)]
        assert read(Feed(batches, 0.0, 3))[0] == [[0, 1, 2], [3]]

    @pytest.mark.parametrize("batches", [torch.zeros(2, 3, 4, 4), {"pixel_values": torch.zeros(2, 3, 4, 4)}])
    def test_one_alone_is_refused(self, batches):
        with pytest.raises(TypeError, match="`batches` must hold batches, got one .*: put it in a list"):
            Feed(batches, 0.0, 3)

    def test_must_be_iterable(self):
        with pytest.raises(TypeError, match="not iterable"):
            Feed(3, 0.0, 3)

    @pytest.mark.parametrize(
        ("batch", "found"),
        [(torch.zeros(3, 4, 4), r"\(3, 4, 4\)"), ("cat.png", "str"), (np.zeros(4), "ndarray")],
    )
    def test_of_other_kinds_are_refused(self, batch, found):
        feed = Feed([batch], 0.0, 3)
        assert list(feed) == []
        with pytest.raises(ValueError, match=rf"tensor \(n, channels, height, width\), got {found}"):
            feed.raise_failure()

    def test_must_hold_images_of_one_size(self):
        feed = Feed([torch.zeros(1, 3, 4, 4), torch.zeros(1, 3, 5, 4)], 0.0, 3)
        assert [len(images) for images, _ in feed] == [1]
        with pytest.raises(ValueError, match=r"one size, got \(3, 5, 4\) after \(3, 4, 4\)"):
            feed.raise_failure()

    @pytest.mark.parametrize("batch_size", [0, -1, 2.0, True, None, "8"])
    def test_must_have_a_size(self, batch_size):
        with pytest.raises(ValueError, match="`batch_size` must be a whole number from 1 on, got"):
            Feed([], 0.0, batch_size)


class TestLambda:
    @pytest.mark.parametrize(
        "value",
        [
            0.25,
            np.float32(0.25),
            np.array(0.25),
            torch.tensor(0.25),
            [0.25] * 4,
            (0.25,) * 4,
            np.full(4, 0.25),
            torch.full((4,), 0.25),
            itertools.repeat(0.25),
            itertools.repeat(torch.tensor(0.25)),
        ],
        ids=lambda value: type(value).__name__,
    )
    def test_one_number_or_one_per_image(self, value):
        assert read(Feed(numbered(3, 1), value, 2))[1] == [[0.25] * 2] * 2

    @pytest.mark.parametrize(
        "value", [-0.1, float("nan"), [0.1, -0.1], torch.tensor([0.1, torch.nan]), torch.zeros(2, 2)]
    )
    def test_senseless_values_are_refused_at_once(self, value):
        with pytest.raises(ValueError, match="`cost_lambda` must be"):
            Feed([], value, 2)

    @pytest.mark.parametrize(
        ("values", "message"), [([0.1] * 3, "there are more images"), (iter([0.1, 0.1, 0.1, -1]), "0")]
    )
    def test_those_found_later_are_refused_in_their_turn(self, values, message):
        feed = Feed(numbered(2, 2), values, 2)
        assert len(list(feed)) == 1
        with pytest.raises(ValueError, match=f"`cost_lambda` must be .*{message}"):
            feed.raise_failure()

    def test_is_read_with_its_image(self):
        lambdas = iter([0.1] * 10)
        next(iter(Feed(numbered(3, 3, 3), lambdas, 2)))
        assert len(list(lambdas)) == 7


class TestFailure:
    @staticmethod
    def broken(*sizes):
        yield from numbered(*sizes)
        raise OSError("no such disk")

    def test_comes_after_the_images_before_it(self):
        feed = Feed(self.broken(2, 1), 0.0, 2)
        assert read(feed)[0] == [[0, 1], [2]]
        with pytest.raises(OSError, match="no such disk"):
            feed.raise_failure()

    def test_is_raised_once_and_only_if_there_was_one(self):
        feed = Feed(self.broken(2), 0.0, 2)
        feed.raise_failure()
        list(feed)
        with pytest.raises(OSError, match="no such disk"):
            feed.raise_failure()
        feed.raise_failure()

    def test_says_where_it_happened(self):
        feed = Feed(self.broken(2), 0.0, 2)
        list(feed)
        with pytest.raises(OSError, match="no such disk") as caught:
            feed.raise_failure()
        assert "broken" in [entry.name for entry in caught.traceback]

    def test_leaves_no_cycle(self):
        feed = Feed(self.broken(2), 0.0, 2)
        list(feed)
        gc.collect()
        gc.disable()
        try:
            with pytest.raises(OSError, match="no such disk"):
                feed.raise_failure()
            gone = weakref.ref(feed)
            del feed
            assert gone() is None
        finally:
            gc.enable()

    def test_an_interruption_does_not_wait(self):
        def interrupted():
            yield from numbered(1)
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            list(Feed(interrupted(), 0.0, 2))
