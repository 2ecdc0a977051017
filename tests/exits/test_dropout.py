"""Tests of `quee_hf.exits.dropout`: processes that share a batch leave out what one process would."""

import pytest
import torch
from tests.tiny import generator
from torch.nn import functional

from quee_hf.exits.dropout import SharedDropout

ROWS, SHARE = 6, 0.3


@pytest.fixture
def batch():
    return torch.randn(ROWS, 5, 7, generator=generator(0), requires_grad=True)


@pytest.fixture
def in_process(monkeypatch):
    """Return what a process of several makes of its rows, and their gradient; all have the same seed."""

    def run(index, processes, rows):
        if processes > 1:
            monkeypatch.setenv("RANK", str(index))
            monkeypatch.setenv("WORLD_SIZE", str(processes))
        torch.manual_seed(3)
        kept = SharedDropout(SHARE).train()(rows)
        (gradient,) = torch.autograd.grad(kept.square().sum(), rows)
        return kept, gradient, torch.get_rng_state()

    return run


def test_alone_it_is_dropout(in_process, batch):
    kept, _, state = in_process(0, 1, batch)
    torch.manual_seed(3)
    assert torch.equal(kept, functional.dropout(batch, SHARE))
    assert torch.equal(state, torch.get_rng_state())
    assert 0 < (kept == 0).float().mean() < 1


@pytest.mark.parametrize("processes", [2, 3])
def test_processes_find_what_one_finds_bit_by_bit(in_process, batch, processes):
    expected = in_process(0, 1, batch)
    parts = [in_process(index, processes, rows) for index, rows in enumerate(batch.chunk(processes))]
    for number in (0, 1):
        assert torch.equal(torch.cat([part[number] for part in parts]), expected[number])
    assert all(torch.equal(part[2], expected[2]) for part in parts)  # and draw the same the next time


def test_nothing_is_left_out_in_evaluation(monkeypatch, batch):
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert torch.equal(SharedDropout(SHARE).eval()(batch), batch)


def test_it_has_no_weights():
    assert not SharedDropout(SHARE).state_dict()
