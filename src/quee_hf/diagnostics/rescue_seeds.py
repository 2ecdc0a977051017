"""The rescue analysis over several fits of the same thing: each by itself, and their mean. Pure functions.

Intervals are over images drawn with replacement, of the mean over fits; the fits are taken as they are, and
how far they differ is shown as a range.
"""

from statistics import median
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from quee_hf.diagnostics.curves import resampled_means
from quee_hf.diagnostics.report import rounded
from quee_hf.diagnostics.rescue import QUADRANTS, describe_rescue
from quee_hf.intervals import wilson_interval

_TAIL = 0.025  # of a 95 % interval, at either end
_NUM_RESAMPLES = 2000
EFFECTS = ("rescue", "loss", "net")

Fits = tuple[Tensor, Tensor]  # early, (fits, images), and full, (images,), both bool


def describe_configuration(is_right: Tensor, baseline: Tensor, cost: Tensor) -> dict[str, Any]:
    """Describe one row of an ablation.

    Args:
        is_right: `(fits, images)`, bool.
        baseline: `(images,)`, bool: what it is compared with, on the same images.
        cost: `(fits,)`, mean FLOPs relative to the whole network.

    Returns:
        `flops_saved` with `value`, the mean over fits, and `range`; `accuracy` the same, with the 95 % Wilson
        `interval` of the mean; `difference` to the baseline's, with the `interval` of a paired difference.

    Raises:
        ValueError: If the shapes do not fit or a tensor is not bool.
    """
    _check(is_right, baseline)
    accuracies, saved = is_right.double().mean(dim=1), 1 - cost.double()
    low, high = wilson_interval(round(float(accuracies.mean()) * len(baseline)), len(baseline))
    return {
        "flops_saved": {"value": rounded(saved.mean()), "range": _range(saved)},
        "accuracy": {
            "value": rounded(accuracies.mean()),
            "interval": [rounded(low), rounded(high)],
            "range": _range(accuracies),
        },
        "difference": describe_difference(is_right, baseline),
    }


def describe_difference(first: Tensor, second: Tensor) -> dict[str, Any]:
    """Return how much more accurate one thing is than another on the same images.

    Args:
        first: `(fits, images)` or `(images,)`, bool.
        second: The same of the other; its number of fits may be another.

    Returns:
        `value`, the difference of the means over fits, and its 95 % `interval` over resampled images.
    """
    values = (_mean_right(first) - _mean_right(second))[:, None]
    return with_intervals(values, ("difference",))["difference"]


def describe_fits(early: Tensor, full: Tensor) -> dict[str, Any]:
    """Describe rescue and loss of several fits.

    Args:
        early: `(fits, images)`, bool: whether the exit where the image leaves is right, in each fit.
        full: `(images,)`, bool: the same of the whole network.

    Returns:
        What `describe_rescue` says of one fit, of their mean: counts and shares are means over fits,
        intervals are over images, `p_value` is the median of the fits'; and `fits`, what it says of each.

    Raises:
        ValueError: As `describe_rescue`.
    """
    _check(early, full)
    fits = [describe_rescue(row, full) for row in early]
    effects = with_intervals(image_effects(early, full), EFFECTS)
    quadrants = {
        name: {
            "count": rounded(np.mean([fit[name]["count"] for fit in fits])),
            "share": rounded(np.mean([fit[name]["share"] for fit in fits])),
        }
        for name in QUADRANTS
    }
    for name in ("rescue", "loss"):
        quadrants[name]["interval"] = effects[name]["interval"]
    return {
        "num_images": len(full),
        "accuracy_early": rounded(early.double().mean()),
        "accuracy_full": rounded(full.double().mean()),
        **quadrants,
        "net": effects["net"],
        "p_value": median(fit["p_value"] for fit in fits),
        "fits": fits,
    }


def compare_fits_with_control(quantized: Fits, control: Fits) -> dict[str, Any]:
    """Say how much of the rescue is there because of quantization, in the mean over fits.

    Args:
        quantized: `early` and `full`, as `describe_fits` takes them, of the quantized network.
        control: The same of the network in full precision, on the same images.

    Returns:
        `quantized` and `control` as `describe_fits` has them, and `difference`: of the shares of `rescue` and
        `loss` and of `net`, the quantized network's less the control's.

    Raises:
        ValueError: As `describe_rescue`, or if there are other images in both.
    """
    if quantized[1].shape != control[1].shape:
        raise ValueError(f"Expected the same images, got {len(quantized[1])} and {len(control[1])}.")
    described = [describe_fits(*fits) for fits in (quantized, control)]
    return {
        "quantized": described[0],
        "control": described[1],
        "difference": with_intervals(image_effects(*quantized) - image_effects(*control), EFFECTS),
    }


def image_effects(early: Tensor, full: Tensor) -> NDArray[np.float64]:
    """Return what `EFFECTS` names, of each image, in the mean over fits: `(images, 3)`.

    Args:
        early: `(fits, images)`, bool.
        full: `(images,)`, bool.

    Raises:
        ValueError: As `describe_rescue`.
    """
    _check(early, full)
    rescued, lost = ((early & ~full).double().mean(dim=0), (~early & full).double().mean(dim=0))
    return np.asarray(torch.stack([rescued, lost, rescued - lost], dim=1).numpy())


def with_intervals(values: NDArray[np.float64], names: tuple[str, ...]) -> dict[str, dict[str, Any]]:
    """Return the mean of each column with its 95 % interval over resampled images.

    Args:
        values: `(images, columns)`.
        names: Of the columns.
    """
    resampled = np.concatenate(list(resampled_means(values, _NUM_RESAMPLES, seed=0)))
    intervals = np.quantile(resampled, [_TAIL, 1 - _TAIL], axis=0).T
    return {
        name: {"value": rounded(value), "interval": [rounded(low), rounded(high)]}
        for name, value, (low, high) in zip(names, values.mean(axis=0), intervals, strict=True)
    }


def _check(early: Tensor, full: Tensor) -> None:
    if early.ndim != 2 or full.ndim != 1 or early.shape[1:] != full.shape or not early.numel():
        raise ValueError(
            f"Expected (fits, images) and (images,), got {tuple(early.shape)} and {tuple(full.shape)}."
        )
    if early.dtype != torch.bool or full.dtype != torch.bool:
        raise ValueError(f"Expected bool tensors, got {early.dtype} and {full.dtype}.")


def _mean_right(is_right: Tensor) -> NDArray[np.float64]:
    rows = is_right.double()
    return np.asarray((rows.mean(dim=0) if rows.ndim > 1 else rows).numpy())


def _range(values: Tensor) -> list[float]:
    return [rounded(values.min()), rounded(values.max())]
