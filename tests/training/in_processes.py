"""What `test_processes.py` runs alone and in two processes: a script, `in_processes.py FOLDER`.

Each process saves what it has to `process-N.pt` in the folder, with the files in it that it has opened for writing.
"""

import os
import sys
from pathlib import Path
from typing import Any

import torch
from tests.tiny import randomize, routable
from tests.training.problem import arguments, noisy_copies

from quee_hf import ErrorTargets, ExitHeadTrainer, GateTrainer, QuEEForImageClassification
from quee_hf.execution.path_outputs import collect_path_outputs
from quee_hf.processes import num_processes
from quee_hf.training.exit_heads import collect_exit_features

GLOBAL_BATCH = 16
# Training images divide by the global batch, those of evaluation and collection by nothing.
TRAIN, EVALUATION = noisy_copies(64), noisy_copies(37, seed=1)
COUNTS = (1, 3, 8, 9, 21)  # images to collect, 4 a batch: 1 to 6 batches, the last of them full or not


def untrained(**fields: Any) -> QuEEForImageClassification:
    model = routable(levels=["fp32", 8], **fields).eval()
    randomize(model.heads[:-1], seed=1, gain=0.1)
    randomize(model.gates, seed=5, gain=0.5)
    model.config.trained_parts = []
    return model


def settings(folder: Path, **overrides: Any) -> Any:
    share = GLOBAL_BATCH // num_processes()
    sizes = {"per_device_train_batch_size": share, "per_device_eval_batch_size": share}
    return arguments(folder, num_train_epochs=3, **{**sizes, **overrides})


def trained(trainer: Any, model: QuEEForImageClassification, part: str) -> dict[str, Any]:
    before = trainer.evaluate()["eval_loss"]
    trainer.train()
    losses = [
        entry[name] for entry in trainer.state.log_history for name in ("loss", "eval_loss") if name in entry
    ]
    weights = {name: value.clone() for name, value in model.state_dict().items() if name.startswith(part)}
    return {"losses": torch.tensor([before, *losses]), "weights": weights}


def train_heads(folder: Path, head_type: str = "linear", **options: Any) -> dict[str, Any]:
    model = untrained(head_type=head_type)
    overrides = options.pop("overrides", {})
    trainer = ExitHeadTrainer(
        model, settings(folder, **overrides), train_dataset=TRAIN, eval_dataset=EVALUATION, **options
    )
    return trained(trainer, model, "heads.")


def train_gates(folder: Path, targets: bool = False, **fields: Any) -> dict[str, Any]:
    model = untrained(**fields)
    clusters = ErrorTargets.fit(model, EVALUATION, num_clusters=3) if targets else None
    trainer = GateTrainer(
        model, settings(folder), targets=clusters, train_dataset=TRAIN, eval_dataset=EVALUATION
    )
    return trained(trainer, model, "gates.")


def collect() -> dict[int, list[torch.Tensor]]:
    model, found = untrained(), {}
    for count in COUNTS:
        data = noisy_copies(count, seed=count)
        outputs = collect_path_outputs(model, data, batch_size=4)
        features = collect_exit_features(model, data, batch_size=4, teacher=model)
        found[count] = [outputs.logits, outputs.variance, outputs.labels]
        found[count] += [features.selected, features.labels, features.teacher]
    return found


def everything(folder: Path) -> dict[str, Any]:
    twice = {"gradient_accumulation_steps": 2, "per_device_train_batch_size": 8 // num_processes()}
    slow = {"learning_rate": 3e-3}  # else these heads blow up what rounding changes
    return {
        "collected": collect(),
        "heads": train_heads(folder / "heads"),
        "heads on the fly": train_heads(folder / "fly", cache_features=False),
        "heads, gradients of two batches": train_heads(folder / "twice", overrides=twice),
        "heads, attention": train_heads(folder / "attention", "attention", overrides=slow),
        "heads, attention, gradients of two batches": train_heads(
            folder / "attention-twice", "attention", overrides=slow | twice, cache_features=False
        ),
        "gates": train_gates(folder / "gates"),
        "gates, clusters": train_gates(folder / "clusters", targets=True),
        "gates, lra": train_gates(folder / "lra", gate_type="lra"),
    }


def main() -> None:
    folder, written = Path(sys.argv[1]), set[str]()

    def note(event: str, details: tuple[Any, ...]) -> None:
        if event != "open" or not isinstance(details[0], str) or str(folder) not in details[0]:
            return
        if details[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            written.add(details[0])

    sys.addaudithook(note)
    found = everything(folder)
    name = f"process-{os.environ['RANK']}.pt"
    torch.save({**found, "written": sorted(written), "processes": num_processes()}, folder / name)


if __name__ == "__main__":
    main()
