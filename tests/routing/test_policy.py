"""Tests of `quee_hf.routing.policy`, Eq. (18)."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from quee_hf.routing.policy import choose_paths, cost_lambda_per_sample

FLOAT = np.float32


def choose(errors, costs, cost_lambda, reachable=None):
    errors, costs, weights = (np.array(values, FLOAT) for values in ([errors], costs, [cost_lambda]))
    return choose_paths(errors, costs, weights, None if reachable is None else np.array([reachable])).item()


class TestChoosePaths:
    def test_by_hand(self):
        errors, costs = [0.4, 0.2, 0.15], [0.25, 0.5, 1.0]
        assert choose(errors, costs, 0.0) == 2
        assert choose(errors, costs, 0.5) == 1  # 0.525, 0.45, 0.65
        assert choose(errors, costs, 1.0) == 0  # 0.65, 0.70, 1.15

    @pytest.mark.parametrize("cost_lambda", [0.0, 0.5, math.inf])
    def test_ties_go_to_the_cheaper_then_to_the_first(self, cost_lambda):
        # Index 2 is as good as 1 with lambda 0.5: 0.5 + 0.5 * 0.5 = 0.25 + 0.5 * 1.
        assert choose([0.25, 0.5], [1.0, 0.5], 0.5) == 1
        assert choose([0.5, 0.25], [0.5, 1.0], 0.5) == 0
        assert choose([0.25, 0.25, 0.25], [1.0, 0.5, 0.5], cost_lambda) == 1

    def test_zero_asks_for_accuracy_at_any_cost(self):
        assert choose([0.2, 0.2 - 1e-6], [1e-6, 1.0], 0.0) == 1

    def test_infinity_looks_at_cost_alone(self):
        assert choose([0.9, 0.0], [0.25, 0.5], math.inf) == 0
        assert choose([0.9, 0.0], [0.25, 0.5], 3e38) == 0

    def test_what_cannot_be_reached_is_never_chosen(self):
        for cost_lambda in (0.0, 0.5, 3e38, math.inf):
            assert choose([0.0, 0.9, 0.8], [0.1, 0.2, 0.9], cost_lambda, [False, True, True]) != 0
            assert choose([0.0, 0.0, 1.0], [0.1, 0.2, 1.0], cost_lambda, [False, False, True]) == 2

    @given(
        errors=st.lists(st.integers(0, 8), min_size=4, max_size=4),
        costs=st.lists(st.integers(1, 8), min_size=4, max_size=4),
        cost_lambda=st.sampled_from([0.0, 0.125, 0.5, 1.0, 4.0, math.inf]),
        reachable=st.lists(st.booleans(), min_size=4, max_size=4).filter(any),
    )
    def test_equals_a_sort(self, errors, costs, cost_lambda, reachable):
        # Eighths and powers of two: sums are exact, so that ties are ties.
        errors, costs = [e / 8 for e in errors], [c / 8 for c in costs]

        def key(k):
            loss = costs[k] if math.isinf(cost_lambda) else errors[k] + cost_lambda * costs[k]
            return loss, costs[k], k

        expected = min((k for k in range(4) if reachable[k]), key=key)
        assert choose(errors, costs, cost_lambda, reachable) == expected

    def test_each_image_has_its_own_lambda_and_reach(self):
        random = np.random.default_rng(0)
        errors, costs = random.random((50, 6), FLOAT), random.random(6, FLOAT)
        weights, reachable = 2 * random.random(50, FLOAT), random.random((50, 6)) < 0.6
        reachable[:, 3] = True
        together = choose_paths(errors, costs, weights, reachable)
        assert len(np.unique(together)) > 3
        for i in range(50):
            row = slice(i, i + 1)
            assert choose_paths(errors[row], costs, weights[row], reachable[row]) == together[i]

    def test_a_larger_lambda_never_chooses_a_dearer_path(self):
        random = np.random.default_rng(0)
        errors, costs = random.random((200, 9), FLOAT), random.random(9, FLOAT)
        lambdas = [0.0, 0.01, 0.1, 0.3, 1.0, 3.0, math.inf]
        chosen = [choose_paths(errors, costs, np.full(200, value, FLOAT)) for value in lambdas]
        spent = np.stack([costs[index] for index in chosen])
        assert (np.diff(spent, axis=0) <= 0).all()
        assert (spent[0] > spent[-1]).any()


class TestCostLambdaPerSample:
    @pytest.mark.parametrize(
        ("value", "expected"),
        [
            (0.5, [0.5, 0.5]),
            (2, [2.0, 2.0]),
            (torch.tensor(0.5), [0.5, 0.5]),
            (torch.tensor([1.0, 2.0], dtype=torch.float64), [1.0, 2.0]),
            ([1.0, 2.0], [1.0, 2.0]),
            (math.inf, [math.inf, math.inf]),
            (1e300, [math.inf, math.inf]),
        ],
    )
    def test_becomes_one_float32_per_image(self, value, expected):
        result = cost_lambda_per_sample(value, 2)
        assert result.dtype == FLOAT
        assert result.tolist() == expected

    @pytest.mark.parametrize(
        "value", [-0.1, math.nan, -math.inf, torch.tensor([0.1, -0.2]), torch.tensor([0.1, math.nan])]
    )
    def test_negative_or_no_number_is_refused(self, value):
        with pytest.raises(ValueError, match="`cost_lambda` must be at least 0, got (-|nan)"):
            cost_lambda_per_sample(value, 2)

    @pytest.mark.parametrize("shape", [(3,), (1,), (2, 1), (1, 2), (0,)])
    def test_another_shape_is_refused(self, shape):
        with pytest.raises(ValueError, match=r"one number or one per image, \(2,\), got shape"):
            cost_lambda_per_sample(torch.zeros(shape), 2)
