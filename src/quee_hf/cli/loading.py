"""Load a model for a verb, with errors that a newcomer can act on."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from quee_hf.cli.display import one_line
from quee_hf.errors import QuEEError
from quee_hf.processes import meet, num_processes

if TYPE_CHECKING:
    from quee_hf.configuration import QuEEConfig
    from quee_hf.modeling import QuEEForImageClassification


class LoadedModel(NamedTuple):
    """A model and what makes its input."""

    model: "QuEEForImageClassification"
    image_processor: Any


def load_model(source: str, device: str, revision: str = "main") -> LoadedModel:
    """Load a QuEE model from a directory or the Hub.

    Raises:
        QuEEError: If there is none, or its image processor is missing.
        ValueError: If it is a model of another type, or there is no such device.
    """
    from transformers import AutoImageProcessor

    from quee_hf.build.ingredients import choose_device
    from quee_hf.build.rebuild import move
    from quee_hf.build.source import is_local
    from quee_hf.checksums import check_processor
    from quee_hf.modeling import QuEEForImageClassification

    _check_folder(source, is_local=is_local(source))
    target = choose_device(device)
    if num_processes() > 1:
        meet(target)  # each takes a GPU of its own, where there are several
    try:
        model = QuEEForImageClassification.from_pretrained(source, revision=revision)
        processor = AutoImageProcessor.from_pretrained(source, revision=revision, backend="pil")
    except OSError as error:
        raise QuEEError(f"Cannot load {source}: {one_line(error)}") from error
    if model.source_folder is not None:
        check_processor(model.source_folder)
    move(model, target)
    return LoadedModel(model, processor)


def load_float_model(source: str, like: "QuEEForImageClassification") -> "QuEEForImageClassification":
    """Load the full-precision twin of a model, where that is: a QuEE model, or a classifier to be wrapped.

    Raises:
        QuEEError: If there is none.
        UnsupportedBackboneError: If it is of a type that cannot be wrapped.
    """
    from transformers import AutoConfig, PreTrainedConfig

    from quee_hf.build.rebuild import move
    from quee_hf.build.source import is_local
    from quee_hf.configuration import QuEEConfig
    from quee_hf.modeling import QuEEForImageClassification

    _check_folder(source, is_local=is_local(source))
    try:
        if PreTrainedConfig.get_config_dict(source)[0].get("model_type") == QuEEConfig.model_type:
            twin: QuEEForImageClassification = QuEEForImageClassification.from_pretrained(source)
        else:
            config = AutoConfig.from_pretrained(source)
            num_blocks = (getattr(config, "vision_config", None) or config).num_hidden_layers
            twin = QuEEForImageClassification.from_backbone(
                source,
                exit_blocks=[num_blocks],
                levels=["fp32"],
                class_embeddings=dict(like.named_buffers()).get("class_embeddings"),
            )
    except OSError as error:
        raise QuEEError(f"Cannot load {source}: {one_line(error)}") from error
    move(twin, like.device)
    return twin


def load_config(source: str, revision: str = "main") -> "QuEEConfig":
    """Load the config of a QuEE model from a directory or the Hub.

    Raises:
        QuEEError: If there is none.
        ValueError: If it is of a model of another type.
    """
    from quee_hf.build.source import is_local
    from quee_hf.configuration import QuEEConfig

    _check_folder(source, is_local=is_local(source))
    try:
        config: QuEEConfig = QuEEConfig.from_pretrained(source, revision=revision)
    except OSError as error:
        raise QuEEError(f"Cannot load {source}: {one_line(error)}") from error
    return config


def check_repo_id(name: str) -> None:
    """Raise `ValueError` if no repository on the Hub could have a name."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

    try:
        validate_repo_id(name)
    except HFValidationError as error:
        raise ValueError(f"{name!r} is no name of a repository: {error}") from error


def _check_folder(source: str, *, is_local: bool) -> None:
    if is_local and not (Path(source) / "config.json").is_file():
        raise QuEEError(_complaint(Path(source)))


def _complaint(folder: Path) -> str:
    if (folder / "model" / "config.json").is_file():
        return f"{folder} is the directory of a build; its model is {folder / 'model'}."
    if folder.exists():
        return f"{folder} has no config.json: it is not a model directory."
    return f"{folder} does not exist."
