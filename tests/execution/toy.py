"""A network of small whole numbers: everything it computes is exact, so results can be compared bit for bit."""

import weakref

import torch
from tests.tiny import generator
from torch import Tensor

from quee_hf.execution.network import Step, advance_by_parts, run_path_by_parts
from quee_hf.exits.reading import ExitReading
from quee_hf.levels import Level
from quee_hf.paths import Path, PathRules, PathTree
from quee_hf.routing.policy import Floats, Indices
from quee_hf.routing.router import Decision, Router

WIDTH, NUM_LABELS, NUM_BUCKETS = 5, 3, 11
_PRIME = 7


class ToyNetwork:
    """Does what `quee_hf.execution.network.Network` asks for, and remembers what it was asked.

    Args:
        rules: Which paths there are.
        max_paths: Most paths; more are sampled.
        seed: Of its weights and its gates.
    """

    def __init__(self, rules: PathRules, *, max_paths: int = 60, seed: int = 0) -> None:
        random = generator(seed)
        self.level_list: list[Level] = [8, 6, 5, 4, 3, 2][: rules.num_levels]
        self.num_labels = NUM_LABELS
        tree = PathTree(tuple(rules.select(max_paths, seed)))
        # Costs and errors are multiples of 1/128 and 1/64: sums of them are exact, so that ties are ties.
        costs = torch.randint(1, 129, (len(tree.paths),), generator=random) / 128
        self.router = Router(tree, costs)
        shape = (rules.num_exits, rules.num_levels, WIDTH, WIDTH)
        self._segments = torch.randint(_PRIME, shape, generator=random).float()
        self._heads = torch.randint(_PRIME, (rules.num_exits, WIDTH, NUM_LABELS), generator=random).float()
        self._errors = torch.randint(
            65, (rules.num_exits, NUM_BUCKETS, NUM_BUCKETS, len(tree.paths)), generator=random
        )
        self.calls: list[tuple[int, Level, int]] = []
        self.most_alive = 0
        self._alive: list[weakref.ref[Tensor]] = []

    def _remember(self, hidden: Tensor) -> Tensor:
        self._alive = [ref for ref in self._alive if ref() is not None] + [weakref.ref(hidden)]
        self.most_alive = max(self.most_alive, len(self._alive))
        return hidden

    def images(self, count: int, seed: int = 0) -> Tensor:
        return torch.randint(_PRIME, (count, 1, 1, WIDTH), generator=generator(seed)).float()

    def embed(self, pixel_values: Tensor) -> Tensor:
        return self._remember(pixel_values.reshape(-1, 1, WIDTH).clone())

    def run_segment(self, segment: int, level: Level, hidden: Tensor) -> Tensor:
        self.calls.append((segment, level, len(hidden)))
        return self._remember((hidden @ self._segments[segment, self.level_list.index(level)]) % _PRIME)

    def read_exit(self, exit_index: int, hidden: Tensor) -> ExitReading:
        return ExitReading((hidden[:, 0] @ self._heads[exit_index]) % 5, hidden[:, 0, 0])

    def summarize(self, reading: ExitReading) -> Tensor:
        return reading.logits.softmax(dim=-1)

    def score(self, depth: int, seen: Tensor) -> Tensor:
        unknown = torch.full((len(seen), NUM_LABELS), 1 / NUM_LABELS)
        current = seen[:, -1] if depth else unknown
        previous = seen[:, -2] if depth > 1 else unknown
        return self.predict_errors(depth, current, previous)

    def run_path(self, pixel_values: Tensor, path: Path) -> Tensor:
        return run_path_by_parts(self, pixel_values, path)

    def advance(self, segment: int, level: Level, hidden: Tensor, seen: Tensor | None) -> Step:
        return advance_by_parts(self, segment, level, hidden, seen)

    def decide(self, depth: int, node: Indices, scores: Floats, cost_lambda: Floats) -> Decision:
        return self.router.decide(depth, node, scores, cost_lambda)

    def predict_errors(self, gate: int, current: Tensor, previous: Tensor) -> Tensor:
        errors = self._errors[gate][_bucket(current), _bucket(previous)]
        return errors[..., self.router.tree.first_at_depth(gate) :] / 64

    def run_alone(self, pixel_values: Tensor, path: Path) -> Tensor:
        """Return the logits of one path, written out: no loop of the package is used."""
        hidden = pixel_values.reshape(-1, 1, WIDTH)
        for segment, level in enumerate(path):
            hidden = (hidden @ self._segments[segment, level]) % _PRIME
        return (hidden[:, 0] @ self._heads[len(path) - 1]) % 5


def _bucket(probabilities: Tensor) -> Tensor:
    """Tell probability vectors apart, as a whole number."""
    return (1000 * probabilities).round().long() @ torch.tensor([1, 3, 7]) % NUM_BUCKETS
