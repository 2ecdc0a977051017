"""T2T-ViT as a model of transformers, and what the rest of the package needs to know of it."""

from quee_hf.backbones.t2t_vit.checkpoint import load_t2t_vit_checkpoint, t2t_vit_image_processor
from quee_hf.backbones.t2t_vit.configuration import T2TViTConfig
from quee_hf.backbones.t2t_vit.modeling import T2TViTForImageClassification, T2TViTModel

__all__ = [
    "T2TViTConfig",
    "T2TViTForImageClassification",
    "T2TViTModel",
    "load_t2t_vit_checkpoint",
    "t2t_vit_image_processor",
]
