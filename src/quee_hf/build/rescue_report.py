"""A rescue experiment as a Markdown page, from what `rescue.json` holds."""

from collections.abc import Mapping, Sequence
from typing import Any

from quee_hf.build.rescue_claims import claims_table, state_claims
from quee_hf.diagnostics.rescue_report import control_table
from quee_hf.tables import markdown_table

_NUM_CLASSES = 10
_PAPER_ROWS = {
    "baseline": "(i)",
    "ssa-last-hard": "(ii)",
    "ssa-last-distilled": "(iii)",
    "ssa-adaptive-hard": "(iv)",
    "ssa-adaptive-distilled": "(v)",
}
_NAMES = {"ssa": "SSA", "cls": "CLS", "last": "whole network", "adaptive": "leaves early"}
_NOTES = {"throughout": ", same head at the end", "unlimited": ", whatever it costs"}


def rescue_page(result: Mapping[str, Any]) -> str:
    """Return the tables of a rescue experiment, and what they say in plain words."""
    parts = [
        "\n".join(f"- {sentence}" for sentence in (*state_claims(result), *result["statements"])),
        _setting(result),
        "## What the paper finds, and what is found here",
        "Differences in points; the paper's are for CLIP ViT-B/32 on ImageNet-1K with `torch_dynamic`.",
        claims_table(result),
        "## Ablation: head, supervision, routing",
        "Difference: to the whole network with its own head (i), in points. Rows that leave early end in the"
        " classifier's own head, but those marked `same head at the end`.",
    ]
    for name, found in result["regimes"].items():
        parts += [f"### {name}", _exits(found), _ablation_table(found["ablation"]["rows"])]
        parts += ["What each step adds, in points:", _step_table(found["ablation"]["steps"])]
    parts += [
        "## Rescue and loss beside full precision",
        "Leaving early against the whole network (i), at exactly the budget, which settings on either side of"
        " it share. In full precision: the same exits, heads and gates fitted there, the same images. Means"
        " over fits, intervals over images, points.",
        _equal_table(result["beside_control"]),
        "At the operating points that validation images chose, and at the most accurate ones whatever they"
        " cost; p: the median over fits.",
    ]
    for name, found in result["beside_control"].items():
        for title, rows in (("", found["rows"]), (", whatever it costs", found["any_cost"])):
            for row, compared in rows.items():
                saved = " and ".join(f"{100 * share:.1f} %" for share in compared["flops_saved"])
                parts += [
                    f"### {name}, row {row}{title}: saves {saved} of the FLOPs",
                    control_table(compared),
                ]
    parts += ["## SSA against CLS at every exit", "Accuracy if all images leave there, %."]
    parts += [_head_table(result["regimes"])]
    parts += ["## Which images are rescued", *_anatomy(result)]
    return "\n\n".join(parts) + "\n"


def _setting(result: Mapping[str, Any]) -> str:
    images = ", ".join(f"{count} {role}" for role, count in result["num_images"].items())
    return (
        f"{result['level']} bits; exits after blocks {_joined(result['exits'])}; FLOPs over blocks only;"
        f" budget {result['budget']:g} of the whole network's, met on validation images;"
        f" {result['num_seeds']} fits of heads and gates, each on another division of the validation images:"
        " means over fits, ranges over fits in square brackets, 95 % intervals over images in round ones."
        f" Images: {images}. Exits are judged by the noise on {result['num_noise_images']} of those for early"
        " stopping of heads."
    )


def _exits(found: Mapping[str, Any]) -> str:
    left_out = ", ".join(f"{block} ({', '.join(why)})" for block, why in found["left_out"].items())
    return f"Exits after blocks {_joined(found['exits'])}; left out as pathological: {left_out or 'none'}."


def _ablation_table(rows: Mapping[str, Mapping[str, Any]]) -> str:
    titles = ["", "head", "supervision", "routing", "FLOPs saved, %", "top-1, %", "difference"]
    lines = []
    for name, row in rows.items():
        saved, accuracy = row["flops_saved"], row["accuracy"]
        lines.append(
            [
                _PAPER_ROWS.get(name, ""),
                *_describe(name),
                _with_range(saved),
                f"{_with_range(accuracy)} ({_interval(accuracy)})",
                "" if name == "baseline" else _points(row["difference"]),
            ]
        )
    return markdown_table(titles, lines)


def _describe(name: str) -> list[str]:
    if name == "baseline":
        return ["own", "", "whole network"]
    head, routing, supervision, *ending = name.split("-")
    note = "".join(_NOTES[part] for part in ending)
    return [_NAMES[head], supervision, f"{_NAMES[routing]}{note}"]


def _step_table(steps: Mapping[str, Mapping[str, Any]]) -> str:
    rows = []
    for name, found in steps.items():
        head, _, step = name.partition(": ")
        rows.append([_NAMES[head], step, _points(found)])
    return markdown_table(["", "step", "adds"], rows)


def _equal_table(beside: Mapping[str, Mapping[str, Any]]) -> str:
    rows = [
        [
            f"{name} {row}",
            effect,
            *(_points(compared[side][effect]) for side in ("quantized", "control", "difference")),
            " to ".join(f"{100 * end:+.2f}" for end in compared["difference"][effect]["range"]),
        ]
        for name, found in beside.items()
        for row, compared in found["equal_flops"].items()
        for effect in compared["difference"]
    ]
    return markdown_table(["", "", "quantized", "full precision", "difference", "from fit to fit"], rows)


def _head_table(regimes: Mapping[str, Mapping[str, Any]]) -> str:
    rows = [
        [
            name,
            str(row["block"]),
            row["supervision"],
            *(f"{_with_range(row[head])} ({_interval(row[head])})" for head in ("cls", "ssa")),
            _points(row["ssa_less_cls"]),
        ]
        for name, found in regimes.items()
        for row in found["exit_accuracy"]
    ]
    return markdown_table(["", "after block", "supervision", "CLS", "SSA", "SSA less CLS, points"], rows)


def _anatomy(result: Mapping[str, Any]) -> list[str]:
    """Describe classes, margins and selectivity of the paper's configuration."""
    margins, groups, classes = [], [], []
    for name, regime in result["regimes"].items():
        found = regime["rescue"]["(v)"]
        margins.append([name, *(_median(found["margins"][quadrant]) for quadrant in found["margins"])])
        groups += [_group(name, group, found["selectivity"][group]) for group in found["selectivity"]]
        top = ", ".join(
            f"{row['class']} {row['rescued']}−{row['lost']}" for row in found["classes"][:_NUM_CLASSES]
        )
        classes.append(f"- {name}: {top}")
    return [
        "Row (v). Median margin of the whole network's probabilities, first fit:",
        markdown_table(["", "both right", "rescue", "loss", "both wrong"], margins),
        "Accuracy of images that leave early and of the others, first fit, %:",
        markdown_table(["", "images", "share, %", "leaving early", "whole network"], groups),
        f"The {_NUM_CLASSES} classes with most rescues, rescued−lost, summed over fits:",
        "\n".join(classes),
    ]


def _group(name: str, group: str, found: Mapping[str, Any]) -> list[str]:
    accuracies = (found[kind] for kind in ("early", "full"))
    shown = ["" if each is None else _percent(each["accuracy"]) for each in accuracies]
    return [f"{name}, {group.replace('_', ' ')}", str(found["num_images"]), _percent(found["share"]), *shown]


def _median(found: Mapping[str, Any]) -> str:
    value = found["probability"]["median"]
    return "" if value is None else f"{value:.3f}"


def _with_range(found: Mapping[str, Any]) -> str:
    low, high = found["range"]
    shown = _percent(found["value"])
    return shown if low == high else f"{shown} [{_percent(low)} to {_percent(high)}]"


def _interval(found: Mapping[str, Any]) -> str:
    low, high = found["interval"]
    return f"{_percent(low)} to {_percent(high)}"


def _points(found: Mapping[str, Any]) -> str:
    value, low, high = (f"{100 * number:+.2f}" for number in (found["value"], *found["interval"]))
    return f"{value} ({low} to {high})"


def _percent(share: float) -> str:
    return f"{100 * share:.2f}"


def _joined(values: Sequence[object]) -> str:
    return ", ".join(map(str, values))
