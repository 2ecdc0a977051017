"""Tests of `quee_hf.routing.cost_curve`."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quee_hf.routing.cost_curve import cost_curve

lambdas = st.floats(0, 10, allow_nan=False)
costs = st.floats(0.01, 1)


@given(points=st.lists(st.tuples(lambdas, costs), min_size=2, max_size=30, unique_by=lambda point: point[0]))
def test_costs_fall_and_lambdas_come_back(points):
    if max(points)[0] - min(points)[0] < 1e-6:
        return
    curve = cost_curve(points)
    assert (np.diff(curve.lambdas) > 0).all()
    assert (np.diff(curve.costs) <= 0).all()
    for cost_lambda in np.linspace(curve.lambdas[0], curve.lambdas[-1], 7):
        back = curve.lambda_at(float(curve.cost_at(np.array(cost_lambda))))
        assert float(curve.cost_at(np.array(back))) == pytest.approx(
            float(curve.cost_at(np.array(cost_lambda)))
        )


def test_flat_parts_fall_a_little_so_that_every_lambda_has_its_cost():
    curve = cost_curve([(0.0, 0.8), (0.5, 0.25), (1.0, 0.25), (5.0, 0.25)])
    assert (np.diff(curve.costs) < 0).all()
    assert curve.lambda_at(0.25) == pytest.approx(0.5, abs=0.1)
    assert curve.lambda_at(0.0) == 5.0
    assert curve.lambda_at(1.0) == 0.0
    assert curve.costs[-1] > 0.25 - 0.1 * 0.8


def test_a_cost_that_rises_by_chance_counts_as_the_one_before():
    curve = cost_curve([(0.0, 0.8), (0.1, 0.5), (0.2, 0.6), (0.3, 0.4)])
    assert float(curve.cost_at(np.array(0.2))) == pytest.approx(0.5, abs=0.03)


def test_bounds_cut_and_extend():
    points = [(0.0, 0.8), (0.2, 0.4), (1.0, 0.3)]
    cut = cost_curve(points, (0.1, 0.2))
    assert (cut.lambdas[0], cut.lambdas[-1]) == (0.1, 0.2)
    assert cut.costs[0] == pytest.approx(0.6)
    assert cost_curve(points, (0.0, 50.0)).lambda_at(0.0) == 50.0


@pytest.mark.parametrize(
    "bounds", [(0.2, 0.1), (0.1, 0.1), (-1.0, 1.0), (0.0, float("inf")), (0.0, float("nan"))]
)
def test_senseless_bounds_are_refused(bounds):
    with pytest.raises(ValueError, match="`lambda_bounds` must be two finite lambdas"):
        cost_curve([(0.0, 1.0), (1.0, 0.5)], bounds)


def test_no_points_are_refused():
    with pytest.raises(ValueError, match="`points` must hold"):
        cost_curve([])
