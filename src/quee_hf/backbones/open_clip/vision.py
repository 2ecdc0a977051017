"""The vision tower of an open_clip checkpoint as a model of Hugging Face."""

import math
import os
import re
from collections.abc import Mapping
from typing import Any, NamedTuple, cast

from torch import Tensor
from transformers import CLIPImageProcessorPil, CLIPVisionConfig, CLIPVisionModelWithProjection

from quee_hf.backbones.open_clip.checkpoint import OPENAI_KEYS, OpenCLIPCheckpoint
from quee_hf.checkpoints import atomic_directory
from quee_hf.errors import IncompatibleCheckpointError, UnsupportedBackboneError

_BLOCKS, _PROJECTION = "visual.transformer.resblocks", "visual.proj"
_OUTSIDE_BLOCKS = {
    "visual.class_embedding": "vision_model.embeddings.class_embedding",
    "visual.conv1.weight": "vision_model.embeddings.patch_embedding.weight",
    "visual.positional_embedding": "vision_model.embeddings.position_embedding.weight",
    _PROJECTION: "visual_projection.weight",  # transposed
}
_NORMS = {"visual.ln_pre": "vision_model.pre_layrnorm", "visual.ln_post": "vision_model.post_layernorm"}
_LAYERS = {
    "ln_1": "layer_norm1",
    "attn.out_proj": "self_attn.out_proj",
    "ln_2": "layer_norm2",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}
# Those whose shapes are the sizes of the model, and how many dimensions they have.
_DIMENSIONS = {
    "visual.conv1.weight": 4,
    "visual.positional_embedding": 2,
    _PROJECTION: 2,
    f"{_BLOCKS}.0.mlp.c_fc.weight": 2,
}
# Of the text tower and of training, in both of open_clip's layouts.
_OTHERS = re.compile(
    r"(transformer|token_embedding|ln_final|text|text_projection)\..+"
    r"|positional_embedding|text_projection|logit_scale|logit_bias|attn_mask"
)


class VisionTower(NamedTuple):
    """A vision tower, and what makes its input."""

    model: CLIPVisionModelWithProjection
    image_processor: CLIPImageProcessorPil

    def save_pretrained(self, folder: str | os.PathLike[str]) -> None:
        """Write a directory that `from_backbone` and `quee build` take; it changes once all is written."""
        with atomic_directory(folder) as staging:
            self.model.save_pretrained(staging)
            self.image_processor.save_pretrained(staging)


def convert_vision(checkpoint: OpenCLIPCheckpoint) -> VisionTower:
    """Make a Hugging Face model of a checkpoint's vision tower; its sizes are those of the weights.

    The logit scale goes into the model's config, as `logit_scale`.

    Args:
        checkpoint: Of a plain vision transformer, with weights of any float type.

    Returns:
        The model in float32 and evaluation mode, and the image processor: resize, crop and normalise.

    Raises:
        UnsupportedBackboneError: If weights are missing, or there are some that CLIP does not have.
        IncompatibleCheckpointError: If shapes do not fit each other, or a weight is not finite.
        ValueError: If the checkpoint's name is that of a model with other patches.
    """
    places = _places(checkpoint.weights)
    config = _vision_config(checkpoint)
    model = CLIPVisionModelWithProjection(config).eval()
    try:
        model.load_state_dict(_renamed(checkpoint.weights, places))
    except RuntimeError as error:
        raise IncompatibleCheckpointError(
            "The weights do not fit each other: " + " ".join(str(error).split("\n\t")[1:3])
        ) from error
    size = int(cast(int, config.image_size))
    processor = CLIPImageProcessorPil(
        size={"shortest_edge": size},
        crop_size={"height": size, "width": size},
        **cast(Any, {f"image_{name}": list(value) for name, value in checkpoint.preprocessing.items()}),
    )
    return VisionTower(model, processor)


def _places(weights: Mapping[str, Tensor]) -> dict[str, tuple[str, ...]]:
    """Return what Hugging Face calls each tensor, or the parts of one that is taken apart.

    Raises:
        UnsupportedBackboneError: If one is missing, or there are others than a CLIP model has.
    """
    blocks = [int(found[1]) for name in weights if (found := re.match(rf"{_BLOCKS}\.(\d+)\.", name))]
    places = _layout(max(blocks, default=0) + 1)
    unknown = weights.keys() - places.keys() - OPENAI_KEYS
    problems = {
        "it lacks": sorted(places.keys() - weights.keys()),
        "it also has": sorted(name for name in unknown if not _OTHERS.fullmatch(name)),
    }
    if any(problems.values()):
        raise UnsupportedBackboneError(
            "This is no vision transformer of CLIP as open_clip writes it: "
            + "; ".join(f"{what} {', '.join(names[:5])}" for what, names in problems.items() if names)
            + "."
        )
    return places


def _layout(num_blocks: int) -> dict[str, tuple[str, ...]]:
    places: dict[str, tuple[str, ...]] = {ours: (theirs,) for ours, theirs in _OUTSIDE_BLOCKS.items()}
    modules = dict(_NORMS)
    for number in range(num_blocks):
        block, layer = f"{_BLOCKS}.{number}", f"vision_model.encoder.layers.{number}"
        modules |= {f"{block}.{ours}": f"{layer}.{theirs}" for ours, theirs in _LAYERS.items()}
        for kind in ("weight", "bias"):
            parts = tuple(f"{layer}.self_attn.{part}_proj.{kind}" for part in "qkv")
            places[f"{block}.attn.in_proj_{kind}"] = parts
    for ours, theirs in modules.items():
        places |= {f"{ours}.{kind}": (f"{theirs}.{kind}",) for kind in ("weight", "bias")}
    return places


def _renamed(weights: Mapping[str, Tensor], places: Mapping[str, tuple[str, ...]]) -> dict[str, Tensor]:
    """Return the weights by Hugging Face's names, in float32; queries, keys and values are taken apart."""
    renamed: dict[str, Tensor] = {}
    for name, targets in places.items():
        tensor = weights[name].float()
        if not tensor.isfinite().all():
            raise IncompatibleCheckpointError(f"{name} holds NaN or infinity.")
        if not tensor.ndim or len(tensor) % len(targets):
            raise IncompatibleCheckpointError(
                f"{name} has shape {tuple(tensor.shape)}, which is not {len(targets)} parts of one size."
            )
        if name == _PROJECTION:
            tensor = tensor.T
        renamed |= dict(zip(targets, tensor.chunk(len(targets)), strict=True))
    return renamed


def _vision_config(checkpoint: OpenCLIPCheckpoint) -> CLIPVisionConfig:
    """Return the config that shapes say."""
    weights = checkpoint.weights
    shapes = {name: tuple(weights[name].shape) for name in _DIMENSIONS}
    if any(len(shapes[name]) != number for name, number in _DIMENSIONS.items()):
        raise IncompatibleCheckpointError(f"The weights do not fit each other; their shapes are {shapes}.")
    (width, channels, side, _), (num_positions, _), (_, embedding_size), (mlp_size, _) = shapes.values()
    grid = math.isqrt(max(num_positions - 1, 0))
    if grid**2 != num_positions - 1 or width % checkpoint.head_width:
        raise UnsupportedBackboneError(
            f"Patches must be a square, and widths a multiple of a head's, {checkpoint.head_width}; got"
            f" {num_positions - 1} patches and a width of {width}."
        )
    if checkpoint.patch_size not in (None, side):
        raise ValueError(
            f"`model_name` {checkpoint.model_name!r} has patches of {checkpoint.patch_size} pixels, the"
            f" checkpoint of {side}."
        )
    scale = checkpoint.logit_scale
    return CLIPVisionConfig(
        hidden_size=width,
        intermediate_size=mlp_size,
        num_hidden_layers=sum(
            re.fullmatch(rf"{_BLOCKS}\.\d+\.ln_1\.bias", name) is not None for name in weights
        ),
        num_attention_heads=width // checkpoint.head_width,
        num_channels=channels,
        image_size=grid * side,
        patch_size=side,
        projection_dim=embedding_size,
        hidden_act=checkpoint.activation,
        layer_norm_eps=checkpoint.layer_norm_eps,
        **cast(Any, {} if scale is None else {"logit_scale": scale}),
    )
