"""Measure LRA-EE's rescue, quantized and in full precision, on the CLIP-style model in `QUEE_ASSETS`.

Run: `python benchmarks/rescue.py`. `quee rescue` runs with `torch_dynamic` (the paper's quantization), the
same with SmoothQuant, and `repq`, all at 8 bits, into `runs/rescue/`, where an interrupted run goes on; it
took about 40 minutes with one thread on a busy machine of 2 cores. Writes
`docs/results/rescue-clip-tinyimagenet.md` and its pictures.
"""

import json
import shutil
import subprocess
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from assets import EXPERIMENTS, ROOT, RUNS, chosen_names

QUEE = Path(sys.executable).parent / "quee"
NAME = "clip-tinyimagenet"
SETTINGS = {
    "--ptq": "torch_dynamic,torch_dynamic+0.5,repq",
    "--level": 8,
    "--exits": "6,8,9,10,11",
    "--budget": 0.87,
    "--seeds": 3,
    "--head-epochs": 10,
}
PICTURES = ("rescue", "heads")
RESULTS = ROOT / "docs" / "results"


def measure(output: Path) -> dict[str, Any]:
    """Run the experiment, or do what is left of it."""
    experiment = EXPERIMENTS[NAME]()
    words: list[object] = [QUEE, "rescue", experiment["model"], *experiment["options"]]
    for name, option in (("train", "--train"), ("validation", "--validation"), ("test", "--data")):
        words += [option, experiment[name]]
    words += [word for setting in SETTINGS.items() for word in setting]
    subprocess.run([str(word) for word in (*words, "--output", output)], check=True)
    result: dict[str, Any] = json.loads((output / "rescue.json").read_text(encoding="utf-8"))
    return {**result, "title": experiment["title"]}


def describe(result: Mapping[str, Any], page: str) -> str:
    """Write a result as a page."""
    versions = ", ".join(f"{key} {value}" for key, value in result["versions"].items())
    options = " ".join(f"{name} {value}" for name, value in SETTINGS.items())
    statements, rest = page.split("\n\n", 1)
    parts = [
        f"# {result['title']}: what leaving early rescues",
        f"Written by `python benchmarks/rescue.py` on {datetime.now(UTC):%Y-%m-%d}, with {versions},"
        f" {_threads()}. Options: `{options}`. Training images are some that the"
        " classifier has seen; of the validation images, which it has not, even rows fit gates and choose"
        " operating points, odd rows test.",
        "## In words",
        statements,
        f"![Accuracy over FLOPs saved](rescue-{NAME}-rescue.png)",
        "Lines: all thresholds, means over fits; markers: what validation images choose within the budget.",
        "## Setting",
        rest.strip(),
        f"![Accuracy by exit](rescue-{NAME}-heads.png)",
    ]
    return "\n\n".join(parts) + "\n"


def _threads() -> str:
    count = torch.get_num_threads()
    return f"{count} thread{'s' * (count > 1)}"


def main() -> None:
    if chosen_names(__doc__) not in ([NAME], list(EXPERIMENTS)):
        sys.exit(f"Only {NAME} is measured here.")
    output = RUNS / "rescue"
    result = measure(output)
    RESULTS.mkdir(exist_ok=True)
    page = describe(result, (output / "rescue.md").read_text(encoding="utf-8"))
    (RESULTS / f"rescue-{NAME}.md").write_text(page, encoding="utf-8")
    for picture in PICTURES:
        shutil.copy(output / f"{picture}.png", RESULTS / f"rescue-{NAME}-{picture}.png")


if __name__ == "__main__":
    main()
