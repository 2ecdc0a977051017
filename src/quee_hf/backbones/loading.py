"""Open a trained HF classifier, and refuse one whose head would be random."""

import copy
import math
import os
import pickle
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModelForImageClassification,
    CLIPModel,
    CLIPVisionModelWithProjection,
    PreTrainedConfig,
    PreTrainedModel,
)

from quee_hf.backbones import BACKBONES, get_family
from quee_hf.backbones.class_embeddings import read_class_embeddings
from quee_hf.backbones.family import SourceModel
from quee_hf.errors import IncompatibleCheckpointError, UnsupportedBackboneError

DEFAULT_LOGIT_SCALE = 4.6052  # ln 100, where CLIP's training clips it


@dataclass(frozen=True)
class SourceClassifier:
    """A trained classifier, taken apart.

    Args:
        config: Of the vision tower.
        modules: The modules whose weights are taken over.
        id2label: Class names.
        class_embeddings: `(classes, size)`, of length 1, float32; CLIP only.
        logit_scale: Multiplier of the cosine; CLIP only.
        hub_id: Of the model on the Hub, if it came from there.
    """

    config: PreTrainedConfig
    modules: SourceModel
    id2label: dict[int, str]
    class_embeddings: Tensor | None = None
    logit_scale: float | None = None
    hub_id: str | None = None


def open_classifier(
    source: str | os.PathLike[str] | PreTrainedModel,
    class_embeddings: Tensor | str | os.PathLike[str] | None = None,
    logit_scale: float | None = None,
) -> SourceClassifier:
    """Load a classifier if need be, and find its parts.

    Args:
        source: Hub id, directory, or a loaded HF model.
        class_embeddings: CLIP only: `(classes, size)` text embeddings, or a safetensors file that holds them
            as `class_embeddings` and perhaps `logit_scale`.
        logit_scale: CLIP only: natural logarithm of what multiplies the cosine, as CLIP stores it; `None`
            takes the file's, the model's, or ln 100, in this order.

    Raises:
        UnsupportedBackboneError: If the model's type is not supported or it has no trained head.
        IncompatibleCheckpointError: If its weights are damaged, not finite, or could run code.
        ValueError: If class embeddings are missing, superfluous or of the wrong shape.
    """
    model = source if isinstance(source, PreTrainedModel) else _load(source)
    config = model.config.vision_config if isinstance(model, CLIPModel) else model.config
    # A copy: the QuEE config that holds it sets its attention implementation, and CLIP's needs a mended size.
    config = cast(PreTrainedConfig, copy.deepcopy(config))
    hub_id = _hub_id(model)
    config.name_or_path = hub_id or ""  # the path of a directory is nobody else's business
    family = get_family(config)
    modules = family.locate(model)
    if not family.is_contrastive:
        if class_embeddings is not None or logit_scale is not None:
            raise ValueError(
                f"`class_embeddings` are for CLIP models; {type(model).__name__} has a classifier."
            )
        if not isinstance(modules.head, torch.nn.Linear):
            raise UnsupportedBackboneError(
                f"{type(model).__name__} has no classification head (`num_labels` is 0)."
            )
        return SourceClassifier(config, modules, cast(dict[int, str], config.id2label), hub_id=hub_id)
    if class_embeddings is None:
        raise ValueError(
            "A CLIP model needs `class_embeddings`: one text embedding per class, (classes, size)."
        )
    config.projection_dim = modules.head.out_features
    embeddings, stored_scale = read_class_embeddings(class_embeddings, config.projection_dim)
    own_scale = _own_scale(model)
    vars(config).pop("logit_scale", None)  # kept by the QuEE config alone
    scale = next(value for value in (logit_scale, stored_scale, own_scale) if value is not None)
    names = {index: f"LABEL_{index}" for index in range(len(embeddings))}
    return SourceClassifier(config, modules, names, embeddings, math.exp(scale), hub_id)


def _own_scale(model: PreTrainedModel) -> float:
    """Return the natural logarithm of what multiplies a CLIP model's cosine."""
    if isinstance(model, CLIPModel):
        return float(model.logit_scale.item())
    # That of a vision tower which was converted is in its config.
    return float(getattr(model.config, "logit_scale", DEFAULT_LOGIT_SCALE))


def _hub_id(model: PreTrainedModel) -> str | None:
    """Return the Hub id that a model was loaded from, if it was."""
    name = str(model.config.name_or_path)
    is_id = re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name) and not Path(name).exists()
    return name if is_id else None


def _load(source: str | os.PathLike[str]) -> PreTrainedModel:
    """Load an HF classifier in float32."""
    config = AutoConfig.from_pretrained(source)
    if config.model_type == "clip":
        loader: Any = CLIPModel  # the whole, for its projection size and logit scale
    elif config.model_type == "clip_vision_model":
        loader = CLIPVisionModelWithProjection
    elif config.model_type in BACKBONES:
        loader = AutoModelForImageClassification
    else:
        raise UnsupportedBackboneError(
            f"{source} is of type {config.model_type!r}; supported are {sorted([*BACKBONES, 'clip'])}."
        )
    try:
        model, info = loader.from_pretrained(source, dtype=torch.float32, output_loading_info=True)
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError, LookupError) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise IncompatibleCheckpointError(
            f"The weights of {source} are damaged, of another shape than its config says, or cannot be read"
            f" without running code that they may hold: {reason}"
        ) from error
    if wrong := [name for name, value in model.state_dict().items() if not value.isfinite().all()]:
        raise IncompatibleCheckpointError(f"The weights of {source} hold NaN or infinity: {wrong[0]}.")
    if missing := sorted(key for key in info["missing_keys"] if not key.startswith("text_")):
        raise UnsupportedBackboneError(
            f"{source} is not a trained classifier: it lacks {', '.join(missing[:5])}. Fine-tune it first, or"
            " name a checkpoint that has a classification head."
        )
    return cast(PreTrainedModel, model)
