"""Compare QuEE's gates with every baseline on the real models and images that `QUEE_ASSETS` points to.

Run: `python benchmarks/comparison.py [dinov2-cifar10] [clip-tinyimagenet]`. Each model is built at 6, 5 and 4
bits into `runs/comparison/` and compared there with `quee compare`, three times anew; an interrupted run
goes on. Writes `docs/results/<name>.md` and its pictures.
"""

import json
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from assets import EXPERIMENTS, ROOT, RUNS, chosen_names

QUEE = Path(sys.executable).parent / "quee"
LEVELS, HEAD = "6,5,4", "mlp"
SETTINGS = ["--levels", LEVELS, "--head", HEAD]
PICTURES = ("comparison", "classes")
RESULTS = ROOT / "docs" / "results"


def run(*words: object) -> None:
    """Run `quee`."""
    subprocess.run([str(word) for word in (QUEE, *words)], check=True)


def compare(name: str) -> dict[str, Any]:
    """Build a model and compare on its test images, or do what is left of it."""
    experiment, folder = EXPERIMENTS[name](), RUNS / "comparison" / name
    sources = ["--train", experiment["train"], "--validation", experiment["validation"]]
    build = [
        "--recipe",
        experiment["recipe"],
        *SETTINGS,
        *experiment["options"],
        "--output",
        folder / "build",
    ]
    run("build", "--model", experiment["model"], *sources, *build)
    images = ["--data", experiment["test"], "--validation", experiment["validation"]]
    if experiment["options"]:
        images += ["--match-labels", "numbers"]
    run("compare", folder / "build" / "model", *images, "--output", folder)
    RESULTS.mkdir(exist_ok=True)
    for picture in PICTURES:
        shutil.copy(folder / f"{picture}.png", RESULTS / f"{name}-{picture}.png")
    return {
        "name": name,
        "title": experiment["title"],
        "table": (folder / "comparison.md").read_text(encoding="utf-8"),
        **json.loads((folder / "comparison.json").read_text(encoding="utf-8")),
    }


def describe(result: Mapping[str, Any]) -> str:
    """Write a result as a page."""
    versions = ", ".join(f"{key} {value}" for key, value in result["versions"].items())
    static = result["methods"]["static"]["curve"]
    widths = ", ".join(
        f"{level} bits {point['accuracy']:.2%} at {point['cost']:.3f}"
        for level, point in zip(result["levels"], static, strict=True)
    )
    data, classes = result["data"], result["classes"]
    setting = (
        f"{data['num_images']} test images; exits after blocks {_joined(result['exit_blocks'])}, heads"
        f" `{HEAD}`, levels {_joined(result['levels'])}; costs by `{result['cost_model']}`, relative to the"
        f" whole network at {result['levels'][0]} bits. Gates and baselines learnt from"
        f" {result['validation']['num_images']} images that the backbone had not seen,"
        f" {result['num_seeds']} times on other divisions; intervals (95 %) are over test images and fits."
        " Area: mean accuracy over budgets from 0.2 to 1."
    )
    parts = [
        f"# {result['title']}: gates compared",
        f"Written by `python benchmarks/comparison.py {result['name']}`, with {versions}.",
        setting,
        f"Full path: {result['full_path_accuracy']:.2%}. Whole network: {widths}.",
        f"![Accuracy over cost]({result['name']}-comparison.png)",
        result["table"].strip(),
        "## Gates",
        "How well gates predict the error of leaving at once, on test images, the mean over fits; RMSE is to"
        " outcomes, over all paths.",
        _gates(result["gates"]),
        "## Classes",
        f"At λ = {classes['cost_lambda']:g}, the cheapest that loses at most a point in the first fit:",
        f"![Paths by class]({result['name']}-classes.png)",
    ]
    return "\n\n".join(parts) + "\n"


def _joined(values: Sequence[object]) -> str:
    return ", ".join(map(str, values))


def _gates(gates: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    fields = ("rmse", "auroc", "auroc_of_max_probability", "aurc", "aurc_of_max_probability", "ece")
    titles = [
        "gates",
        "after block",
        "RMSE",
        "AUROC",
        "of max probability",
        "AURC",
        "of max probability",
        "ECE",
    ]
    rows = [
        [name, str(gate["exit_block"]), *("" if gate[key] is None else f"{gate[key]:.3f}" for key in fields)]
        for name, found in gates.items()
        for gate in found
        if "ece" in gate
    ]
    return "\n".join("| " + " | ".join(row) + " |" for row in (titles, ["---"] * len(titles), *rows))


def main() -> None:
    for name in chosen_names(__doc__):
        page = describe(compare(name))
        (RESULTS / f"{name}.md").write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
