"""Turn measured results into text: the README's results section and a model card per result."""

import json
from pathlib import Path
from typing import Any

from _timing import RESULTS

_CARD = """---
library_name: transformers
pipeline_tag: image-classification
license: apache-2.0
tags: [quee, early-exit, quantization]
---

# {title}

A QuEE model: early exits after blocks {exits}, segments at {levels} bits, gates that predict errors. Made by
`python benchmarks/assets.py {name}`, which also measured all numbers below, on {num_test_images} test images, {date}
(torch {torch}, transformers {transformers}, {threads} threads). Cost is in BitOPs over the blocks, relative to the whole network at 8 bits.

```python
import quee_hf
from transformers import pipeline

classify = pipeline("image-classification", model="runs/{name}/model")
classify("image.png", cost_lambda=0.1, return_routing=True)
```

![Accuracy against cost](../docs/pictures/{name}.png)

## Operating points

{routing}

## The whole network and the exits alone

{whole}

{exits_table}

## Gates

{gates}

RMSE is to the images' own outcomes, over all paths; AUROC ranks the images by the predicted error of leaving at once.

## Which images played which role

{roles}

Test images were used for nothing but these measurements. Calibration images set quantization ranges and nothing else.

## Limits

Integer levels are simulated exactly, not run on integer kernels. Operating points are measurements, not guarantees. The
intervals are 95 % Wilson intervals over images; another training would move the numbers, too.
"""


def _table(header: list[str], rows: list[list[str]]) -> str:
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows])


def _accuracy(entry: dict[str, Any]) -> str:
    low, high = entry["accuracy_interval"]
    return f"{entry['accuracy']:.1%} ({low:.1%} to {high:.1%})"


def _number(value: float | None, form: str = ".3f") -> str:
    return "not reached" if value is None else format(value, form)


def _routing_rows(result: dict[str, Any]) -> list[list[str]]:
    return [
        [
            str(point["cost_lambda"]),
            f"{point['cost']:.3f}",
            _accuracy(point),
            " ".join(f"{s:.0%}" for s in point["exit_shares"]),
        ]
        for point in result["routing"]
    ]


def _path_rows(entries: list[dict[str, Any]]) -> list[list[str]]:
    return [[" → ".join(map(str, e["path"])), f"{e['cost']:.3f}", _accuracy(e)] for e in entries]


def write_card(result: dict[str, Any], path: Path) -> None:
    """Write a model card from a result as `write_result` stores it."""
    stored = json.loads((RESULTS / f"{result['name']}.json").read_text())
    quality = [
        [str(gate["exit_block"]), f"{gate['rmse']:.3f} ({gate['rmse_of_constant']:.3f})", _number(gate.get("auroc")),
         _number(gate.get("auroc_of_max_probability")), _number(gate.get("ece"))]
        for gate in result["gates"]
    ]  # fmt: skip
    path.parent.mkdir(exist_ok=True)
    path.write_text(
        _CARD.format(
            **{key: result[key] for key in ("title", "name", "num_test_images")},
            exits=", ".join(str(entry["exit_block"]) for entry in result["exits"]),
            levels=", ".join(str(entry["path"][0]) for entry in result["whole_network"]),
            date=stored["date"],
            torch=stored["versions"]["torch"],
            transformers=stored["versions"]["transformers"],
            threads=stored["threads"],
            routing=_table(
                ["cost_lambda", "mean cost", "accuracy (95 %)", "share per exit"], _routing_rows(result)
            ),
            whole=_table(["whole network", "cost", "accuracy (95 %)"], _path_rows(result["whole_network"])),
            exits_table=_table(["leaving at", "cost", "accuracy (95 %)"], _path_rows(result["exits"])),
            gates=_table(
                ["gate after block", "RMSE (of a constant)", "AUROC", "of max probability", "ECE"], quality
            ),
            roles=_table(
                ["role", "images", "source"],
                [[role["role"], str(role["num_images"]), role["source"]] for role in result["roles"]],
            ),
        )
    )


def write_readme_section(readme: Path) -> None:
    """Replace the README's results section by one made from the stored results."""
    parts = []
    for path in sorted(RESULTS.glob("*-*.json"), reverse=True):
        result = json.loads(path.read_text())
        area, difference = result["area"], result["area_difference"]
        rows = [
            [
                f"HF model, float32 ({result['num_test_images']} test images)",
                "",
                _accuracy(result["float"]["hf_model"]),
            ]
        ]
        rows += [
            [f"whole network, {e['path'][0]} bits", f"{e['cost']:.3f}", _accuracy(e)]
            for e in result["whole_network"]
        ]
        rows += [
            [f"routed, λ = {p['cost_lambda']}", f"{p['cost']:.3f}", _accuracy(p)]
            for p in result["routing"]
            if p["cost_lambda"] in (0.0, 0.05, 0.1, 0.2, 0.4)
        ]
        drops = [
            f"{float(drop):.1%} → {_number(cost)} (threshold: {_number(result['cost_at_drop']['threshold'][drop])})"
            for drop, cost in result["cost_at_drop"]["routed"].items()
        ]
        low, high = difference["interval"]
        parts.append(
            f"**{result['title']}** ({result['date']}, torch {result['versions']['torch']}, transformers"
            f" {result['versions']['transformers']}; card: [`{result['name']}`](model_cards/quee-{result['name']}.md))\n\n"
            + _table(["", "cost (BitOPs)", "accuracy (95 %)"], rows)
            + "\n\nMean cost at which the routed curve loses a given accuracy against the whole network at 8 bits: "
            + "; ".join(drops)
            + ". The threshold is the baseline of the same heads at 8 bits: leave at the first exit whose largest"
            f" probability reaches it. Area under accuracy over cost in [0.2, 1]: {area['routed']:.4f} routed,"
            f" {area['threshold']:.4f} threshold, difference {difference['value']:+.4f} (bootstrap 95 %: {low:+.4f} to {high:+.4f})."
        )
    write_section(readme, "\n\n".join(parts), command="python benchmarks/assets.py")


def write_section(document: Path, section: str, *, command: str, name: str = "results") -> None:
    """Replace what stands between a document's markers `<!-- name: begin -->` and `<!-- name: end -->`."""
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    text = document.read_text()
    start, stop = text.index(begin) + len(begin), text.index(end)
    document.write_text(f"{text[:start]}\nWritten by `{command}`.\n\n{section}\n{text[stop:]}")
