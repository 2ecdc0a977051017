"""Tests of `quee_hf.execution.buffers`: memory is used again, but never while somebody has it."""

import threading

import pytest
import torch

from quee_hf.execution import buffers
from quee_hf.execution.buffers import empty

LARGE = (8, 26, 384)


@pytest.fixture(autouse=True)
def _nothing_kept(monkeypatch):
    monkeypatch.setattr(buffers, "_kept", buffers._Kept())


def test_has_the_shape_and_kind():
    for shape in (LARGE, (3, 2), (0, 26, 384), (5,)):
        found = empty(shape)
        assert found.shape == shape
        assert found.dtype == torch.float32
        assert found.is_contiguous()


def test_memory_is_used_again_when_it_is_free():
    first = empty(LARGE)
    address = first.data_ptr()
    del first
    assert empty(LARGE).data_ptr() == address
    assert empty((7, *LARGE[1:])).data_ptr() == address  # a part of it


@pytest.mark.parametrize(
    "share", [lambda x: x, lambda x: x[1:2], lambda x: x.view(-1), lambda x: x.numpy()[0]]
)
def test_what_somebody_has_is_not_given_out(share):
    held = empty(LARGE).fill_(7)
    held = share(held)
    for _ in range(3):
        empty(LARGE).fill_(1)
    assert (held == 7).all()


def test_a_few_pieces_are_kept():
    held = [empty((size, *LARGE[1:])) for size in range(8, 44)]
    assert len(buffers._kept.arrays) == buffers._MOST_KEPT
    assert len({x.data_ptr() for x in held}) == len(held)


def test_threads_have_memory_of_their_own():
    addresses = [empty(LARGE).data_ptr()]
    thread = threading.Thread(target=lambda: addresses.append(empty(LARGE).data_ptr()))
    thread.start()
    thread.join()
    assert len(set(addresses)) == 2
