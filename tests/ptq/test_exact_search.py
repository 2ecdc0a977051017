"""Tests of the pruned search: it finds what a full search finds, and looks at less."""

import pytest
import torch
from tests.tiny import generator

from quee_hf.ptq.exact_search import alternate, best_candidates, nearest_first

ROWS, COUNT, GROUPS = 130, 100, 3


def terms(seed, *, ties=False):
    """Losses `(candidates, rows, groups)`; if there are ties, whole numbers, so that equal sums are equal."""
    random = generator(seed)
    found = torch.rand(COUNT, ROWS, GROUPS, generator=random, dtype=torch.float64)
    found = found * (1 + torch.rand(COUNT, 1, GROUPS, generator=random, dtype=torch.float64))
    found = found.sort(dim=1, descending=True).values
    return (2 * found).round() if ties else found


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("center", [0, 50, 99])
@pytest.mark.parametrize("seed", range(5))
def test_equals_the_full_search(seed, center, ties):
    losses = terms(seed, ties=ties)

    def on_rows(candidate, rows):
        return losses[candidate, rows].sum(dim=0)

    known = torch.full((GROUPS,), center)
    found = best_candidates(on_rows, ROWS, nearest_first(center, COUNT), known)
    totals = losses.sum(dim=1)
    for group in range(GROUPS):
        column = totals[:, group].tolist()
        # 1e-12: sums in another order. Among equals the lowest is taken.
        assert column[found[group]] <= min(column) * (1 + 1e-12)
        if ties:
            assert found[group] == column.index(min(column))


@pytest.mark.parametrize("num_rows", [1, 2, 5, 63, 64, 65])
def test_few_rows_are_all_counted_once(num_rows):
    seen = []

    def on_rows(candidate, rows):
        seen.append(rows)
        return torch.zeros(1, dtype=torch.float64)

    best_candidates(on_rows, num_rows, [0], torch.zeros(1, dtype=torch.long))
    assert [i for rows in seen for i in range(num_rows)[rows]] == list(range(num_rows))


def test_hopeless_candidates_are_given_up():
    looked = 0

    def on_rows(candidate, rows):
        nonlocal looked
        looked += rows.stop - rows.start
        return torch.tensor([float((rows.stop - rows.start) * (1 + 100 * candidate))], dtype=torch.float64)

    best_candidates(on_rows, 640, range(100), torch.zeros(1, dtype=torch.long))
    assert looked < 640 * 100 / 10


def test_nearest_first_by_hand():
    assert nearest_first(1, 4) == [1, 0, 2, 3]
    assert sorted(nearest_first(7, 10)) == list(range(10))


def test_alternating_stops_when_nothing_changes():
    taken = []

    def step(name, changes):
        def run():
            taken.append(name)
            return changes.pop(0)

        return run

    alternate(5, step("a", [True, False, False]), step("b", [False, True, False]))
    assert taken == ["a", "b"] * 3
    taken.clear()
    alternate(2, step("a", [True] * 5))
    assert taken == ["a", "a"]
