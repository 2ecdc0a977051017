"""Tests of `quee_hf.execution.timing`, on a clock that only the parts of a toy network move."""

import numpy as np
import pytest
from tests.execution.toy import ToyNetwork
from tests.profiles import FakeClock

from quee_hf.execution.timing import time_parts
from quee_hf.paths import PathRules

BATCH = 4


class SlowNetwork(ToyNetwork):
    """Takes so many seconds for each part that all can be told apart; the first time, a hundred more."""

    def __init__(self, rules: PathRules, clock: FakeClock) -> None:
        super().__init__(rules)
        self.clock, self.seen = clock, set()

    def spend(self, part, seconds):
        self.clock.advance(seconds + 100 * (part not in self.seen))
        self.seen.add(part)

    def embed(self, pixel_values):
        self.spend("embed", 1)
        return super().embed(pixel_values)

    def run_segment(self, segment, level, hidden):
        self.spend(("segment", segment, level), 10 * (segment + 1) + self.level_list.index(level))
        return super().run_segment(segment, level, hidden)

    def read_exit(self, exit_index, hidden):
        self.spend(("exit", exit_index), 3 + exit_index)
        return super().read_exit(exit_index, hidden)

    def decide(self, depth, node, scores, cost_lambda):
        self.spend(("decide", depth), 0.5 * depth)
        return super().decide(depth, node, scores, cost_lambda)


@pytest.fixture
def timed():
    clock = FakeClock()
    network = SlowNetwork(PathRules(3, 2), clock)
    return time_parts(network, network.images(BATCH), max_seconds=1e9, clock=clock)


def expected(*seconds):
    """Return milliseconds per image."""
    return np.array(seconds) * 1e3 / BATCH


def test_each_part_has_its_own_time_and_the_first_run_does_not_count(timed):
    assert timed.num_rounds == 50
    for found, seconds in (
        (timed.embedding, [1]),
        (timed.segments, [[10, 11], [20, 21], [30, 31]]),
        (timed.exits, [3, 4, 5]),
        (timed.decisions, [0.5, 1]),
    ):
        assert (found.min(axis=-1) == expected(seconds).squeeze()).all()
        assert (found.max(axis=-1) == found.min(axis=-1)).all()


def test_what_comes_after_a_segment_is_its_exit_and_the_decision(timed):
    assert (timed.after_segments[:, 0] == expected(3.5, 5, 5)).all()


@pytest.mark.parametrize(("max_seconds", "expected"), [(0.0, 3), (1.0, 3), (1e9, 50)])
def test_rounds_end_with_the_time_but_there_are_three(max_seconds, expected):
    clock = FakeClock()
    network = SlowNetwork(PathRules(2, 2), clock)
    assert time_parts(network, network.images(2), max_seconds=max_seconds, clock=clock).num_rounds == expected


def test_a_network_of_one_exit_decides_nothing():
    clock = FakeClock()
    network = SlowNetwork(PathRules(1, 2), clock)
    timed = time_parts(network, network.images(2), max_seconds=1.0, clock=clock)
    assert timed.decisions.shape == (0, 3)
    assert timed.segments.shape == (1, 2, 3)
    assert timed.after_segments.shape == (1, 3)
