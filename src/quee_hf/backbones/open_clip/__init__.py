"""Checkpoints of open_clip: vision towers as Hugging Face models, class embeddings by text towers."""

from quee_hf.backbones.open_clip.checkpoint import (
    OPEN_CLIP_MODELS,
    OpenCLIPCheckpoint,
    open_checkpoint,
)
from quee_hf.backbones.open_clip.class_prompts import DEFAULT_TEMPLATES, embed_class_names
from quee_hf.backbones.open_clip.vision import VisionTower, convert_vision

__all__ = [
    "DEFAULT_TEMPLATES",
    "OPEN_CLIP_MODELS",
    "OpenCLIPCheckpoint",
    "VisionTower",
    "convert_vision",
    "embed_class_names",
    "open_checkpoint",
]
