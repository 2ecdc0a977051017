"""What LRA-EE's paper claims beside what an experiment finds, from what `rescue.json` holds."""

from collections.abc import Mapping, Sequence
from typing import Any

_NOT_SAID = "not said"
_MAIN = "(v)"
# Steps of the ablation, and what they add in the paper: table 3 of arXiv:2605.26415.
_STEPS = {
    "SSA head, (ii) less (i)": ("ssa: head", "+0.46"),
    "distillation, (iii) less (ii)": ("ssa: distillation", "+0.47"),
    "routing, (iv) less (ii)": ("ssa: routing, hard", "+1.24"),
    "routing, (v) less (iii)": ("ssa: routing, distilled", "+1.51"),
    "routing, (v) less (iii), SSA head at the end": (
        "ssa: routing, distilled, same head at the end",
        _NOT_SAID,
    ),
}

Row = Mapping[str, Any]


def claims_table(result: Row) -> str:
    """Return a Markdown table: what the paper claims, and what each network of an experiment shows.

    Args:
        result: As `rescue.json` holds it.

    Source:
        LRA-EE (arXiv:2605.26415), tables 1, 3 and 4, §3.1 and §6.2.
    """
    regimes, compared = result["regimes"], result["beside_control"]
    lines = [
        ["", "paper", *regimes],
        ["---"] * (2 + len(regimes)),
        ["noise over signal, first to last exit, %", "grows", *map(_noise, regimes.values())],
        [
            "SSA better than CLS, exits before the last (worse)",
            "all",
            *(_count_better(found["exit_accuracy"], result["exits"]) for found in regimes.values()),
        ],
        *(
            [title, there, *(_points(found["ablation"]["steps"][step]) for found in regimes.values())]
            for title, (step, there) in _STEPS.items()
        ),
        ["leaving early, (v) less (i)", "+2.44", *(_points(_early(found)) for found in regimes.values())],
        ["FLOPs saved by (v), %", "13.38", *(_saved(found) for found in regimes.values())],
        *(
            [f"{effect}, %", there, *(_share(found["rescue"][_MAIN][effect]) for found in regimes.values())]
            for effect, there in (("rescue", "9.5"), ("loss", "7.1"))
        ),
        *(
            [
                f"{effect} less that in full precision",
                _NOT_SAID,
                *(_beside(compared.get(name), effect) for name in regimes),
            ]
            for effect in ("rescue", "loss", "net")
        ),
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _noise(found: Row) -> str:
    exits = (found["exits"][0], found["exits"][-1])
    ratios = [row["noise_ratio"] for row in found["noise"] if row["block"] in exits]
    return " to ".join("?" if ratio is None else f"{100 * ratio:.2f}" for ratio in ratios)


def _count_better(rows: Sequence[Row], exits: Sequence[int]) -> str:
    """Count the heads, exit by exit and for each supervision, whose intervals exclude 0."""
    early = [row["ssa_less_cls"]["interval"] for row in rows if row["block"] != exits[-1]]
    better, worse = sum(low > 0 for low, _ in early), sum(high < 0 for _, high in early)
    return f"{better} of {len(early)} ({worse})"


def _early(found: Row) -> Row:
    difference: Row = found["ablation"]["rows"]["ssa-adaptive-distilled"]["difference"]
    return difference


def _saved(found: Row) -> str:
    return f"{100 * found['ablation']['rows']['ssa-adaptive-distilled']['flops_saved']['value']:.2f}"


def _beside(compared: Row | None, effect: str) -> str:
    return "" if compared is None else _points(compared["rows"][_MAIN]["difference"][effect])


def _share(found: Row) -> str:
    low, high = found["interval"]
    return f"{100 * found['share']:.2f} ({100 * low:.2f} to {100 * high:.2f})"


def _points(found: Row) -> str:
    low, high = found["interval"]
    return f"{100 * found['value']:+.2f} ({100 * low:+.2f} to {100 * high:+.2f})"
