"""Which engine is fastest here, found out by running them."""

import time
import warnings
from collections.abc import Mapping
from statistics import median

import torch
from torch import Tensor

from quee_hf.blueprint import check_runnable, image_size
from quee_hf.errors import NotReadyError, QuEEError
from quee_hf.execution.engines.engine import Source
from quee_hf.execution.network import Network

_BATCH_SIZE = 8
_ROUNDS = 7
_RUNS = 3  # in a round: threads of the engine before it may still be busy at the first


@torch.inference_mode()
def fastest(source: Source, networks: Mapping[str, Network]) -> str:
    """Return which of several ways to run a model takes a batch to the last exit fastest.

    All images run at the most exact level. The ways take turns, so that all meet the same machine. What
    cannot run the model is left out, with a warning that says why.

    Args:
        source: The model.
        networks: Name to what computes the same as the model.

    Raises:
        NotReadyError: If the model is not quantized yet, or none can run it.
    """
    config = source.config
    check_runnable(config, config.level_list[0])
    weight = source.trunk.norm.weight
    shape = (_BATCH_SIZE, config.backbone.num_channels, *image_size(config))
    images = torch.rand(shape, generator=torch.Generator().manual_seed(0)).to(weight)
    path, usable = (0,) * config.num_exits, {}
    for name, network in networks.items():
        try:
            network.run_path(images, path)
        except (ValueError, QuEEError) as error:
            warnings.warn(f"The engine {name!r} cannot run this model: {error}", stacklevel=4)
        else:
            usable[name] = network
    if not usable:
        raise NotReadyError(f"None of the engines {list(networks)} can run this model.")
    times: dict[str, list[float]] = {name: [] for name in usable}
    for _ in range(_ROUNDS):
        for name, network in usable.items():
            times[name].append(min(_seconds(network, images, path) for _ in range(_RUNS)))
    return min(times, key=lambda name: median(times[name]))


def _seconds(network: Network, images: Tensor, path: tuple[int, ...]) -> float:
    start = time.perf_counter()
    network.run_path(images, path)
    if images.is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - start
