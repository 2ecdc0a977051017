"""Which images play which role: disjoint parts, each with its share of every class. Pure functions."""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from quee_hf.build.recipe import Recipe
from quee_hf.data import LabelledImages
from quee_hf.data.roles import OPERATING_POINTS
from quee_hf.errors import BadDatasetError

# Of the training images. Heads are linear or almost so: a tenth shows when they stop improving.
TRAIN_SHARES = {"head training": 0.85, "head early stopping": 0.10, "calibration images": 0.05}
# Of the validation images that are for gates; the others are for operating points.
_GATE_SHARES = {
    "outcome": {"gate training": 0.8, "gate early stopping": 0.2},
    "cluster": {"error clusters": 0.4, "gate training": 0.4, "gate early stopping": 0.2},
}

Parts = dict[str, LabelledImages]


def validation_shares(recipe: Recipe) -> dict[str, float]:
    """Return the share of the validation images for each role.

    Example:
        >>> recipe = Recipe(model="m", train="t", validation="v", exits=(2, 4), levels=(8,))
        >>> validation_shares(recipe)
        {'gate training': 0.56, 'gate early stopping': 0.14, 'operating points': 0.3}
    """
    shares = {role: recipe.gate_fraction * share for role, share in _GATE_SHARES[recipe.gate_targets].items()}
    shares[OPERATING_POINTS] = 1 - recipe.gate_fraction
    return {role: round(share, 9) for role, share in shares.items()}


def divide(images: LabelledImages, shares: Mapping[str, float], seed: int, *, name: str) -> Parts:
    """Divide images among roles.

    Raises:
        BadDatasetError: If there are so few that a role would have none.
    """
    try:
        parts = images.split(list(shares.values()), seed)
    except BadDatasetError as error:
        wanted = ", ".join(f"{role} {share:.0%}" for role, share in shares.items())
        raise BadDatasetError(f"{len(images)} {name} images are too few to divide into {wanted}.") from error
    return dict(zip(shares, parts, strict=True))


def positions(images: LabelledImages, part: LabelledImages) -> Tensor:
    """Return where the images of a part stand in the whole, `(N,)` int64."""
    return torch.from_numpy(np.searchsorted(images.rows, part.rows))


def list_rows(parts: Parts) -> dict[str, list[int]]:
    """Return which images of a source play each role, as positions in it, counted from 0."""
    return {role: part.rows.tolist() for role, part in parts.items()}
