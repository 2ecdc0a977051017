"""What the rest of the package needs to know of a family of HF backbones, and of one model's modules."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel

from quee_hf.backbones.block import BlockShape
from quee_hf.pooling import Pooling


@dataclass(frozen=True)
class SourceBlock:
    """The modules of one HF layer, by what they do."""

    norm1: nn.Module
    query: nn.Linear
    key: nn.Linear
    value: nn.Linear
    output: nn.Linear
    norm2: nn.Module
    fc1: tuple[nn.Linear, ...]  # one, or gate and value of a gated MLP
    fc2: nn.Linear
    scale1: Tensor | None = None
    scale2: Tensor | None = None


@dataclass(frozen=True)
class SourceModel:
    """The modules of one HF classifier, by what they do."""

    embeddings: nn.Module
    pre_norm: nn.Module | None
    blocks: list[SourceBlock]
    norm: nn.Module
    head: nn.Linear


def _count_patches(config: PreTrainedConfig, height: int, width: int) -> int:
    """Return how many patches side by side an image has; what fills no patch is not seen."""
    size: Any = config.patch_size
    patch_height, patch_width = (size, size) if isinstance(size, int) else size
    return int((height // patch_height) * (width // patch_width))


@dataclass(frozen=True)
class BackboneFamily:
    """How to rebuild one kind of HF model as a trunk.

    Args:
        shape: Sizes of a block, from the HF config.
        make_embeddings: Builds the HF module that maps pixels to tokens.
        num_prefix_tokens: Tokens before the patches: class, distillation, registers.
        pooling: Which tokens the model's own head reads.
        locate: Finds the modules in a loaded HF model; raises `UnsupportedBackboneError` if it has no head.
        num_patches: Patches that become tokens, from the HF config and an image's height and width.
        has_pre_norm: Whether tokens are normalised before the first block (CLIP).
        is_contrastive: Whether the head projects into an embedding that is compared with class embeddings.
    """

    shape: Callable[[PreTrainedConfig], BlockShape]
    make_embeddings: Callable[[Any], nn.Module]
    num_prefix_tokens: Callable[[PreTrainedConfig], int]
    pooling: Pooling
    locate: Callable[[PreTrainedModel], SourceModel]
    num_patches: Callable[[PreTrainedConfig, int, int], int] = _count_patches
    has_pre_norm: bool = False
    is_contrastive: bool = False
