"""`GraphFiles`: the graphs of an exported folder, opened when they are first run. Needs no PyTorch."""

import pathlib
import threading
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from quee_hf.deployment.description import GraphNames, hash_graph
from quee_hf.graphs.sessions import open_session
from quee_hf.routing.policy import Floats


class Reached(NamedTuple):
    """What a segment, the exit after it and the gate there make of images."""

    hidden: Floats  # (batch, tokens, hidden)
    logits: Floats  # (batch, labels)
    seen: Floats | None  # (batch, exits passed, summary): what gates keep of the exits passed
    scores: Floats | None  # (batch, ...): what the gate makes of it; `None` after the last exit


class GraphFiles:
    """Runs the graphs of a folder; several threads may.

    Args:
        folder: Holds them.
        names: Of the files.
        checksums: Of each.
        num_threads: That run an operator; 0 stands for one per core.
    """

    def __init__(
        self, folder: pathlib.Path, names: GraphNames, checksums: Mapping[str, str], num_threads: int
    ) -> None:
        self._folder, self._names, self._num_threads = folder, names, num_threads
        self._checksums = checksums
        self._sessions: dict[str, tuple[Any, list[str]]] = {}  # and the names of their inputs
        self._lock = threading.Lock()

    def embed(self, pixel_values: Floats) -> Floats:
        """Map `(batch, channels, height, width)` to tokens, `(batch, tokens, hidden)`."""
        (hidden,) = self._run(self._names.embedding, pixel_values)
        return hidden

    def run_segment(self, segment: int, level: int, hidden: Floats) -> Floats:
        """Run one segment, counted from 0, at a level given by its index."""
        (result,) = self._run(self._names.segments[segment][level], hidden)
        return result

    def read_exit(self, exit_index: int, hidden: Floats) -> tuple[Floats, Floats]:
        """Return the logits at an exit, `(batch, labels)`, and the spatial variance there, `(batch,)`."""
        logits, variance = self._run(self._names.heads[exit_index], hidden)
        return logits, variance

    def ask_gate(
        self, depth: int, logits: Floats, variance: Floats, seen: Floats | None
    ) -> tuple[Floats, Floats]:
        """Return what the gate after `depth` segments keeps of the exits passed, and what it makes of it.

        Args:
            depth: Segments run so far.
            logits: At the newest exit.
            variance: There.
            seen: What gates keep of the exits before; `None` at the first.

        Returns:
            `(batch, depth, summary)`, and error probabilities, `(batch, paths of at least this depth)`, or
            the probability of being right, `(batch,)`.
        """
        inputs = (logits, variance) if seen is None else (logits, variance, seen)
        known, scores = self._run(self._names.gates[depth - 1], *inputs)
        return known, scores

    def advance(self, segment: int, level: int, hidden: Floats, seen: Floats | None) -> Reached:
        """Run a segment, read the exit after it, and ask the gate there, if there is one."""
        hidden = self.run_segment(segment, level, hidden)
        logits, variance = self.read_exit(segment, hidden)
        if segment == len(self._names.gates):
            return Reached(hidden, logits, seen, None)
        return Reached(hidden, logits, *self.ask_gate(segment + 1, logits, variance, seen))

    def _run(self, name: str, *inputs: Floats) -> Sequence[Floats]:
        session, names = self._sessions.get(name) or self._open(name)
        found: Sequence[Floats] = session.run(None, dict(zip(names, inputs, strict=True)))
        return found

    def _open(self, name: str) -> tuple[Any, list[str]]:
        with self._lock:  # a graph that two threads need at once is opened once
            if name not in self._sessions:
                file = self._folder / name
                if hash_graph(file) != self._checksums[name]:
                    raise ValueError(f"{file} is damaged: it has another checksum than router.json says.")
                session = open_session(str(file), self._num_threads)
                self._sessions[name] = session, [each.name for each in session.get_inputs()]
            return self._sessions[name]
