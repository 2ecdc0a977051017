"""The model in Python, in seconds and without data: `python examples/python_api.py`.

Wraps a small ViT with random weights. A real one is loaded by name or directory; its exits and gates are then
trained as `quickstart.py` shows.
"""

import torch
from transformers import ViTConfig, ViTForImageClassification

from quee_hf import QuEEForImageClassification, quantize

torch.manual_seed(0)
size = {"hidden_size": 64, "num_hidden_layers": 6, "num_attention_heads": 4, "intermediate_size": 128}
vit = ViTForImageClassification(ViTConfig(**size, image_size=32, patch_size=8, num_labels=5)).eval()
images = torch.randn(4, 3, 32, 32)

# Three exits, every segment at 8 or 4 bits or as it was. The last exit is the ViT's own head.
model = QuEEForImageClassification.from_backbone(vit, exit_blocks=[2, 4, 6], levels=["fp32", 8, 4])
with torch.inference_mode():
    difference = (model(images, path=["fp32", "fp32", "fp32"]).logits - vit(images).logits).abs().max()
    print(f"At full precision the wrapped model differs from the ViT by {difference:.1e}.")

    quantize(model, torch.randn(32, 3, 32, 32))  # calibration images; real ones in earnest
    for path in (["fp32"] * 3, [8, 8, 8], [8, 4, 4], [8, 4], [8]):
        output = model(images, path=path)
        block = model.config.exit_blocks[output.exit_index[0]]
        print(f"path {path!s:>26}: cost {output.cost[0]:.3f} of the dearest, out after block {block}")

    output = model(images, path=["fp32"] * 3, output_all_paths=True)
    print(f"All {len(model.paths)} paths at once: logits of shape {tuple(output.all_logits.shape)}.")

    # Untrained gates decide nothing worthwhile; this shows the call. Each image has a lambda of its own.
    model.config.trained_parts = ["gates", "heads"]
    output = model(images, cost_lambda=torch.tensor([0.0, 0.1, 1.0, float("inf")]))
    for exit_index, cost in zip(output.exit_index.tolist(), output.cost.tolist(), strict=True):
        print(f"out after block {model.config.exit_blocks[exit_index]}, cost {cost:.3f}")
