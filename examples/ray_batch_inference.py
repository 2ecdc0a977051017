"""Classify a data set with several workers of Ray: `python examples/ray_batch_inference.py [--workers 2]`.

Run `01_convert.py` first; needs `pip install quee-hf[ray]`. Each worker has a model of its own, on the engine
that `--engine` names, and takes the next batch when it is done with one. Rows may come back in another order,
so each carries what it is called by: here, its file.
"""

import argparse
from pathlib import Path

import ray

from quee_hf.deployment.batch_classifier import BatchClassifier

OUTPUT = Path("examples-output")
MODEL = str((OUTPUT / "run" / "model").resolve())  # workers start in another folder
IMAGES = (OUTPUT / "images" / "test").resolve()

parser = argparse.ArgumentParser()
parser.add_argument("--workers", type=int, default=2)
parser.add_argument("--engine", default="torch")
arguments = parser.parse_args()
options = {"image_column": "bytes", "engine": arguments.engine, "cost_lambda": 0.1}

ray.init(num_cpus=arguments.workers + 1, include_dashboard=False, log_to_driver=False)
ray.data.DataContext.get_current().enable_progress_bars = False
files = ray.data.read_binary_files(str(IMAGES), include_paths=True)
answers = files.map_batches(
    BatchClassifier,
    fn_constructor_kwargs={"model": MODEL, **options},
    batch_size=64,
    num_cpus=1,  # and as many threads
    compute=ray.data.ActorPoolStrategy(size=arguments.workers),
)
rows = {row["path"]: row for row in answers.iter_rows()}  # `write_parquet` would leave them on disk
ray.shutdown()

# The same in this process, to show that nothing is lost on the way and nothing answered otherwise.
names = sorted(str(path) for path in IMAGES.rglob("*.png"))
alone = BatchClassifier(MODEL, **options)(
    {"path": names, "bytes": [Path(name).read_bytes() for name in names]}
)
same = [
    rows[name]["answer"] == answer and rows[name]["exit_block"] == block
    for name, answer, block in zip(names, alone["answer"], alone["exit_block"], strict=True)
]
right = [Path(name).parent.name == row["answer"] for name, row in rows.items()]
print(f"{len(names)} images, {len(rows)} answers: {sum(same)} as in one process")
mean_cost = sum(row["cost"] for row in rows.values()) / len(rows)
print(f"accuracy {sum(right) / len(right):.1%}, mean cost {mean_cost:.3f}")
