"""Rescue and loss at exactly the same cost, quantized and in full precision. Pure functions.

The more images leave early, the more are rescued and lost: operating points that spend differently cannot be
compared.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from quee_hf.diagnostics.report import rounded
from quee_hf.diagnostics.rescue_seeds import EFFECTS, image_effects, with_intervals


class RoutedFit(NamedTuple):
    """What one fit gives the same images at each of its settings, from the dearest to the cheapest."""

    is_right: Tensor  # (settings, images), bool
    cost: Tensor  # (settings, images), relative to the whole network


def compare_at_cost(
    quantized: tuple[Sequence[RoutedFit], Tensor], control: tuple[Sequence[RoutedFit], Tensor], budget: float
) -> dict[str, Any]:
    """Say how much of the rescue is there because of quantization if both networks spend the same.

    A budget between the costs of two settings is met by routing a share of the images by either; what becomes
    of an image is then the mean of both, weighted by their shares.

    Args:
        quantized: Fits of the quantized network, and `(images,)`, bool: whether the whole of it is right.
        control: The same of the network in full precision, on the same images.
        budget: Mean cost, relative to the whole network. A fit whose dearest setting costs less keeps that.

    Returns:
        `budget`, and of `quantized`, of `control` and of their `difference` the shares of `rescue` and `loss`
        and their difference `net`, each a `value` with a 95 % `interval` over resampled images, of the mean
        over fits; of the difference also its `range` over fits, the first with the first, and so on.

    Raises:
        ValueError: If a fit's settings all cost more, or one network has more fits than the other.

    Source:
        none: our choice.
    """
    if len(quantized[0]) != len(control[0]):
        raise ValueError(f"Expected as many fits of both, got {len(quantized[0])} and {len(control[0])}.")
    sides = [_effects_within(fits, full, budget) for fits, full in (quantized, control)]
    means = [side.mean(dim=0).numpy() for side in (*sides, sides[0] - sides[1])]
    by_fit = (sides[0] - sides[1]).mean(dim=1)  # (fits, effects)
    difference = with_intervals(means[2], EFFECTS)
    for name, values in zip(EFFECTS, by_fit.T, strict=True):
        difference[name]["range"] = [rounded(values.min()), rounded(values.max())]
    return {
        "budget": budget,
        "quantized": with_intervals(means[0], EFFECTS),
        "control": with_intervals(means[1], EFFECTS),
        "difference": difference,
    }


def effects_at_cost(fit: RoutedFit, full: Tensor, budget: float) -> Tensor:
    """Return each image's share of rescue, loss and net at a mean cost, `(images, 3)` float64.

    Args:
        fit: Of a network.
        full: `(images,)`, bool: whether the whole network is right.
        budget: As `compare_at_cost` has it.
    """
    cost = fit.cost.double().mean(dim=1)
    affordable = (cost <= budget).nonzero().flatten().tolist()
    if not affordable:
        raise ValueError(f"All settings cost more than {budget}: at least {float(cost.min()):.3f}.")
    cheap = affordable[0]
    dear = max(0, cheap - 1)
    gap = float(cost[dear] - cost[cheap])
    share = (budget - float(cost[cheap])) / gap if gap > 0 else 0.0
    cheap_effects, dear_effects = (image_effects(fit.is_right[index][None], full) for index in (cheap, dear))
    return torch.from_numpy(share * dear_effects + (1 - share) * cheap_effects)


def state_rescue(compared: Mapping[str, Any], name: str) -> str:
    """Say in plain words whether the rescue of a quantized network exceeds that in full precision.

    Args:
        compared: As `compare_at_cost` returns it.
        name: Of the quantized network.
    """
    quantized, control, difference = (compared[part] for part in ("quantized", "control", "difference"))
    verdict = {1: "exceeds", -1: "is below", 0: "does not measurably exceed"}
    return (
        f"{name}: at {compared['budget']:.0%} of the FLOPs, rescue"
        f" {verdict[_sign(difference['rescue']['interval'])]} rescue in full precision,"
        f" {100 * quantized['rescue']['value']:.2f} % against {100 * control['rescue']['value']:.2f} % of the"
        f" images, a difference of {_points(difference['rescue'])} points, {_spread(difference['rescue'])}."
        f" Leaving early changes accuracy by {_points(quantized['net'])} points, in full precision by"
        f" {_points(control['net'])}: a difference of {_points(difference['net'])},"
        f" {_spread(difference['net'])}."
    )


def _effects_within(fits: Sequence[RoutedFit], full: Tensor, budget: float) -> Tensor:
    """Return `(fits, images, effects)`."""
    return torch.stack([effects_at_cost(fit, full, budget) for fit in fits])


def _sign(interval: Sequence[float]) -> int:
    """Return 1 or -1 if an interval is above or below 0, else 0."""
    low, high = interval
    return int(low > 0) - int(high < 0)


def _spread(described: Mapping[str, Any]) -> str:
    low, high = described["range"]
    return f"{100 * low:+.2f} to {100 * high:+.2f} from fit to fit"


def _points(described: Mapping[str, Any]) -> str:
    low, high = described["interval"]
    return f"{100 * described['value']:+.2f} ({100 * low:+.2f} to {100 * high:+.2f})"
