"""Make a built model route by the time that its parts take here, for `speed.py`.

Run: `python benchmarks/by_time.py RUN_DIRECTORY OUTPUT [--engine openvino]`. Times the parts of the model
that `quee build` has left in a run directory, and measures its operating points anew, by these times, on
the images that the build kept for that.
"""

import argparse
import json
from pathlib import Path

import torch
from transformers import AutoImageProcessor

import quee_hf
from quee_hf import QuEEForImageClassification
from quee_hf.build.stages import load_outputs
from quee_hf.data.roles import OPERATING_POINTS
from quee_hf.execution.operating_points import DEFAULT_LAMBDAS

# As dense as users would search for the cheapest within a drop; those by default are for a first look.
LAMBDAS = sorted({*DEFAULT_LAMBDAS, *(step / 200 for step in range(61))})
MAX_DROP = 0.005  # accuracy that the default lambda may lose


def rows_of(run: Path, role: str) -> list[int]:
    """Return the rows of the validation images that played a role in a build."""
    sources = json.loads((run / "roles.json").read_text())
    (rows,) = (roles[role] for roles in sources.values() if role in roles)
    return rows


def make(run: Path, output: Path, engine: str, threads: int) -> QuEEForImageClassification:
    """Measure a built model's parts and its operating points by time, and save it to a directory."""
    torch.set_num_threads(threads)
    model = QuEEForImageClassification.from_pretrained(run / "model").eval()
    model.set_engine(engine)
    quee_hf.profile(model, threads=threads)
    model.set_cost_model("latency")
    outputs, _ = load_outputs(run / "stages" / "5-path-outputs")
    kept = outputs.select(torch.tensor(rows_of(run, OPERATING_POINTS)))
    for point in model.fit_operating_points(kept, lambdas=LAMBDAS, max_accuracy_drop=MAX_DROP):
        values = (point["cost_lambda"], point["latency_ms"], 100 * point["accuracy"])
        print("lambda {:5.3f}: {:.2f} ms, {:.2f} %".format(*values))
    model.save_pretrained(output)
    AutoImageProcessor.from_pretrained(run / "model", backend="pil").save_pretrained(output)
    return model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--engine", default="openvino")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    model = make(arguments.run, arguments.output, arguments.engine, arguments.threads)
    print(f"default lambda: {model.config.cost_lambda}")


if __name__ == "__main__":
    main()
