"""QuEE's routing, Eq. (9) and (18), for one image at a time."""

import math
from collections.abc import Callable, Mapping, Sequence

Path = tuple[int, ...]
Vector = Sequence[float]


def route(
    costs: Mapping[Path, float],
    cost_lambda: float,
    probabilities: Callable[[Path], Vector],
    errors: Callable[[int, Vector, Vector], Mapping[Path, float]],
) -> tuple[Path, float]:
    """Walk from gate to gate; at each, step towards the path of least `error + lambda * cost`.

    Args:
        costs: Of every path that may be taken. Equal losses go to the cheaper path, then to the shorter, then to the
            one of lower level indices.
        cost_lambda: Infinity looks at cost alone.
        probabilities: Class probabilities at the end of a path.
        errors: From the gate's number and the probabilities there and one exit before, every path's error.

    Returns:
        The path at whose end the image leaves, and its error as last predicted (NaN if no gate was asked).
    """
    roots = [path for path in costs if len(path) == 1]
    num_exits = max(map(len, costs))
    num_labels = len(probabilities(roots[0]))
    here: Path = ()
    current: Vector = [1 / num_labels] * num_labels
    previous, error = current, math.nan
    while len(here) < num_exits:
        if not here and len(roots) == 1:
            target = roots[0]
        else:
            predicted = errors(len(here), current, previous)
            reachable = [path for path in costs if path[: len(here)] == here]

            def loss(path: Path, predicted: Mapping[Path, float] = predicted) -> tuple[object, ...]:
                weighted = (
                    costs[path] if math.isinf(cost_lambda) else predicted[path] + cost_lambda * costs[path]
                )
                return weighted, costs[path], len(path), path

            target = min(reachable, key=loss)
            error = predicted[target]
        if target == here:
            break
        here = target[: len(here) + 1]
        previous, current = current, probabilities(here)
    return here, error
