"""What routing makes of validation images at each lambda: where they leave, and how sure it is of them."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from quee_hf.execution.network import Network
from quee_hf.execution.path_outputs import PathOutputs, replay
from quee_hf.measurements import DriftReference
from quee_hf.routing.policy import Indices

QUANTITIES = ("exit", "error", "confidence")
NUM_BINS = 20  # of what is no exit, each with as many of the images at all lambdas, as far as that goes
# In steps of a fifth: between two of these, what routing does changes evenly.
_LAMBDAS = (0.0, *(round(0.001 * 1.2**step, 6) for step in range(48)))
_CLOSE = 0.01  # difference of shares by which a row may be missed by its neighbours, and be left out


def bin_images(
    exit_index: Indices, error: Tensor, logits: Tensor, edges: Mapping[str, Sequence[float]]
) -> dict[str, Indices]:
    """Return the bin of each image, `(batch,)`, of each quantity.

    Args:
        exit_index: `(batch,)`, where images left.
        error: `(batch,)`, predicted error; NaN counts as 1.
        logits: `(batch, labels)`; those with NaN count as no confidence.
        edges: Between the bins of error and confidence.
    """
    values = {"error": _errors(error), "confidence": _confidences(logits)}
    binned = {name: np.searchsorted(edges[name], each, side="right") for name, each in values.items()}
    return {"exit": exit_index, **binned}


def make_drift_reference(network: Network, outputs: PathOutputs, cost_model: str) -> DriftReference:
    """Route images whose outputs are known at many lambdas, and count; keep those that others do not tell.

    Args:
        network: The model whose gates decide.
        outputs: Of images used for nothing else.
        cost_model: By which the model routes.
    """
    depths = np.array([len(path) for path in network.router.tree.paths])
    routes = [replay(network, outputs, value) for value in _LAMBDAS]
    edges = {
        "error": _edges(np.concatenate([_errors(each.error) for each in routes])),
        "confidence": _edges(np.concatenate([_confidences(each.logits) for each in routes])),
    }
    sizes = {"exit": int(depths.max()), **{name: len(each) + 1 for name, each in edges.items()}}
    binned = [bin_images(depths[each.node] - 1, each.error, each.logits, edges) for each in routes]
    counts = {
        name: np.stack([np.bincount(bins[name], minlength=sizes[name]) for bins in binned])
        for name in QUANTITIES
    }
    whole = outputs.logits[:, network.router.tree.index[(0,) * sizes["exit"]]].argmax(dim=-1)
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
    return [float(edge) for edge in np.unique(found)]


def _errors(error: Tensor) -> NDArray[np.float64]:
    found: NDArray[np.float64] = np.nan_to_num(error.double().numpy(force=True), nan=1.0)
    return found


def _confidences(logits: Tensor) -> NDArray[np.float64]:
    # In float32 many are exactly 1, but for the rounding of whatever computed them.
    largest = torch.softmax(logits.double(), dim=-1).amax(dim=-1)
    found: NDArray[np.float64] = np.nan_to_num(largest.numpy(force=True), nan=0.0)
    return found
