"""What the gates cost beside the backbone: parameters, and time of all gates and decisions.

Run: `python benchmarks/gate_cost.py`. Writes `benchmarks/results/gate_cost.json`.
"""

from typing import Any

import numpy as np
import torch
from _models import dinov2_small
from _timing import interleaved_ms, ratio, spread, write_result

from quee_hf import QuEEForImageClassification
from quee_hf.execution.network import assess
from quee_hf.exits.reading import ExitReading


def num_parameters(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def run_gates(model: QuEEForImageClassification, reading: ExitReading) -> None:
    """Ask every gate and decide, as if all images went to the last exit."""
    weights, seen = np.full(len(reading.logits), 0.1, np.float32), None
    for exit_index, exact in enumerate(model.router.tree.exact_nodes[:-1]):
        reached = assess(model, exit_index, reading, seen)
        model.decide(exit_index + 1, np.full(len(weights), exact), reached.scores.numpy(), weights)
        seen = reached.seen


def measure(num_labels: int) -> dict[str, Any]:
    backbone, model = dinov2_small(num_labels=num_labels)
    share = num_parameters(model.gates) / num_parameters(backbone)
    result: dict[str, Any] = {"num_labels": num_labels, "parameter_share": share, "rows": []}
    for batch_size in (1, 8, 32):
        pixels = torch.randn(batch_size, 3, 70, 70)
        reading = ExitReading(torch.randn(batch_size, num_labels), torch.rand(batch_size))
        times = interleaved_ms(
            {
                "backbone": lambda pixels=pixels: backbone(pixels),
                "gates": lambda reading=reading: run_gates(model, reading),
            },
            repeats=15,
        )
        result["rows"].append(
            {
                "batch_size": batch_size,
                "backbone_ms": spread(times["backbone"]),
                "gates_ms": spread(times["gates"]),
                "gates_over_backbone": ratio(times["gates"], times["backbone"]),
            }
        )
    return result


@torch.inference_mode()
def main() -> None:
    torch.set_num_threads(2)
    results = [measure(10), measure(1000)]
    write_result("gate_cost", {"model": "DINOv2-S, 70 px, float32, against all gates", "results": results})


if __name__ == "__main__":
    main()
