"""Tests of logistic regression."""

import numpy as np
import pytest

from quee_hf.training.logistic import logistic_regression


def test_the_gradient_of_the_loss_is_zero():
    rng = np.random.default_rng(0)
    features = rng.normal(size=(500, 3)) * [1, 0.01, 100] + [0.5, 0, 1000]
    features[:, 1] += 0.02 * features[:, 0]
    outcomes = rng.random(500) < 1 / (1 + np.exp(-2 * features[:, 0] - 0.02 * (features[:, 2] - 1000)))
    weights, bias = logistic_regression(features, outcomes.astype(float))
    gaps = outcomes - 1 / (1 + np.exp(-features @ weights - bias))
    assert abs(gaps.mean()) < 1e-3
    standard = (features - features.mean(axis=0)) / features.std(axis=0)
    np.testing.assert_allclose((gaps[:, None] * standard).mean(axis=0), 0, atol=1e-3)


@pytest.mark.parametrize("outcome", [0.0, 1.0])
def test_one_outcome_for_all_is_foreseen(outcome):
    weights, bias = logistic_regression(np.random.default_rng(0).normal(size=(50, 3)), np.full(50, outcome))
    assert np.isfinite(weights).all()
    assert abs(1 / (1 + np.exp(-bias)) - outcome) < 0.01


def test_a_feature_that_never_differs_does_no_harm():
    features = np.stack([np.linspace(0, 1, 50), np.full(50, 3.0)], axis=1)
    weights, bias = logistic_regression(features, (features[:, 0] > 0.4).astype(float))
    assert np.isfinite([*weights, bias]).all()
