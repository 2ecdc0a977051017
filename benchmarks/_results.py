"""Turn measured results into text: sections of documents."""

import json
from pathlib import Path
from typing import Any

from _timing import RESULTS

from quee_hf.tables import markdown_table


def _accuracy(entry: dict[str, Any]) -> str:
    low, high = entry["accuracy_interval"]
    return f"{entry['accuracy']:.1%} ({low:.1%} to {high:.1%})"


def _number(value: float | None, form: str = ".3f") -> str:
    return "not reached" if value is None else format(value, form)


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
            f" {result['versions']['transformers']}; card: [`{result['name']}`](model_cards/quee-{result['name']}/README.md))\n\n"
            + markdown_table(["", "cost (BitOPs)", "accuracy (95 %)"], rows)
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
