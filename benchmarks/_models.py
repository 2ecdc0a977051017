"""Models to time: real shapes, random weights, everything trained as far as timing can tell."""

import torch
from transformers import Dinov2Config, Dinov2ForImageClassification

from quee_hf import QuEEForImageClassification, quantize


def dinov2_small(
    *, num_labels: int, image_size: int = 70
) -> tuple[Dinov2ForImageClassification, QuEEForImageClassification]:
    """Return a DINOv2-S with random weights, and the same as a quantized QuEE model whose gates answer."""
    torch.manual_seed(0)
    size = {"image_size": image_size, "patch_size": 14, "num_labels": num_labels}
    config = Dinov2Config(hidden_size=384, num_attention_heads=6, **size)
    backbone = Dinov2ForImageClassification(config).eval()
    model = QuEEForImageClassification.from_backbone(
        backbone, exit_blocks=[4, 6, 8, 10, 12], levels=[8, 6, 5]
    )
    quantize(model, torch.randn(8, 3, image_size, image_size))
    model.config.trained_parts = ["gates", "heads"]
    return backbone, model
