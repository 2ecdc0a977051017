"""Classify a data set in batches with `datasets`: `python examples/05_datasets_map.py`.

Run `01_convert.py` first. Adds to each row the answer, what it cost, and after which block it was found.
"""

from pathlib import Path

from datasets import load_dataset
from transformers import pipeline

import quee_hf  # noqa: F401 - registers the model type and the pipeline

OUTPUT = Path("examples-output")

classify = pipeline(
    "image-classification", model=str(OUTPUT / "run" / "model"), cost_lambda=0.1, return_routing=True
)
data = load_dataset("imagefolder", data_files=str(OUTPUT / "images" / "test" / "*" / "*.png"), split="train")


def annotate(batch: dict) -> dict:
    """Classify a batch of rows."""
    results = classify(batch["image"], batch_size=32)
    return {
        "answer": [result["scores"][0]["label"] for result in results],
        "cost": [result["routing"]["cost"] for result in results],
        "exit_block": [result["routing"]["exit_block"] for result in results],
    }


annotated = data.map(annotate, batched=True, batch_size=64)
names = annotated.features["label"].names
right = [names[row["label"]] == row["answer"] for row in annotated.remove_columns("image")]
costs, exits = annotated["cost"], list(annotated["exit_block"])
print(f"{len(right)} images: accuracy {sum(right) / len(right):.1%}, mean cost {sum(costs) / len(costs):.3f}")
for block in sorted(set(exits)):
    print(f"out after block {block}: {exits.count(block) / len(exits):.0%}")
