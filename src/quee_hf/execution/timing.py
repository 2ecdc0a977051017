"""How long the parts of a network take: embedding, segments at every level, exits and decisions, in turn."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from random import Random
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm.auto import tqdm

from quee_hf.execution.network import Network

Clock = Callable[[], float]  # seconds
_MOST_ROUNDS, _LEAST_ROUNDS = 50, 3
_LEAST_MS = 1e-6  # of an exit, which is the difference of two times
_COST_LAMBDA = 0.1  # of decisions, whose time does not depend on it


@dataclass(frozen=True)
class PartTimes:
    """Milliseconds per image of each part of a network at one batch size; rounds come last."""

    embedding: NDArray[np.float64]  # (rounds,)
    segments: NDArray[np.float64]  # (segments, levels, rounds)
    exits: NDArray[np.float64]  # (exits, rounds): head and gate, what a step takes beside its segment
    decisions: NDArray[np.float64]  # (exits - 1, rounds)

    @property
    def num_rounds(self) -> int:
        """How often each part was run."""
        return len(self.embedding)

    @property
    def after_segments(self) -> NDArray[np.float64]:
        """What comes after each segment, exit and decision: `(segments, rounds)`."""
        after = self.exits.copy()
        after[:-1] += self.decisions
        return after


@torch.inference_mode()
def time_parts(
    network: Network, pixel_values: Tensor, *, max_seconds: float, clock: Clock = time.perf_counter
) -> PartTimes:
    """Run every part on a batch, once in a round, for many rounds, with a progress bar.

    The first round is not counted: engines compile in it. Each has an order of its own, so that no part
    always runs after the same one. At most 50 rounds are counted, and at least 3, however long they take.

    Args:
        network: With trained gates or not.
        pixel_values: The batch, `(batch, channels, height, width)`.
        max_seconds: When to begin no further round.
        clock: In seconds.
    """
    start, waits, random = clock(), _waiting_for(pixel_values.device), Random(0)
    parts = list(_parts(network, pixel_values))
    times: list[list[float]] = [[] for _ in parts]
    with tqdm(total=_MOST_ROUNDS, desc=f"Batch size {len(pixel_values)}", unit="round", leave=False) as bar:
        for number in range(_MOST_ROUNDS + 1):
            if number > _LEAST_ROUNDS and clock() - start > max_seconds:
                break
            for position in random.sample(range(len(parts)), len(parts)):
                seconds = _time(parts[position][1], waits, clock)
                if number:
                    times[position].append(seconds)
            bar.update(number > 0)
    return _gather([kind for kind, _ in parts], np.array(times) * 1e3 / len(pixel_values))


def _parts(network: Network, pixel_values: Tensor) -> Iterator[tuple[str, Callable[[], Any]]]:
    """Yield what is timed, with the field of its times; the most exact path makes what each part needs."""
    yield "embedding", partial(network.embed, pixel_values)
    hidden, seen = network.embed(pixel_values), None
    lambdas = np.full(len(pixel_values), _COST_LAMBDA, np.float32)
    for segment, node in enumerate(network.router.tree.exact_nodes):
        for level in network.level_list:
            yield "segments", partial(network.run_segment, segment, level, hidden)
        step = partial(network.advance, segment, network.level_list[0], hidden, seen)
        yield "steps", step
        reached = step().reached
        hidden = network.run_segment(segment, network.level_list[0], hidden)
        seen = reached.seen
        if (scores := reached.scores) is not None:
            nodes = np.full(len(pixel_values), node)
            decide = partial(_decide, network, segment + 1, nodes, scores, lambdas)
            yield "decisions", decide


def _decide(network: Network, depth: int, nodes: Any, scores: Tensor, lambdas: Any) -> object:
    return network.decide(depth, nodes, scores.numpy(force=True), lambdas)


def _time(part: Callable[[], Any], waits: Callable[[], None], clock: Clock) -> float:
    start = clock()
    part()
    waits()
    return clock() - start


def _waiting_for(device: torch.device) -> Callable[[], None]:
    """Return what waits until a device has done what it was given."""
    return (lambda: None) if device.type == "cpu" else partial(torch.accelerator.synchronize, device)


def _gather(kinds: Sequence[str], times: NDArray[np.float64]) -> PartTimes:
    """Sort times, `(parts, rounds)`, into one array for each kind of part."""
    rows = {
        kind: times[[position for position, name in enumerate(kinds) if name == kind]]
        for kind in ("embedding", "segments", "steps", "decisions")
    }
    segments = rows["segments"].reshape(len(rows["steps"]), -1, times.shape[1])
    exits = (rows["steps"] - segments[:, 0]).clip(min=_LEAST_MS)
    return PartTimes(rows["embedding"][0], segments, exits, rows["decisions"])
