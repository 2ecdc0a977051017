"""LRA-EE's rescue analysis: what leaving early gains and loses, image by image. Pure functions of tensors.

"Early" is the prediction of the exit where an image leaves, "full" that of the whole network. All results fit
JSON; shares and accuracies are from 0 to 1, tables show them in percent.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from quee_hf.baselines.confidence import margin
from quee_hf.diagnostics.curves import resampled_means
from quee_hf.diagnostics.report import describe_accuracy, rounded
from quee_hf.intervals import paired_difference_interval, wilson_interval

_TAIL = 0.025  # of a 95 % interval, at either end

QUADRANTS = ("both_right", "rescue", "loss", "both_wrong")
_EFFECTS = ("rescue", "loss", "net")

Pair = tuple[Tensor, Tensor]


def describe_rescue(early: Tensor, full: Tensor) -> dict[str, Any]:
    """Divide images by whether the early exit and the whole network are right.

    Leaving early also rescues images without quantization ("overthinking"): on its own this says nothing of
    noise. `compare_with_control` does.

    Args:
        early: `(images,)`, bool: whether the prediction of the exit where the image leaves is right.
        full: `(images,)`, bool: the same of the whole network.

    Returns:
        `num_images`; `accuracy_early` and `accuracy_full`; `count`, `share` and its 95 % Wilson `interval` of
        each quadrant: `both_right`, `rescue` (early right, full wrong), `loss` (early wrong, full right) and
        `both_wrong`; `net`, the share of rescue less that of loss, with the 95 % `interval` of a paired
        difference; `p_value`, two-sided, of McNemar's exact test: how likely such a difference is, or a
        larger one, if images are rescued as easily as lost.

    Raises:
        ValueError: If there are no images, or the tensors are not bool and of one length.

    Example:
        >>> early = torch.tensor([True, True, True, False])
        >>> full = torch.tensor([True, False, False, True])
        >>> described = describe_rescue(early, full)
        >>> described["rescue"]["count"], described["loss"]["count"], described["net"]["value"]
        (2, 1, 0.25)

    Source:
        LRA-EE (arXiv:2605.26415), §7.1, Eq. (7). Differs: intervals and the test are ours.
    """
    counts = {name: int(members.sum()) for name, members in _quadrants(early, full).items()}
    num_images = len(early)
    rescued, lost = counts["rescue"], counts["loss"]
    low, high = paired_difference_interval(rescued, lost, num_images)
    return {
        "num_images": num_images,
        "accuracy_early": rounded((counts["both_right"] + rescued) / num_images),
        "accuracy_full": rounded((counts["both_right"] + lost) / num_images),
        **{name: _share(count, num_images) for name, count in counts.items()},
        "net": {"value": rounded((rescued - lost) / num_images), "interval": [rounded(low), rounded(high)]},
        "p_value": float(f"{mcnemar_p_value(rescued, lost):.4g}"),
    }


def mcnemar_p_value(num_rescued: int, num_lost: int) -> float:
    """Return the two-sided p-value of McNemar's exact test.

    Args:
        num_rescued: Images of which only the first of two predictions is right.
        num_lost: Images of which only the second is.

    Example:
        >>> round(mcnemar_p_value(8, 1), 7)
        0.0390625

    Source:
        McNemar 1947, with the exact distribution: of the images that are right once, half are expected in
        either group. Differs: none.
    """
    from scipy.stats import binomtest  # takes a second to import

    if num_rescued + num_lost == 0:
        return 1.0
    return float(binomtest(num_rescued, num_rescued + num_lost).pvalue)


def describe_rescue_by_class(
    early: Tensor, full: Tensor, labels: Tensor, class_names: Sequence[str]
) -> list[dict[str, Any]]:
    """Return, for each class with images, how many of them are rescued and lost.

    Args:
        early: As `describe_rescue` takes it.
        full: The same.
        labels: `(images,)`, int64: the true classes.
        class_names: Their names.

    Returns:
        For each class its `class` (the name), `num_images`, and the counts `rescued`, `lost` and `net`; most
        rescued first, of equals the one that loses fewer, then in the order of the names.

    Raises:
        ValueError: As `describe_rescue`, or if a label has no name.

    Source:
        LRA-EE (arXiv:2605.26415), §7.1.
    """
    quadrants = _quadrants(early, full)
    if labels.shape != early.shape or labels.min() < 0 or labels.max() >= len(class_names):
        raise ValueError(f"Expected {len(early)} labels from 0 to {len(class_names) - 1}.")
    num_images, rescued, lost = (
        torch.bincount(labels[members], minlength=len(class_names)).tolist()
        for members in (torch.ones_like(early), quadrants["rescue"], quadrants["loss"])
    )
    rows = [
        {"class": name, "num_images": n, "rescued": gained, "lost": gone, "net": gained - gone}
        for name, n, gained, gone in zip(class_names, num_images, rescued, lost, strict=True)
        if n
    ]
    return sorted(rows, key=lambda row: (-row["rescued"], row["lost"]))  # stable


def describe_margins(
    early: Tensor, full: Tensor, probabilities: Tensor, cosines: Tensor | None = None
) -> dict[str, Any]:
    """Return how clearly the whole network decides in each quadrant.

    A margin is the largest number of an image less the second largest. The paper takes rescued images to be
    those near a boundary between classes; then their margins are small.

    Args:
        early: As `describe_rescue` takes it.
        full: The same.
        probabilities: `(images, classes)`: class probabilities of the whole network.
        cosines: `(images, classes)`: cosines to the class embeddings, or these times any scale; CLIP only.

    Returns:
        For each quadrant `count`, and of `probability`, and `cosine` if given, `mean` and `median` margin,
        `None` without images.

    Raises:
        ValueError: As `describe_rescue`, or if there are not two classes for every image.

    Source:
        LRA-EE (arXiv:2605.26415), §7.3. Differs: there it is an argument, here it is measured.
    """
    given = {"probability": probabilities, "cosine": cosines}
    for name, scores in given.items():
        if scores is not None and (scores.ndim != 2 or len(scores) != len(early) or scores.shape[1] < 2):
            raise ValueError(
                f"Expected {name} of {len(early)} images x 2 classes or more, got {tuple(scores.shape)}."
            )
    margins = {name: margin(scores.double()) for name, scores in given.items() if scores is not None}
    return {
        quadrant: {
            "count": int(members.sum()),
            **{name: _mean_and_median(values[members]) for name, values in margins.items()},
        }
        for quadrant, members in _quadrants(early, full).items()
    }


def describe_selectivity(early: Tensor, full: Tensor, has_left_early: Tensor) -> dict[str, Any]:
    """Compare the images that left early with those that ran the whole network.

    A rule that sends easy images out is more accurate on them than on the others. So is the whole network,
    which tells how much of the difference is the choice of images.

    Args:
        early: As `describe_rescue` takes it.
        full: The same.
        has_left_early: `(images,)`, bool: whether the image left before the last exit.

    Returns:
        Of `left_early` and `whole_network`: `num_images`, their `share`, and `early` and `full`, the accuracy
        of either prediction on them with its 95 % Wilson interval, `None` without images.

    Raises:
        ValueError: As `describe_rescue`.

    Source:
        LRA-EE (arXiv:2605.26415), §7.2. Differs: the whole network on both groups is ours.
    """
    _check(early, full, has_left_early)
    groups = {"left_early": has_left_early, "whole_network": ~has_left_early}
    return {
        name: _describe_group(early[members], full[members], len(early)) for name, members in groups.items()
    }


def compare_with_control(
    quantized: Pair, control: Pair, *, num_resamples: int = 1000, seed: int = 0
) -> dict[str, Any]:
    """Say how much of the rescue is there because of quantization.

    Args:
        quantized: `early` and `full`, as `describe_rescue` takes them, of the quantized model.
        control: The same of the model in full precision, with the same exits and the same rule to leave, on
            the same images in the same order.
        num_resamples: More make the ends of the intervals less random.
        seed: Of the resampling of images, the same for both.

    Returns:
        `quantized` and `control` as `describe_rescue` has them, and `difference`: of the shares of `rescue`
        and `loss` and of `net`, the quantized model's less the control's, each a `value` with a 95 %
        percentile `interval` over images drawn with replacement. Where both models treat every image alike,
        all draws are alike, too, and the interval is 0 to 0.

    Raises:
        ValueError: As `describe_rescue`, or if `num_resamples` is below 1.

    Source:
        none: our choice. Networks in full precision rescue images, too (Kaya et al. 2019, arXiv:1810.07052).
    """
    _check(*quantized, *control)
    effects = [_effects(*pair) for pair in (quantized, control)]
    values = effects[0] - effects[1]
    resampled = np.concatenate(list(resampled_means(values, num_resamples, seed)))
    intervals = np.quantile(resampled, [_TAIL, 1 - _TAIL], axis=0).T
    return {
        "quantized": describe_rescue(*quantized),
        "control": describe_rescue(*control),
        "difference": {
            name: {"value": rounded(value), "interval": [rounded(low), rounded(high)]}
            for name, value, (low, high) in zip(_EFFECTS, values.mean(axis=0), intervals, strict=True)
        },
    }


def _check(first: Tensor, *others: Tensor) -> None:
    shapes = [tuple(tensor.shape) for tensor in (first, *others)]
    if first.ndim != 1 or not len(first) or len(set(shapes)) > 1:
        raise ValueError(f"Expected one value for each of the same images, got shapes {shapes}.")
    if kinds := {tensor.dtype for tensor in (first, *others)} - {torch.bool}:
        raise ValueError(f"Expected bool tensors, got {sorted(map(str, kinds))}.")


def _quadrants(early: Tensor, full: Tensor) -> dict[str, Tensor]:
    """Return the images of each quadrant, `(images,)`, bool."""
    _check(early, full)
    members = (early & full, early & ~full, ~early & full, ~early & ~full)
    return dict(zip(QUADRANTS, members, strict=True))


def _effects(early: Tensor, full: Tensor) -> NDArray[np.float64]:
    """Return what `_EFFECTS` names, of each image: `(images, 3)`."""
    rescued, lost = (early & ~full).cpu().double(), (~early & full).cpu().double()
    return np.asarray(torch.stack([rescued, lost, rescued - lost], dim=1).numpy())


def _share(count: int, total: int) -> dict[str, Any]:
    low, high = wilson_interval(count, total)
    return {"count": count, "share": rounded(count / total), "interval": [rounded(low), rounded(high)]}


def _mean_and_median(values: Tensor) -> dict[str, float | None]:
    if not len(values):
        return {"mean": None, "median": None}
    return {"mean": rounded(values.mean()), "median": rounded(values.quantile(0.5))}


def _describe_group(early: Tensor, full: Tensor, total: int) -> dict[str, Any]:
    accuracies = {"early": early, "full": full}
    return {
        "num_images": len(early),
        "share": rounded(len(early) / total),
        **{name: describe_accuracy(right) if len(right) else None for name, right in accuracies.items()},
    }
