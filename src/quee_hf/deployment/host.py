"""`HostRouter`: route images through exported graphs, with ONNX Runtime and NumPy alone."""

import os
import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from quee_hf.deployment.description import Description, GateDescription, read_description
from quee_hf.deployment.graph_files import GraphFiles, Reached
from quee_hf.execution.answers import path_of_levels
from quee_hf.execution.operating_points import lambda_for_cost, lambda_for_latency
from quee_hf.gates.lra import threshold_at
from quee_hf.levels import Level
from quee_hf.paths import PathTree
from quee_hf.routing.costs import path_cost
from quee_hf.routing.decisions import ROOT, Decision, PathPolicy, decide_by_threshold, enter
from quee_hf.routing.policy import Floats, Indices, cost_lambda_per_sample


class RoutedImages(NamedTuple):
    """What is known of images at the exits where they left."""

    logits: Floats  # (batch, labels)
    exit_index: Indices  # (batch,), counted from 0
    path: NDArray[np.int16]  # (batch, exits), index of the level of each segment, -1 for those not run
    cost: Floats  # (batch,), relative to the dearest path
    error_probability: Floats  # (batch,), predicted; NaN where no gate was asked


class HostRouter:
    """Classify images with an exported model, each at the cost that it needs.

    Several threads may call it at once.

    Args:
        folder: That `quee export --onnx` has written.
        num_threads: That run an operator; 0 stands for one per core.

    Raises:
        ValueError: If the folder is not an exported model, incomplete or damaged; of a graph, when it is
            first needed.
    """

    def __init__(self, folder: str | os.PathLike[str], *, num_threads: int = 0) -> None:
        self.description = described = read_description(pathlib.Path(folder))
        checksums = described.checksums
        self.graphs = GraphFiles(pathlib.Path(folder), described.graphs, checksums, num_threads)
        costs = np.array(described.path_costs, np.float32)
        tree = PathTree(tuple(tuple(path) for path in described.paths))
        self._costs = costs
        self._policy = PathPolicy(tree, costs, np.array(described.path_choices))
        self._gate = None if described.gate is None else _Gate(described.gate)

    def __call__(
        self,
        pixel_values: ArrayLike,
        *,
        cost_lambda: ArrayLike | None = None,
        target_cost: float | None = None,
        target_latency_ms: float | None = None,
        path: Sequence[Level] | None = None,
    ) -> RoutedImages:
        """Classify images.

        Without any of the four options the model's default lambda holds; if it has none, every image runs
        the whole network at its most exact level.

        Args:
            pixel_values: `(batch, channels, height, width)`, float32.
            cost_lambda: What a full path's cost is worth in error probability, at least 0: one number, or
                one for each image.
            target_cost: Highest mean cost: takes the lambda of the most accurate operating point within it.
            target_latency_ms: The same by measured time.
            path: Levels, one per segment, that all images are to run; they leave at the exit after the last.

        Raises:
            ValueError: If images have another shape, or hold NaN or infinity, or an option has no
                meaning for this model.
        """
        described = self.description
        options = {
            "cost_lambda": cost_lambda,
            "target_cost": target_cost,
            "target_latency_ms": target_latency_ms,
            "path": path,
        }
        given = [f"`{name}`" for name, value in options.items() if value is not None]
        if len(given) > 1:
            raise ValueError(f"Give at most one of {', '.join(given)}: each alone says how to route.")
        pixels = _checked_pixels(pixel_values, described)
        if target_cost is not None:
            cost_lambda = lambda_for_cost(described.operating_points, target_cost)
        elif target_latency_ms is not None:
            cost_lambda = lambda_for_latency(described.operating_points, target_latency_ms)
        elif not given:
            cost_lambda = described.cost_lambda
        if cost_lambda is None:
            return self._run_path(pixels, path)
        if self._gate is None:
            raise ValueError("The model's gates were not trained when it was exported: give a `path`.")
        return self._route(self._gate, pixels, cost_lambda_per_sample(cost_lambda, len(pixels)))

    def _run_path(self, pixels: Floats, levels: Sequence[Level] | None) -> RoutedImages:
        described = self.description
        num_exits, batch = len(described.exit_blocks), len(pixels)
        path = path_of_levels(levels, described.levels, num_exits)
        hidden = self.graphs.embed(pixels)
        for segment, level in enumerate(path):
            hidden = self.graphs.run_segment(segment, level, hidden)
        logits, _ = self.graphs.read_exit(len(path) - 1, hidden)
        row = np.array([*path, *[-1] * (num_exits - len(path))], np.int16)
        cost = path_cost(path, described.segment_costs)
        return RoutedImages(
            logits,
            np.full(batch, len(path) - 1),
            np.tile(row, (batch, 1)),
            np.full(batch, cost, np.float32),
            np.full(batch, np.nan, np.float32),
        )

    def _route(self, gate: "_Gate", pixels: Floats, cost_lambda: Floats) -> RoutedImages:
        """Ask the gate, let go who leaves, take the others one segment further; until all have left."""
        batch, policy = len(pixels), self._policy
        images, before = np.arange(batch), Decision(np.full(batch, ROOT), np.full(batch, np.nan, np.float32))
        nodes, errors = before.next_node.copy(), before.error.copy()
        logits = np.zeros((batch, len(self.description.labels)), np.float32)
        reached: Reached | None = None
        depth = 0
        while len(images):
            decision = gate.decide(policy, depth, before, reached, cost_lambda[images])
            stays = decision.next_node != before.next_node
            if reached is not None:
                gone = images[~stays]
                nodes[gone], errors[gone] = before.next_node[~stays], decision.error[~stays]
                logits[gone] = reached.logits[~stays]
            images, before = images[stays], Decision(decision.next_node[stays], decision.error[stays])
            if len(images):
                hidden = self.graphs.embed(pixels) if reached is None else _kept(reached.hidden, stays)
                seen = None if reached is None or reached.seen is None else _kept(reached.seen, stays)
                reached = self._advance(depth, policy.last_levels[before.next_node], hidden, seen)
            depth += 1
        rows = policy.path_rows[nodes]
        return RoutedImages(logits, (rows >= 0).sum(axis=1) - 1, rows, self._costs[nodes], errors)

    def _advance(self, segment: int, levels: Indices, hidden: Floats, seen: Floats | None) -> Reached:
        """Run each image's next segment, all of one level together."""
        if (levels == levels[0]).all():
            return self.graphs.advance(segment, int(levels[0]), hidden, seen)
        groups = [(levels == level).nonzero()[0] for level in np.unique(levels)]
        parts = [
            self.graphs.advance(
                segment, int(levels[rows[0]]), hidden[rows], None if seen is None else seen[rows]
            )
            for rows in groups
        ]
        order = np.concatenate(groups).argsort()
        return Reached(*(_joined(column, order) for column in zip(*parts, strict=True)))


class _Gate:
    """What is decided, given scores."""

    def __init__(self, described: GateDescription) -> None:
        self._first_errors, self._lambdas, self._thresholds = (
            None if values is None else np.array(values, np.float32)
            for values in (described.first_errors, described.lambdas, described.thresholds)
        )

    def decide(
        self, policy: PathPolicy, depth: int, before: Decision, reached: Reached | None, cost_lambda: Floats
    ) -> Decision:
        """Decide what images at a depth do; where there is nothing to decide, what was decided before holds.

        Args:
            policy: The paths.
            depth: Segments run so far.
            before: Each image's node, and the error expected last.
            reached: What the exit at this depth says of each; `None` before the first segment.
            cost_lambda: `(batch,)`.
        """
        node, error = before
        if reached is None:
            return self._decide_first(policy, node, error, cost_lambda)
        if reached.scores is None:
            return before
        if self._lambdas is None or self._thresholds is None:
            return policy.decide(depth, node, reached.scores, cost_lambda)
        threshold = threshold_at(self._lambdas, self._thresholds[:, depth - 1], cost_lambda)
        return decide_by_threshold(policy, node, reached.scores, threshold)

    def _decide_first(
        self, policy: PathPolicy, node: Indices, error: Floats, cost_lambda: Floats
    ) -> Decision:
        if (child := policy.only_child(ROOT)) is not None:
            return Decision(np.full_like(node, child), error)
        if self._first_errors is None:
            return enter(policy, node)
        return policy.decide(0, node, np.tile(self._first_errors, (len(node), 1)), cost_lambda)


def describe_images(described: Description, routed: RoutedImages, top_k: int = 5) -> list[dict[str, Any]]:
    """Say of each image what was found, in plain Python, fit for JSON.

    Args:
        described: The model.
        routed: The images.
        top_k: Classes to list of each, at least 1.

    Returns:
        For each image `"scores"`, a list of `{"label", "score"}`, the most likely class first, and
        `"routing"`, with "exit_block", "exit_index", "path", "cost" and "error_probability".

    Raises:
        ValueError: If `top_k` is below 1.
    """
    if top_k < 1:
        raise ValueError(f"`top_k` must be at least 1, got {top_k}.")
    weights = np.exp(routed.logits - routed.logits.max(axis=1, keepdims=True))
    scores = weights / weights.sum(axis=1, keepdims=True)
    order = (-scores).argsort(axis=1, kind="stable")[:, :top_k]
    return [
        {
            "scores": [
                {"label": described.labels[label], "score": float(scores[row, label])} for label in order[row]
            ],
            "routing": _routing(described, routed, row),
        }
        for row in range(len(scores))
    ]


def _routing(described: Description, routed: RoutedImages, row: int) -> dict[str, Any]:
    exit_index, error = int(routed.exit_index[row]), float(routed.error_probability[row])
    return {
        "exit_block": described.exit_blocks[exit_index],
        "exit_index": exit_index,
        "path": [described.levels[level] for level in routed.path[row, : exit_index + 1]],
        "cost": float(routed.cost[row]),
        "error_probability": None if np.isnan(error) else error,
    }


def _checked_pixels(pixel_values: ArrayLike, described: Description) -> Floats:
    pixels = np.ascontiguousarray(pixel_values, dtype=np.float32)
    if pixels.ndim != 4 or list(pixels.shape[1:]) != described.input_shape:
        expected = ", ".join(map(str, described.input_shape))
        raise ValueError(f"`pixel_values` must have the shape (batch, {expected}), got {pixels.shape}.")
    if wrong := [row for row, image in enumerate(pixels) if not np.isfinite(image).all()]:
        raise ValueError(f"`pixel_values` of the images {wrong}, counted from 0, hold NaN or infinity.")
    return pixels


def _kept(values: Floats, stays: NDArray[np.bool_]) -> Floats:
    return values if stays.all() else values[stays]


def _joined(parts: Sequence[Floats | None], order: Indices) -> Any:
    there = [part for part in parts if part is not None]
    return np.concatenate(there)[order] if there else None
