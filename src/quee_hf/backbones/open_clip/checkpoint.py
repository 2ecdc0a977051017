"""`OpenCLIPCheckpoint`: weights that open_clip wrote, and what weights do not say of themselves."""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from quee_hf.backbones.state_dicts import read_state_dict
from quee_hf.errors import IncompatibleCheckpointError, UnsupportedBackboneError

CONFIG_FILE = "open_clip_config.json"
WEIGHT_FILES = (
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.safetensors",
    "open_clip_pytorch_model.bin",
)
_QUICK = "-quickgelu"
_PATCH_SIZES = {"ViT-B-32": 32, "ViT-B-16": 16, "ViT-L-14": 14}
OPEN_CLIP_MODELS = tuple(name + ending for name in _PATCH_SIZES for ending in ("", _QUICK))
# Beside the weights in OpenAI's own checkpoints, whose models all have QuickGELU.
OPENAI_KEYS = frozenset({"input_resolution", "context_length", "vocab_size"})
_READ = {"head_width", "norm_kwargs"}
_SAID_BY_SHAPES = {"image_size", "layers", "width", "patch_size", "mlp_ratio"}
_WITHOUT_EFFECT = {"patch_dropout", "output_tokens", "final_ln_after_pool", "pos_embed_type"}
_DEFAULTS = (None, False, "", "tok", "default")  # of all other fields
_PREPROCESSING = {"mode": "RGB", "interpolation": "bicubic", "resize_mode": "shortest"}


@dataclass(frozen=True)
class OpenCLIPCheckpoint:
    """A CLIP model of open_clip, without its code.

    Args:
        weights: By open_clip's names.
        activation: "gelu" or "quick_gelu"; the weights would run with either, and one is wrong.
        patch_size: Side of a patch in pixels, if the name says it.
        model_name: The name, one of `OPEN_CLIP_MODELS`, if it was given.
        model_config: What open_clip makes the model of, if a config lies beside the weights, else empty.
        preprocessing: How images are normalised, "mean" and "std", if the config says it.
    """

    weights: Mapping[str, Tensor]
    activation: str
    patch_size: int | None = None
    model_name: str | None = None
    model_config: Mapping[str, Any] = field(default_factory=dict)
    preprocessing: Mapping[str, Any] = field(default_factory=dict)

    @property
    def head_width(self) -> int:
        """Channels of an attention head of the vision tower."""
        return int(self._vision.get("head_width", 64))

    @property
    def layer_norm_eps(self) -> float:
        """What the vision tower's norms add to the variance."""
        return float((self._vision.get("norm_kwargs") or {}).get("eps", 1e-5))

    @property
    def logit_scale(self) -> float | None:
        """Natural logarithm of what multiplies the cosine; `None` if the checkpoint does not say."""
        scale = self.weights.get("logit_scale")
        return None if scale is None or scale.numel() != 1 else float(scale.item())

    @property
    def _vision(self) -> Mapping[str, Any]:
        return dict(self.model_config.get("vision_cfg", {}))


def open_checkpoint(source: str | os.PathLike[str], model_name: str | None = None) -> OpenCLIPCheckpoint:
    """Read a checkpoint of open_clip; open_clip itself is not needed.

    Args:
        source: A safetensors file, or one that `torch.save` wrote, of which no code is run; or a directory
            with either under the name that it has on the Hub. Weights may be under "state_dict", and all
            names may begin with "module.".
        model_name: What open_clip calls the architecture, one of `OPEN_CLIP_MODELS`. Not needed if
            `open_clip_config.json` lies beside the weights. OpenAI's weights, whatever they are called, have
            QuickGELU.

    Raises:
        ValueError: If there is no such file, or nothing says which activation the model has, or two things
            say different ones.
        UnsupportedBackboneError: If a config describes something that CLIP of Hugging Face is not.
        IncompatibleCheckpointError: If a file cannot be read.
    """
    file = _weight_file(Path(source).expanduser())
    config = _read_config(file.with_name(CONFIG_FILE))
    activations = {
        "`model_name`": _named_activation(model_name),
        CONFIG_FILE: None if config is None else _described_activation(config["model_cfg"]),
    }
    known = {name for name in activations.values() if name is not None}
    if not known:
        raise ValueError(
            f"{file} does not say whether its model has GELU or QuickGELU, and there is no {CONFIG_FILE}"
            f" beside it: give `model_name`, one of {list(OPEN_CLIP_MODELS)}."
        )
    if len(known) > 1:
        raise ValueError(f"{file}: which activation its model has is not clear: {activations}.")
    weights, activation = read_state_dict(file), known.pop()
    if OPENAI_KEYS & weights.keys() and activation != "quick_gelu":
        raise ValueError(
            f"{file} is OpenAI's, whose models all have QuickGELU: give a `model_name` that ends in"
            f" {_QUICK!r}."
        )
    return OpenCLIPCheckpoint(
        weights,
        activation,
        patch_size=None if model_name is None else _PATCH_SIZES[model_name.removesuffix(_QUICK)],
        model_name=model_name,
        model_config=(config or {}).get("model_cfg", {}),
        preprocessing=_read_preprocessing((config or {}).get("preprocess_cfg", {})),
    )


def _weight_file(source: Path) -> Path:
    if not source.is_dir():
        return source
    for name in WEIGHT_FILES:
        if (source / name).is_file():
            return source / name
    raise ValueError(f"{source} has none of {', '.join(WEIGHT_FILES)}: name the file of the weights.")


def _read_config(file: Path) -> dict[str, Any] | None:
    if not file.is_file():
        return None
    try:
        config: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        for tower in ("vision_cfg", "text_cfg"):
            dict(config["model_cfg"][tower])  # raises unless it is one
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise IncompatibleCheckpointError(f"{file} is not a config of open_clip: {error!r}.") from error
    return config


def _named_activation(model_name: str | None) -> str | None:
    if model_name is None:
        return None
    if model_name not in OPEN_CLIP_MODELS:
        raise ValueError(f"`model_name` must be one of {list(OPEN_CLIP_MODELS)}, got {model_name!r}.")
    return "quick_gelu" if model_name.endswith(_QUICK) else "gelu"


def _described_activation(model_config: Mapping[str, Any]) -> str:
    """Return the activation that a config says; refuse what is computed in ways that weights do not show."""
    known = _READ | _SAID_BY_SHAPES | _WITHOUT_EFFECT
    fields = {
        name: value
        for name, value in model_config["vision_cfg"].items()
        if name not in known and value not in _DEFAULTS
    }
    norms = model_config["vision_cfg"].get("norm_kwargs") or {}
    if fields or set(norms) - {"eps"}:
        raise UnsupportedBackboneError(
            f"{CONFIG_FILE} describes a vision tower that Hugging Face's CLIP cannot be: {fields or norms}."
        )
    return "quick_gelu" if model_config.get("quick_gelu") else "gelu"


def _read_preprocessing(fields: Mapping[str, Any]) -> dict[str, Any]:
    wrong = {name: fields[name] for name, value in _PREPROCESSING.items() if fields.get(name, value) != value}
    if wrong:
        raise UnsupportedBackboneError(
            f"{CONFIG_FILE}: images are prepared by {wrong}, but only {_PREPROCESSING} is supported."
        )
    return {name: fields[name] for name in ("mean", "std") if name in fields}
