"""The only code that knows HF model classes."""

from transformers import PreTrainedConfig

from quee_hf.backbones.clip import CLIP_VISION
from quee_hf.backbones.dinov2 import DINOV2, DINOV2_WITH_REGISTERS
from quee_hf.backbones.family import BackboneFamily
from quee_hf.backbones.t2t_vit.adapter import T2T_VIT
from quee_hf.backbones.vit import DEIT, VIT
from quee_hf.errors import UnsupportedBackboneError

BACKBONES: dict[str, BackboneFamily] = {
    "vit": VIT,
    "deit": DEIT,
    "dinov2": DINOV2,
    "dinov2_with_registers": DINOV2_WITH_REGISTERS,
    "clip_vision_model": CLIP_VISION,
    "t2t_vit": T2T_VIT,
}


def get_family(config: PreTrainedConfig) -> BackboneFamily:
    """Return the family of a backbone config.

    Raises:
        UnsupportedBackboneError: If the model type is not supported.
    """
    if config.model_type not in BACKBONES:
        raise UnsupportedBackboneError(
            f"Backbone type {config.model_type!r} is not supported; supported are {sorted(BACKBONES)}."
        )
    return BACKBONES[config.model_type]
