"""Results of `faults.py` as a page."""

from pathlib import Path
from typing import Any

from quee_hf.tables import markdown_table


def write_page(result: dict[str, Any], page: Path) -> None:
    """Write what was tried, how often, and what happened."""
    sections = result["sections"]
    tried = sum(sum(outcomes.values()) for each in sections.values() for outcomes in each.values())
    harm = sum(
        count
        for each in sections.values()
        for outcomes in each.values()
        for outcome, count in outcomes.items()
        if outcome.startswith("harm")
    )
    versions = ", ".join(f"{name} {number}" for name, number in sorted(result["versions"].items()))
    text = [
        "# Faults",
        f"Written by `python benchmarks/faults.py` on {result['date']}, with {versions}.",
        f"{tried} faults in all; {harm or 'none'} did harm: a crash, a hang, an error that is not clear, a"
        " wrong answer that looks like a right one, or code run from a file. What is promised is on [Faults"
        " and determinism](../faults.md).",
    ]
    text.append(
        "Builds are killed at moments that are spread evenly over the time of one that is not, in processes"
        " that have imported their libraries already. Disks that are too small are mounted in memory, where"
        " that is allowed; else the size of files is limited, and the line says so."
    )
    for name, title in result["titles"].items():
        if name in sections:
            rows = [
                [kind, str(sum(outcomes.values())), _said(outcomes)]
                for kind, outcomes in sections[name].items()
            ]
            text += [f"## {title}", markdown_table(["what was tried", "times", "what happened"], rows)]
    page.write_text("\n\n".join(text) + "\n", encoding="utf-8")


def _said(outcomes: dict[str, int]) -> str:
    if len(outcomes) == 1:
        return next(iter(outcomes))
    return "; ".join(
        f"{count}: {outcome}" for outcome, count in sorted(outcomes.items(), key=lambda i: -i[1])
    )
