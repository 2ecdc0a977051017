"""`profile`: measure how long a model's parts take where it runs, so that routing can go by time."""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from quee_hf.blueprint import image_size
from quee_hf.execution.engines import EXTRAS, make_engine
from quee_hf.execution.engines.network import EngineNetwork
from quee_hf.execution.network import Network
from quee_hf.execution.timing import Clock, PartTimes, time_parts
from quee_hf.machine import this_machine
from quee_hf.measurements import Profile
from quee_hf.modeling import QuEEForImageClassification
from quee_hf.routing.measured_costs import latency_table, time_of_half

DEFAULT_BATCH_SIZES = (1, 8, 32)
_DECIMALS = 6  # of milliseconds


def profile(
    model: QuEEForImageClassification,
    *,
    batch_sizes: Sequence[int] = DEFAULT_BATCH_SIZES,
    batch_size: int | None = None,
    threads: int | None = None,
    max_seconds: float = 60.0,
    clock: Clock = time.perf_counter,
) -> Profile:
    """Measure every segment at every level, every exit and decision, and the embedding, in milliseconds.

    The model's current engine is measured, on its device, and the result kept in `config.record["profile"]`.
    `config.cost_table` becomes the time of each segment at each level, with the exit and the decision after
    it. Levels that are equally fast cost exactly the same in it, and so does a faster one beside which it is
    quicker not to divide batches; `quee_hf.routing.measured_costs` says when. After
    `model.set_cost_model("latency")` the model routes by it.

    Operating points at other costs stay, but for their `latency_ms`, which `model.fit_operating_points`
    measures anew. If the model routes by time already, its operating points are forgotten.

    Args:
        model: Quantized, if it has integer levels; its gates may be untrained.
        batch_sizes: How many images to run at once.
        batch_size: Of these, the one that the cost table is for; the largest if not given.
        threads: Of the CPU; as many as torch uses if not given. Elsewhere the model runs on what torch uses.
        max_seconds: When to begin no further round, shared by the batch sizes; every part is run at least
            three times at each, however long that takes, and at most fifty.
        clock: In seconds.

    Returns:
        The profile: medians and quartiles in milliseconds per image.

    Raises:
        ValueError: If a number is not positive, or `batch_size` not among `batch_sizes`.
        NotReadyError: If the model is not quantized.
    """
    sizes, chosen = _checked_sizes(batch_sizes, batch_size)
    if threads is not None and threads < 1:
        raise ValueError(f"`threads` must be at least 1, got {threads}.")
    if not max_seconds > 0:
        raise ValueError(f"`max_seconds` must be above 0, got {max_seconds}.")
    pixel_values = _noise(model, max(sizes))
    with _threads(threads), _in_evaluation(model):
        network, end, times = _network(model), clock() + max_seconds, {}
        for number, size in enumerate(sizes):
            share = (end - clock()) / (len(sizes) - number)
            times[size] = time_parts(network, pixel_values[:size], max_seconds=share, clock=clock)
        found = _describe(model, times, chosen)
    half = time_of_half({size: np.median(each.segments, axis=-1) for size, each in times.items()}, chosen)
    _keep(model, found, latency_table(times[chosen].segments, times[chosen].after_segments, half))
    return found


def _checked_sizes(batch_sizes: Sequence[int], batch_size: int | None) -> tuple[list[int], int]:
    """Return batch sizes, ascending, and that of the cost table."""
    is_list = isinstance(batch_sizes, Sequence) and all(isinstance(size, int) for size in batch_sizes)
    if not is_list or not batch_sizes or min(batch_sizes) < 1:
        raise ValueError(f"`batch_sizes` must be a list of whole numbers of at least 1, got {batch_sizes!r}.")
    sizes = sorted(set(batch_sizes))
    if batch_size is not None and batch_size not in sizes:
        raise ValueError(f"`batch_size` must be one of `batch_sizes`, {sizes}, got {batch_size}.")
    return sizes, sizes[-1] if batch_size is None else batch_size


def _noise(model: QuEEForImageClassification, count: int) -> torch.Tensor:
    """Return images of noise: how long a part takes does not depend on what they show."""
    channels = int(getattr(model.config.backbone, "num_channels", 3))
    random = torch.Generator().manual_seed(0)
    pixels = torch.randn(count, channels, *image_size(model.config), generator=random)
    return pixels.to(model.device, model.dtype)


def _network(model: QuEEForImageClassification) -> Network:
    """Return the model on an engine of its own, which compiles for the threads that there are now."""
    engine = make_engine(model.engine, model)
    return model if engine is None else EngineNetwork(model, engine)


@contextmanager
def _threads(count: int | None) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def _in_evaluation(model: QuEEForImageClassification) -> Iterator[None]:
    was_training = model.training
    if was_training:
        model.eval()
    try:
        yield
    finally:
        if was_training:
            model.train()


def _describe(model: QuEEForImageClassification, times: Mapping[int, PartTimes], batch_size: int) -> Profile:
    measured = times.values()
    return {
        "engine": model.engine,
        "threads": torch.get_num_threads(),
        "machine": this_machine(model.device),
        "versions": _versions(model.engine),
        "date": datetime.now(UTC).date().isoformat(),
        "num_rounds": [each.num_rounds for each in measured],
        "batch_sizes": list(times),
        "batch_size": batch_size,
        "embedding": _spreads([each.embedding for each in measured]),
        "segments": _spreads([each.segments for each in measured]),
        "exits": _spreads([each.exits for each in measured]),
        "decisions": _spreads([each.decisions for each in measured]),
    }


def _versions(engine: str) -> dict[str, str]:
    found = {}
    for name in ("quee-hf", "torch", *({engine} & set(EXTRAS))):
        try:
            found[name.replace("-", "_")] = version(name)
        except PackageNotFoundError:  # imported from a source tree, or a variant of another name
            found[name.replace("-", "_")] = "unknown"
    return found


def _spreads(times: Sequence[NDArray[np.float64]]) -> Any:
    """Return median and quartiles over rounds, the last axis, for each batch size, as nested lists."""
    found = [np.quantile(each, (0.5, 0.25, 0.75), axis=-1) for each in times]  # (3, ...)
    return np.moveaxis(np.stack(found), (1, 0), (-1, -2)).round(_DECIMALS).tolist()


def _keep(model: QuEEForImageClassification, found: Profile, table: list[list[float]]) -> None:
    """Keep a profile in a model's config, and forget what was measured with another."""
    config = model.config
    cost_model = config.cost_model
    config.forget_profile()
    config.cost_model = cost_model
    config.keep_record("profile", dict(found))
    config.cost_table = table
