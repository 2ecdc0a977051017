"""What routing makes of validation images at each lambda: where they leave, and how sure it is of them."""

from collections.abc import Mapping, Sequence, Sized
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from quee_hf.execution.network import Network
from quee_hf.execution.path_outputs import PathOutputs, collect_path_outputs, replay
from quee_hf.measurements import LEAST_IMAGES, DriftReference
from quee_hf.routing.policy import Indices

QUANTITIES = ("exit", "error", "confidence")
NUM_BINS = 20  # of what is no exit, each with as many of the images at all lambdas, as far as that goes
# In steps of a fifth: between two of these, what routing does changes evenly.
_LAMBDAS = (0.0, *(round(0.001 * 1.2**step, 6) for step in range(48)))
_CLOSE = 0.01  # difference of shares by which a row may be missed by its neighbours, and be left out


def reference_outputs(
    network: Network, images: Dataset[Any] | PathOutputs, batch_size: int, device: torch.device
) -> PathOutputs:
    """Return the outputs of images that later ones are to be compared with; collect them if need be.

    Raises:
        ValueError: If there are fewer than two, before anything runs if they have a length; or one has no
            answer: its pixels or outputs hold NaN or infinity.
    """
    _check_enough(images)
    if not isinstance(images, PathOutputs):
        images = collect_path_outputs(network, images, batch_size=batch_size, device=device)
        _check_enough(images)
    finite = images.logits.flatten(1).isfinite().all(dim=1)
    if not bool(finite.all()):
        position = int((~finite).nonzero()[0])
        raise ValueError(f"The outputs of image {position}, counted from 0, hold NaN or infinity.")
    return images


def _check_enough(images: object) -> None:
    if isinstance(images, Sized) and len(images) < LEAST_IMAGES:
        raise ValueError(
            f"What later images are compared with needs at least {LEAST_IMAGES} images, and some hundred to"
            f" mean much, got {len(images)}."
        )


def bin_images(
    exit_index: Indices, error: Tensor, logits: Tensor, edges: Mapping[str, Sequence[float]]
) -> dict[str, Indices]:
    """Return the bin of each image, `(batch,)`, of each quantity.

    Args:
        exit_index: `(batch,)`, where images left.
        error: `(batch,)`, predicted error; NaN, where no gate was asked, counts as 1.
        logits: `(batch, labels)`, finite.
        edges: Between the bins of error and confidence.
    """
    values = {"error": _errors(error), "confidence": _confidences(logits)}
    binned = {name: np.searchsorted(edges[name], each, side="right") for name, each in values.items()}
    return {"exit": exit_index, **binned}


def make_drift_reference(network: Network, outputs: PathOutputs, cost_model: str) -> DriftReference:
    """Route images whose outputs are known at many lambdas, and count; keep those that others do not tell.

    Args:
        network: The model whose gates decide.
        outputs: Of images used for nothing else, as `reference_outputs` returns them.
        cost_model: By which the model routes.
    """
    depths = np.array([len(path) for path in network.router.tree.paths])
    routes = [replay(network, outputs, value) for value in _LAMBDAS]
    edges = {
        "error": _edges(np.concatenate([_errors(each.error) for each in routes])),
        "confidence": _edges(np.concatenate([_confidences(each.logits) for each in routes])),
    }
    sizes = {"exit": int(depths.max()), **{name: len(each) + 1 for name, each in edges.items()}}
    binned = [bin_images(depths[each.node.numpy()] - 1, each.error, each.logits, edges) for each in routes]
    counts = {
        name: np.stack([np.bincount(bins[name], minlength=sizes[name]) for bins in binned])
        for name in QUANTITIES
    }
    whole = outputs.logits[:, network.router.tree.exact_nodes[-1]].argmax(dim=-1)
    differing = np.array([int((each.logits.argmax(dim=-1) != whole).sum()) for each in routes])
    shares = [each.cumsum(axis=1) / len(outputs) for each in (*counts.values(), differing[:, None])]
    kept = _telling(np.array(_LAMBDAS), np.concatenate(shares, axis=1))
    return {
        "num_images": len(outputs),
        "cost_lambdas": [_LAMBDAS[row] for row in kept],
        "cost_model": cost_model,
        "edges": edges,
        "counts": {name: [" ".join(map(str, each[row])) for row in kept] for name, each in counts.items()},
        "differing": differing[kept].tolist(),
    }


def _telling(lambdas: NDArray[np.float64], shares: NDArray[np.float64]) -> list[int]:
    """Return the rows from which straight lines pass all others closely, `shares` being `(lambdas, n)`."""
    kept = {0, len(lambdas) - 1}
    while True:
        rows = sorted(kept)
        lines = [np.interp(lambdas, lambdas[rows], column[rows]) for column in shares.T]
        misses = np.abs(np.stack(lines, axis=1) - shares).max(axis=1)
        if misses.max() <= _CLOSE:
            return rows
        kept.add(int(misses.argmax()))


def _edges(values: NDArray[np.float64]) -> list[float]:
    found = np.quantile(values, np.arange(1, NUM_BINS) / NUM_BINS)
    return [float(edge) for edge in np.unique(found.clip(0, 1))]


def _errors(error: Tensor) -> NDArray[np.float64]:
    found: NDArray[np.float64] = np.nan_to_num(error.double().numpy(force=True), nan=1.0)
    return found


def _confidences(logits: Tensor) -> NDArray[np.float64]:
    # In float32 many are exactly 1, but for the rounding of whatever computed them.
    found: NDArray[np.float64] = torch.softmax(logits.double(), dim=-1).amax(dim=-1).numpy(force=True)
    return found
