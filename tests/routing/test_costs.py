"""Tests of `quee_hf.routing.costs`, Eq. (17)."""

import itertools

import pytest
import torch
from tests.reference.costs import bitops_cost

from quee_hf.paths import PathRules
from quee_hf.routing.costs import bitops_table, flops_table, path_cost, path_costs

LEVELS = [8, 6, 4]


def test_tables_by_hand():
    assert bitops_table([10.0, 20.0], [[16, 8], [16, 9.5]]) == [[160.0, 80.0], [320.0, 190.0]]
    assert flops_table([10.0, 20.0], ["bf16", 8]) == [[10.0, 10.0], [20.0, 20.0]]


@pytest.mark.parametrize("blocks", [(1, 1, 1), (4, 2, 6), (1, 11)])
def test_equals_eq_17_block_by_block(blocks):
    table = bitops_table([num_blocks * 77.0 for num_blocks in blocks], [LEVELS] * len(blocks))
    for path in PathRules(len(blocks), 3, is_monotone=False).enumerate():
        expected = bitops_cost([LEVELS[level] for level in path], blocks, 77, max(LEVELS))
        assert path_cost(path, table) == pytest.approx(float(expected), rel=1e-12)


def test_the_full_path_costs_1_and_all_others_less():
    table = bitops_table([1.0, 2.0, 3.0], [LEVELS] * 3)
    paths = PathRules(3, 3).enumerate()
    costs = path_costs(paths, table)
    assert costs.dtype == torch.float32
    assert costs[paths.index((0, 0, 0))] == 1
    assert ((costs > 0) & (costs <= 1)).all()
    assert (costs == 1).sum() == 1


def test_a_longer_or_more_exact_path_costs_more():
    table = bitops_table([1.0, 2.0, 3.0], [LEVELS] * 3)
    for path in PathRules(3, 3, is_monotone=False).enumerate():
        if len(path) > 1:
            assert path_cost(path, table) > path_cost(path[:-1], table)
        for i, level in enumerate(path):
            if level:
                assert path_cost(path, table) < path_cost((*path[:i], level - 1, *path[i + 1 :]), table)


def test_the_dearest_level_need_not_be_the_first():
    # Measured latencies may say that the "cheaper" level is slower; costs stay relative to the dearest path.
    table = [[1.0, 2.0], [3.0, 1.0]]
    costs = {path: path_cost(path, table) for path in itertools.product(range(2), repeat=2)}
    assert costs == {(0, 0): 0.8, (0, 1): 0.4, (1, 0): 1.0, (1, 1): 0.6}
