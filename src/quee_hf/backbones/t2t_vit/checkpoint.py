"""Read checkpoints of the authors' T2T-ViT code, and make models of transformers of them."""

import math
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import BitImageProcessorPil

from quee_hf.backbones.state_dicts import read_state_dict
from quee_hf.backbones.t2t_vit.configuration import T2TViTConfig
from quee_hf.backbones.t2t_vit.modeling import T2TViTForImageClassification
from quee_hf.backbones.t2t_vit.soft_split import SOFT_SPLITS
from quee_hf.errors import IncompatibleCheckpointError

_WEIGHTS = ("state_dict_ema", "state_dict")  # in this order: the authors publish the averaged weights
_HEAD_SIZE = 64  # in all published sizes
_SHOWN = 5  # names in a message
_IMAGENET_MEAN, _IMAGENET_STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]  # of red, green and blue
_CROP = 0.9  # of the resized image's side, that the authors' evaluation crops
_BICUBIC = 3

_STAGE, _BLOCK = r"tokens_to_token\.attention([12])\.", r"blocks\.(\d+)\."
# What the names of tensors begin with: theirs -> ours. Numbers of stages begin at 1 there, at 0 here.
_NAMES = [
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"cls_token$", "t2t_vit.embeddings.cls_token"),
        (r"pos_embed$", "t2t_vit.embeddings.position_embeddings"),
        (r"tokens_to_token\.project\.", "t2t_vit.embeddings.projection."),
        (rf"{_STAGE}w$", "t2t_vit.embeddings.stages.{}.attention.random_features"),
        (rf"{_STAGE}(?:kqv|attn\.qkv)\.", "t2t_vit.embeddings.stages.{}.qkv."),
        (rf"{_STAGE}(?:attn\.)?proj\.", "t2t_vit.embeddings.stages.{}.output."),
        (rf"{_STAGE}norm([12])\.", "t2t_vit.embeddings.stages.{}.norm{}."),
        (rf"{_STAGE}mlp\.(?:0|fc1)\.", "t2t_vit.embeddings.stages.{}.fc1."),
        (rf"{_STAGE}mlp\.(?:2|fc2)\.", "t2t_vit.embeddings.stages.{}.fc2."),
        (rf"{_BLOCK}norm1\.", "t2t_vit.layers.{}.layernorm_before."),
        (rf"{_BLOCK}norm2\.", "t2t_vit.layers.{}.layernorm_after."),
        (rf"{_BLOCK}attn\.proj\.", "t2t_vit.layers.{}.attention.o_proj."),
        (rf"{_BLOCK}mlp\.(fc[12])\.", "t2t_vit.layers.{}.mlp.{}."),
        (r"norm\.", "t2t_vit.layernorm."),
        (r"head\.", "classifier."),
    )
]
_BLOCK_QKV = re.compile(rf"{_BLOCK}attn\.qkv\.(weight|bias)$")


def load_t2t_vit_checkpoint(
    path: str | os.PathLike[str],
    *,
    num_attention_heads: int | None = None,
    id2label: Mapping[int, str] | None = None,
) -> T2TViTForImageClassification:
    """Load a checkpoint of the authors' code, such as `71.7_T2T_ViT_7.pth.tar`, as a model of transformers.

    Sizes are read off the tensors. Nothing in the file is executed.

    Args:
        path: Of the file: weights alone, or among other things as `state_dict_ema` or `state_dict`; names may
            begin with `module.`.
        num_attention_heads: Of a block, which tensors do not tell; `None` stands for heads 64 wide, as in all
            published sizes.
        id2label: Class names; `None` numbers them.

    Returns:
        The model, in evaluation mode. `save_pretrained` makes a directory of it that `quee build` and
        `from_backbone` take.

    Raises:
        IncompatibleCheckpointError: If it is not such a checkpoint.
        ValueError: If there is no such file, or the number of heads or of names does not fit.

    Source:
        github.com/yitu-opensource/T2T-ViT; its evaluation scales queries by the root of a head's width.
    """
    path = Path(path)
    # Copies of their own: in files, tensors may be parts of others.
    tensors = {name: each.float().clone() for name, each in read_state_dict(path, _WEIGHTS).items()}
    config = _read_config(path, tensors, num_attention_heads)
    if id2label is not None:
        names, count = {int(index): name for index, name in id2label.items()}, len(tensors["head.weight"])
        if sorted(names) != list(range(count)):
            raise ValueError(f"`id2label` must name classes 0 to {count - 1}, got {len(names)} names.")
        config.id2label, config.label2id = names, {name: index for index, name in names.items()}
    with torch.device("meta"):
        model = T2TViTForImageClassification(config)
    weights, expected = dict(_rename(path, tensors)), model.state_dict()
    _check(path, weights, expected)
    model.load_state_dict(weights, assign=True)
    model.train(False)
    return model


def t2t_vit_image_processor(image_size: int = 224) -> BitImageProcessorPil:
    """Return what the authors' evaluation does to an image: resize, crop 9 tenths, normalise as ImageNet.

    Args:
        image_size: Side of the model's input, in pixels.
    """
    return BitImageProcessorPil(
        size={"shortest_edge": math.floor(image_size / _CROP)},
        crop_size={"height": image_size, "width": image_size},
        resample=_BICUBIC,
        do_convert_rgb=True,
        image_mean=_IMAGENET_MEAN,
        image_std=_IMAGENET_STD,
    )


def _read_config(path: Path, tensors: Mapping[str, Tensor], num_heads: int | None) -> T2TViTConfig:
    """Read sizes off the shapes of tensors."""
    needed = {
        "cls_token": 3,
        "pos_embed": 3,
        "blocks.0.mlp.fc1.weight": 2,
        "head.weight": 2,
        "tokens_to_token.project.weight": 2,
        "tokens_to_token.attention1.norm1.weight": 1,
    }
    for name, num_dimensions in needed.items():
        if name not in tensors or tensors[name].ndim != num_dimensions:
            raise IncompatibleCheckpointError(f"{path} is not a checkpoint of T2T-ViT: it lacks {name}.")
    features, hidden_size = tensors.get("tokens_to_token.attention1.w"), tensors["cls_token"].shape[2]
    side = math.isqrt(max(1, tensors["pos_embed"].shape[1] - 1))
    heads = hidden_size // _HEAD_SIZE if num_heads is None else num_heads
    if heads < 1 or hidden_size % heads:
        raise ValueError(f"`num_attention_heads` must divide {hidden_size}, got {heads}.")
    num_labels: dict[str, Any] = {"num_labels": len(tensors["head.weight"])}  # of every config's own fields
    return T2TViTConfig(
        hidden_size=hidden_size,
        num_hidden_layers=1 + max(int(match[1]) for match in map(re.compile(_BLOCK).match, tensors) if match),
        num_attention_heads=heads,
        intermediate_size=tensors["blocks.0.mlp.fc1.weight"].shape[0],
        token_size=tensors["tokens_to_token.project.weight"].shape[1] // SOFT_SPLITS[2].kernel_size ** 2,
        token_attention="softmax" if features is None else "performer",
        num_random_features=1 if features is None else features.shape[0],
        token_dropout_prob=0.0 if features is None else 0.1,
        image_size=side * math.prod(split.stride for split in SOFT_SPLITS),
        num_channels=tensors["tokens_to_token.attention1.norm1.weight"].shape[0]
        // SOFT_SPLITS[0].kernel_size ** 2,
        qkv_bias="blocks.0.attn.qkv.bias" in tensors,
        **num_labels,
    )


def _rename(path: Path, tensors: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """Yield tensors by their names here."""
    for name, tensor in tensors.items():
        if not tensor.ndim:
            raise IncompatibleCheckpointError(f"{path} is not a checkpoint of T2T-ViT: {name} is one number.")
        if (match := _BLOCK_QKV.match(name)) is not None:
            for part, rows in zip("qkv", tensor.tensor_split(3), strict=True):
                yield f"t2t_vit.layers.{match[1]}.attention.{part}_proj.{match[2]}", rows.clone()
            continue
        ours = _translate(name)
        if ours is None:
            raise IncompatibleCheckpointError(f"{path} is not a checkpoint of T2T-ViT: it holds {name}.")
        if ".kqv." in name:
            key, query, value = tensor.tensor_split(3)
            tensor = torch.cat([query, key, value])
        yield ours, tensor


def _translate(name: str) -> str | None:
    for pattern, replacement in _NAMES:
        if (match := pattern.match(name)) is not None:
            numbers = list(match.groups())
            if name.startswith("tokens_to_token.attention"):
                numbers[0] = str(int(numbers[0]) - 1)
            return replacement.format(*numbers) + name[match.end() :]
    return None


def _check(path: Path, weights: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    """Raise unless all tensors that a model has are there, of their shapes, and no others."""
    problems = [f"lacks {name}" for name in expected if name not in weights]
    problems += [f"holds {name} in excess" for name in weights if name not in expected]
    problems += [
        f"holds {name} of shape {tuple(weights[name].shape)} instead of {tuple(tensor.shape)}"
        for name, tensor in expected.items()
        if name in weights and weights[name].shape != tensor.shape
    ]
    problems += [
        f"holds NaN or infinity in {name}" for name, tensor in weights.items() if not tensor.isfinite().all()
    ]
    if problems:
        shown = "; ".join(problems[:_SHOWN])
        raise IncompatibleCheckpointError(f"{path} is not a checkpoint of T2T-ViT as published: it {shown}.")
