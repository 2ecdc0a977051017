"""What LRA-EE's paper claims beside what an experiment finds, from what `rescue.json` holds."""

from collections.abc import Mapping, Sequence
from typing import Any

from quee_hf.build.rescue_analysis import MAIN_ROW
from quee_hf.build.rescue_plan import FLOAT
from quee_hf.tables import markdown_table

_NOT_SAID = "not said"
_EARLY, _UNLIMITED = "ssa-adaptive-distilled", "ssa-adaptive-distilled-unlimited"
_SAME_END = ", same head at the end"
# Steps of the ablation, and what they add in the paper: table 3 of arXiv:2605.26415.
_STEPS = {
    "SSA head, (ii) less (i)": ("ssa: head", "+0.46"),
    "distillation, (iii) less (ii)": ("ssa: distillation", "+0.47"),
    "routing, (iv) less (ii)": ("ssa: routing, hard", "+1.24"),
    "routing, (v) less (iii)": ("ssa: routing, distilled", "+1.51"),
    "routing, (v) less (iii), SSA head at the end": (
        f"ssa: routing, distilled{_SAME_END}",
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
    regimes = result["regimes"]
    titles = ["", "paper", *regimes]
    rows = [*_heads_and_steps(result), *_leaving_early(regimes), *_beside_control(result)]
    return markdown_table(titles, rows)


def state_claims(result: Row) -> list[str]:
    """Say in a sentence for each quantized network how much of the paper's effect there is.

    Args:
        result: As `rescue.json` holds it.
    """
    exact = result["regimes"][FLOAT]
    return [
        f"{name}, {result['level']} bits: SSA heads beat CLS heads before the last block in"
        f" {_count_better(found['exit_accuracy'], result['exits']).split(' (')[0]} comparisons. Leaving early"
        f" {_verb(_early(found))} accuracy against the whole network, {_points(_early(found))} points (the"
        f" paper: +2.44). Against a distilled SSA head after the last block it {_verb(_routing(found))}"
        f" accuracy, {_points(_routing(found))} (the paper: +1.51), in full precision"
        f" {_points(_routing(exact))}; if what does not leave ends in that head, too, the numbers are"
        f" {_points(_routing(found, _SAME_END))} and {_points(_routing(exact, _SAME_END))}."
        for name, found in result["regimes"].items()
        if name != FLOAT
    ]


def _early(found: Row) -> Row:
    difference: Row = found["ablation"]["rows"][_EARLY]["difference"]
    return difference


def _routing(found: Row, ending: str = "") -> Row:
    step: Row = found["ablation"]["steps"][f"ssa: routing, distilled{ending}"]
    return step


def _verb(found: Row) -> str:
    low, high = found["interval"]
    if low > 0:
        return "gains"
    return "loses" if high < 0 else "neither measurably gains nor loses"


def _heads_and_steps(result: Row) -> list[list[str]]:
    found = list(result["regimes"].values())
    better = [_count_better(each["exit_accuracy"], result["exits"]) for each in found]
    return [
        ["noise over signal, first to last exit, %", "grows", *map(_noise, found)],
        ["SSA better than CLS, exits before the last (worse)", "all", *better],
        *(
            [title, there, *(_points(each["ablation"]["steps"][step]) for each in found)]
            for title, (step, there) in _STEPS.items()
        ),
    ]


def _leaving_early(regimes: Row) -> list[list[str]]:
    rows = (
        (_EARLY, "leaving early, (v) less (i)", "+2.44", "FLOPs saved by (v), %", "13.38"),
        (
            _UNLIMITED,
            "(v) where it is most accurate, less (i)",
            _NOT_SAID,
            "FLOPs saved there, %",
            _NOT_SAID,
        ),
    )
    lines = []
    for row, title, there, saving, saved in rows:
        found = [each["ablation"]["rows"][row] for each in regimes.values()]
        lines.append([title, there, *(_points(each["difference"]) for each in found)])
        lines.append([saving, saved, *(f"{100 * each['flops_saved']['value']:.2f}" for each in found)])
    for effect, there in (("rescue", "9.5"), ("loss", "7.1")):
        shares = (_share(each["rescue"][MAIN_ROW][effect]) for each in regimes.values())
        lines.append([f"{effect}, %", there, *shares])
    return lines


def _beside_control(result: Row) -> list[list[str]]:
    beside = [result["beside_control"].get(name) for name in result["regimes"]]
    return [
        [
            f"{effect} less that in full precision, at the budget",
            _NOT_SAID,
            *("" if each is None else _difference(each, effect) for each in beside),
        ]
        for effect in ("rescue", "loss", "net")
    ]


def _difference(compared: Row, effect: str) -> str:
    return _points(compared["equal_flops"][MAIN_ROW]["difference"][effect])


def _noise(found: Row) -> str:
    exits = (found["exits"][0], found["exits"][-1])
    ratios = [row["noise_ratio"] for row in found["noise"] if row["block"] in exits]
    return " to ".join("?" if ratio is None else f"{100 * ratio:.2f}" for ratio in ratios)


def _count_better(rows: Sequence[Row], exits: Sequence[int]) -> str:
    """Count the heads, exit by exit and for each supervision, whose intervals exclude 0."""
    early = [row["ssa_less_cls"]["interval"] for row in rows if row["block"] != exits[-1]]
    better, worse = sum(low > 0 for low, _ in early), sum(high < 0 for _, high in early)
    return f"{better} of {len(early)} ({worse})"


def _share(found: Row) -> str:
    low, high = found["interval"]
    return f"{100 * found['share']:.2f} ({100 * low:.2f} to {100 * high:.2f})"


def _points(found: Row) -> str:
    low, high = found["interval"]
    return f"{100 * found['value']:+.2f} ({100 * low:+.2f} to {100 * high:+.2f})"
