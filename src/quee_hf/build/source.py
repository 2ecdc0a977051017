"""`Source`: the classifier that a build starts from, as far as it is known without its weights."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from huggingface_hub.errors import StrictDataclassError
from PIL import Image
from safetensors import SafetensorError, safe_open
from transformers import AutoConfig, AutoImageProcessor, PreTrainedConfig
from transformers.utils import CONFIG_NAME, cached_file

from quee_hf.backbones import BACKBONES, get_family
from quee_hf.build.files import hash_file
from quee_hf.build.recipe import Recipe
from quee_hf.configuration import QuEEConfig
from quee_hf.errors import QuEEError, UnsupportedBackboneError
from quee_hf.exits.heads import HEADS
from quee_hf.ptq import PTQ_METHODS
from quee_hf.ptq.smoothquant import check_smoothing
from quee_hf.quantize import make_method

_MODEL_FILES = (
    "config.json",
    "preprocessor_config.json",
    "processor_config.json",
    "*.safetensors",
    "*.index.json",
    "pytorch_model*.bin",
)


@dataclass(frozen=True)
class Source:
    """A trained classifier.

    Args:
        backbone_config: Of the vision model.
        class_names: Of the model's own; `None` if it has none but placeholders.
        num_classes: How many classes it tells apart.
        image_processor: Makes its input.
        image_size: Height and width of that input, in pixels.
        fingerprint: SHA-256 of its files, or its id and commit on the Hub.
    """

    backbone_config: PreTrainedConfig
    class_names: list[str] | None
    num_classes: int
    image_processor: Any
    image_size: tuple[int, int]
    fingerprint: str


def open_source(recipe: Recipe) -> Source:
    """Read the config and the image processor of a recipe's model, and check the recipe against them.

    Raises:
        QuEEError: If the model does not exist or has no image processor.
        UnsupportedBackboneError: If it is of an unsupported type.
        ValueError: If the recipe does not fit the model.
    """
    config = _open_config(recipe.model)
    processor = _open_processor(recipe.model)
    backbone = _vision_config(config)
    if get_family(backbone).is_contrastive:
        num_classes, names = _count_embeddings(recipe), None
    else:
        _refuse_embeddings(recipe)
        num_classes, names = len(config.id2label or ()), _real_names(config)
    if recipe.class_names is not None and len(recipe.class_names) != num_classes:
        raise ValueError(f"{len(recipe.class_names)} class names, but the model has {num_classes} classes.")
    size = output_size(processor)
    source = Source(backbone, names, num_classes, processor, size, _fingerprint(recipe.model))
    _check_recipe(recipe, source)
    return source


def complete_exits(recipe: Recipe) -> Recipe:
    """Return the recipe with its exits in order and the backbone's last block as the last of them.

    Raises:
        QuEEError: If the model does not exist.
        ValueError: If it has fewer blocks.
    """
    num_blocks = _vision_config(_open_config(recipe.model)).num_hidden_layers
    exits = sorted({*recipe.exits, num_blocks})
    if exits[0] < 1 or exits[-1] > num_blocks:
        raise ValueError(
            f"`exits` must be blocks 1 to {num_blocks}: {recipe.model} has {num_blocks} blocks;"
            f" got {list(recipe.exits)}."
        )
    return replace(recipe, exits=tuple(exits))


def is_local(source: str) -> bool:
    """Tell whether a name can only mean a path, not a repository on the Hub."""
    return Path(source).expanduser().exists() or source.count("/") != 1 or source.startswith((".", "~", "/"))


def output_size(image_processor: Any) -> tuple[int, int]:
    """Return the height and width of what an image processor makes.

    Raises:
        ValueError: If they depend on the image.
    """
    shapes = {
        tuple(image_processor(images=Image.new("RGB", size), return_tensors="pt")["pixel_values"].shape[2:])
        for size in ((64, 48), (48, 64), (300, 40))
    }
    if len(shapes) > 1:
        raise ValueError(
            "The model's image processor makes images of different sizes; set a fixed `size`, or `crop_size`"
            " with `do_center_crop`, in its preprocessor_config.json."
        )
    height, width = shapes.pop()
    return int(height), int(width)


def _open_config(model: str) -> PreTrainedConfig:
    folder = Path(model)
    if is_local(model) and not (folder / "config.json").is_file():
        problem = "has no config.json: it is not a model directory" if folder.exists() else "does not exist"
        raise QuEEError(f"`model`: {model} {problem}.")
    try:
        config: PreTrainedConfig = AutoConfig.from_pretrained(model)
    except (OSError, ValueError) as error:
        raise QuEEError(
            f"`model`: {model} is no directory, and was not found on the Hub: {_first_line(error)}"
        ) from error
    if config.model_type == QuEEConfig.model_type:
        raise UnsupportedBackboneError(
            f"{model} is a QuEE model already; build from the classifier it wraps."
        )
    if config.model_type not in (*BACKBONES, "clip"):
        supported = sorted([*BACKBONES, "clip"])
        raise UnsupportedBackboneError(
            f"{model} is of type {config.model_type!r}; supported are {supported}."
        )
    return config


def _vision_config(config: PreTrainedConfig) -> Any:
    return config.vision_config if config.model_type == "clip" else config


def _open_processor(model: str) -> Any:
    try:
        return AutoImageProcessor.from_pretrained(model, backend="pil")
    except (OSError, ValueError) as error:
        raise QuEEError(
            f"`model`: {model} has no image processor (preprocessor_config.json): {_first_line(error)}"
        ) from error


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)


def _count_embeddings(recipe: Recipe) -> int:
    if recipe.class_embeddings is None:
        raise ValueError(
            f"`class_embeddings`: {recipe.model} is a CLIP model, which needs one text embedding per class."
        )
    path = Path(recipe.class_embeddings)
    if not path.is_file():
        raise ValueError(f"`class_embeddings`: {path} is not a file.")
    try:
        with safe_open(path, framework="pt") as file:
            if "class_embeddings" not in file.keys():  # noqa: SIM118 - safe_open is not a mapping
                raise ValueError(f"{path} has no tensor 'class_embeddings', only {sorted(file.keys())}.")
            return int(file.get_slice("class_embeddings").get_shape()[0])
    except SafetensorError as error:
        raise ValueError(f"`class_embeddings`: {path} is not a safetensors file: {error}.") from error


def _refuse_embeddings(recipe: Recipe) -> None:
    for name in ("class_embeddings", "logit_scale"):
        if getattr(recipe, name) is not None:
            raise ValueError(
                f"`{name}` is for CLIP models; {recipe.model} has a classifier with its own classes."
            )


def _real_names(config: PreTrainedConfig) -> list[str] | None:
    labels: Mapping[Any, str] = config.id2label or {}
    names = [str(labels[index]) for index in range(len(labels))]
    return None if names == [f"LABEL_{index}" for index in range(len(names))] else names


def _fingerprint(model: str) -> str:
    if not Path(model).is_dir():
        # Files of the Hub lie in a folder named after their commit; configs no longer say it.
        return f"{model} {Path(str(cached_file(model, CONFIG_NAME))).parent.name}"
    files = sorted({path for pattern in _MODEL_FILES for path in Path(model).glob(pattern)})
    content = "\n".join(f"{path.name} {hash_file(path)}" for path in files)
    return hashlib.sha256(content.encode()).hexdigest()


def _check_recipe(recipe: Recipe, source: Source) -> None:
    num_blocks = source.backbone_config.num_hidden_layers
    if len(recipe.exits) < 2 or recipe.exits[-1] != num_blocks or min(recipe.exits) < 1:
        raise ValueError(
            f"`exits` must be at least one block before the last and the last, {num_blocks}, counted from 1;"
            f" got {list(recipe.exits)}."
        )
    if recipe.ptq not in PTQ_METHODS:
        raise ValueError(f"`ptq` must be one of {sorted(PTQ_METHODS)}, got {recipe.ptq!r}.")
    make_method(recipe.ptq, recipe.ptq_options)
    check_smoothing(recipe.smoothing)
    if recipe.head not in HEADS:
        raise ValueError(f"`head` must be one of {sorted(HEADS)}, got {recipe.head!r}.")
    try:
        QuEEConfig(
            backbone_config=source.backbone_config,
            exit_blocks=list(recipe.exits),
            levels=list(recipe.levels),
            first_level=recipe.first_level,
            max_paths=recipe.max_paths,
            gate_type=recipe.gate,
            gate_features=recipe.gate_features,
        )
    except StrictDataclassError as error:
        raise ValueError(str(error.__cause__ or error)) from error
