"""Outputs of the paths that gates choose from, and of the whole network at each single level."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.utils.data import Dataset

from quee_hf.blueprint import segment_costs, uniform_paths
from quee_hf.execution.network import NetworkWrapper
from quee_hf.execution.path_outputs import PathOutputs, collect_path_outputs
from quee_hf.modeling import QuEEForImageClassification
from quee_hf.paths import Path, PathTree, prefixes
from quee_hf.routing.costs import path_costs
from quee_hf.routing.router import Router


@dataclass(frozen=True)
class AllOutputs:
    """A data set's outputs.

    Args:
        routable: Of `model.paths`, in their order.
        uniform: Of the whole network at each level, in the order of `model.level_list`.
    """

    routable: PathOutputs
    uniform: PathOutputs


def collect_all_outputs(
    model: QuEEForImageClassification,
    dataset: Dataset[Any],
    *,
    batch_size: int = 64,
) -> AllOutputs:
    """Run all paths over a data set, each segment that paths share once, with a progress bar.

    Args:
        model: On any device and engine; outputs are kept on the CPU.
        dataset: Items `{"pixel_values": (channels, height, width), "labels": int}`.
        batch_size: Images per batch.

    Raises:
        ValueError: If the data set is empty.
    """
    network = _MorePaths(model, uniform_paths(model.config))
    outputs = collect_path_outputs(network, dataset, batch_size=batch_size, device=model.device)
    index = network.router.tree.index

    def of(paths: list[Path]) -> PathOutputs:
        return outputs.of_paths([index[path] for path in paths])

    return AllOutputs(of(list(model.paths)), of(uniform_paths(model.config)))


def as_tensors(outputs: AllOutputs) -> dict[str, Tensor]:
    """Return outputs as named tensors, fit for a file."""
    named = {"labels": outputs.routable.labels}
    for name, part in (("routable", outputs.routable), ("uniform", outputs.uniform)):
        named |= {f"{name}_logits": part.logits.contiguous(), f"{name}_variance": part.variance.contiguous()}
    return named


def from_tensors(tensors: Mapping[str, Tensor]) -> AllOutputs:
    """Return what `as_tensors` was given."""
    routable, uniform = (
        PathOutputs(tensors[f"{name}_logits"], tensors[f"{name}_variance"], tensors["labels"])
        for name in ("routable", "uniform")
    )
    return AllOutputs(routable, uniform)


class _MorePaths(NetworkWrapper):
    """A model with a larger path tree, for running; its gates could not score the additional paths."""

    def __init__(self, model: QuEEForImageClassification, more: list[Path]) -> None:
        super().__init__(model.network)
        wanted = {*model.paths, *(prefix for path in more for prefix in prefixes(path))}
        paths = tuple(sorted(wanted, key=lambda path: (len(path), path)))
        self._router = Router(PathTree(paths), path_costs(paths, segment_costs(model.config)))

    @property
    def router(self) -> Router:
        """All these paths, and their costs."""
        return self._router
