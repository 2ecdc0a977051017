"""Tests of the pruned search: it finds what a full search finds, and looks at less."""

import pytest
import torch
from tests.tiny import generator

from quee_hf.ptq.exact_search import alternate, best_candidates, split_rows

ROWS, COUNT, GROUPS = 130, 100, 3


def terms(seed, *, ties=False):
    """Losses `(candidates, rows, groups)`; if there are ties, whole numbers, so that equal sums are equal."""
    random = generator(seed)
    found = torch.rand(COUNT, ROWS, GROUPS, generator=random, dtype=torch.float64)
    found = found * (1 + torch.rand(COUNT, 1, GROUPS, generator=random, dtype=torch.float64))
    found = found.sort(dim=1, descending=True).values
    return (2 * found).round() if ties else found


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("seed", range(5))
def test_equals_the_full_search(seed, ties):
    losses = terms(seed, ties=ties)

    def of_candidate(candidate):
        return lambda rows: losses[candidate, rows].sum(dim=0)

    parts = split_rows(losses.mean(dim=(0, 2)))
    found = best_candidates(of_candidate, parts, COUNT)
    totals = losses.sum(dim=1)
    for group in range(GROUPS):
        column = totals[:, group].tolist()
        # 1e-12: sums in another order. Among equals the lowest is taken.
        assert column[found[group]] <= min(column) * (1 + 1e-12)
        if ties:
            assert found[group] == column.index(min(column))


@pytest.mark.parametrize("kind", ["uniform", "steep", "one", "zero"])
@pytest.mark.parametrize("num_rows", [1, 2, 5, 63, 64, 65, 1000])
def test_parts_are_all_rows_once(num_rows, kind):
    ranks = torch.arange(num_rows)
    weights = {
        "uniform": ranks * 0 + 1.0,
        "steep": 0.9**ranks,
        "one": 1.0 * (ranks == 0),
        "zero": ranks * 0.0,
    }
    parts = split_rows(weights[kind])
    assert [i for rows in parts for i in range(num_rows)[rows]] == list(range(num_rows))
    assert all(rows.stop - rows.start >= num_rows / 32 for rows in parts[:-1])


def test_parts_end_where_weight_is_reached():
    assert [rows.stop for rows in split_rows(torch.tensor([4.0, 3, 2, 1]))] == [1, 2, 3, 4]
    assert [rows.stop for rows in split_rows(torch.tensor([9.0] + [0.1] * 9))] == [1, 6, 9, 10]


def test_hopeless_candidates_are_given_up():
    looked = 0

    def of_candidate(candidate):
        def on_rows(rows):
            nonlocal looked
            looked += rows.stop - rows.start
            return torch.tensor(
                [float((rows.stop - rows.start) * (1 + 100 * candidate))], dtype=torch.float64
            )

        return on_rows

    best_candidates(of_candidate, split_rows(torch.ones(640)), 100)
    assert looked < 640 * 100 / 5


def test_alternating_stops_when_nothing_would_change():
    taken = []

    def step(name, changes):
        def run():
            taken.append(name)
            return changes.pop(0)

        return run

    def taken_by(rounds, **changes):
        taken.clear()
        alternate(rounds, *(step(name, list(found)) for name, found in changes.items()))
        return "".join(taken)

    assert taken_by(5, a=[1, 1, 0], b=[1, 1]) == "ababa"  # b last saw this very a
    assert taken_by(5, a=[1, 1], b=[1, 0]) == "abab"
    assert taken_by(2, a=[1] * 5, b=[1] * 5) == "abab"
    assert taken_by(5, a=[1, 0], b=[1, 0], c=[1]) == "abcab"
    assert taken_by(5, a=[1]) == "a"  # nothing else could change what it finds
