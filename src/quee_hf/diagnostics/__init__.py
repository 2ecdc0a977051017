"""Measure a model and its routing: curves of accuracy over cost, calibration, and pictures of both."""

from quee_hf.diagnostics.calibration import (
    area_under_risk_coverage,
    error_auroc,
    expected_calibration_error,
    root_mean_square_error,
)
from quee_hf.diagnostics.curves import (
    area_under_curve,
    bootstrap_area_difference,
    cost_at_accuracy,
    undominated_points,
)
from quee_hf.intervals import wilson_interval

__all__ = [
    "area_under_curve",
    "area_under_risk_coverage",
    "bootstrap_area_difference",
    "cost_at_accuracy",
    "error_auroc",
    "expected_calibration_error",
    "root_mean_square_error",
    "undominated_points",
    "wilson_interval",
]
