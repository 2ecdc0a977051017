"""What gates say of paths whose outputs are known, for teaching them and for judging them."""

from typing import NamedTuple

import torch
from torch import Tensor

from quee_hf.gates import Gates, LRAGates
from quee_hf.gates.features import seen_at_depth
from quee_hf.routing.router import Router


class PathScores(NamedTuple):
    """What one gate predicts."""

    nodes: Tensor  # (scored,), int64: the paths that it scores
    error_logits: Tensor  # (images, scored): the logit of each one's being wrong


def score_paths(gates: Gates, router: Router, gate: int, summaries: Tensor) -> PathScores:
    """Return what a gate says of paths, for every image as if it had come along each of them.

    QuEE's gates score every path of at least `gate` segments, from the exits passed on the way to it;
    LRA-EE's score leaving at once, on the most exact path.

    Args:
        gates: Of a model.
        router: Of the same model.
        gate: Segments run so far.
        summaries: `(images, paths, summary)`, what gates keep of the exit of every path.
    """
    tree = router.tree
    if isinstance(gates, LRAGates):
        passed = tree.exact_nodes[:gate]
        error_logits = -gates.logits(gate, summaries[:, passed])[:, None]
        return PathScores(torch.tensor(passed[-1:], device=summaries.device), error_logits)
    nodes = torch.arange(tree.first_at_depth(gate), len(tree.paths), device=summaries.device)
    if not gate:
        return PathScores(nodes, gates.logits(0, summaries[:, :0]))
    seen = seen_at_depth(tree, gate, summaries)
    owners = torch.from_numpy(router.owners(gate)).to(summaries.device)
    return PathScores(nodes, gates.logits(gate, seen, owners))
