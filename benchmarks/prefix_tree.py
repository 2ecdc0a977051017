"""Prefix-tree forward against the sum of its nodes' segments: what bookkeeping, heads and copies add.

Run: `python benchmarks/prefix_tree.py`. Writes `benchmarks/results/prefix_tree.json`.
"""

import torch
from _models import dinov2_small
from _timing import interleaved_ms, ratio, spread, write_result

from quee_hf.execution.prefix_tree import tree_forward


@torch.inference_mode()
def main() -> None:
    torch.set_num_threads(2)
    _, model = dinov2_small(num_labels=10)
    rows = []
    for batch_size in (1, 8, 32):
        pixels = torch.randn(batch_size, 3, 70, 70)
        hidden = model.embed(pixels)
        nodes = [(len(path) - 1, model.level_list[path[-1]]) for path in model.paths]

        def all_segments(hidden: torch.Tensor = hidden, nodes: list = nodes) -> None:
            for segment, level in nodes:
                model.run_segment(segment, level, hidden)

        def tree(pixels: torch.Tensor = pixels) -> None:
            tree_forward(model, pixels)

        times = interleaved_ms({"tree": tree, "segments": all_segments}, repeats=11)
        rows.append(
            {
                "batch_size": batch_size,
                "num_nodes": len(nodes),
                "tree_ms": spread(times["tree"]),
                "segments_ms": spread(times["segments"]),
                "tree_over_segments": ratio(times["tree"], times["segments"]),
            }
        )
    write_result("prefix_tree", {"model": "DINOv2-S, 70 px, levels 8 6 5", "rows": rows})


if __name__ == "__main__":
    main()
