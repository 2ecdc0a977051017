"""Class embeddings by the text tower of an open_clip checkpoint; this needs open_clip."""

from collections.abc import Sequence
from string import Formatter
from typing import Any

from torch import Tensor

from quee_hf.backbones.class_embeddings import check_class_names
from quee_hf.backbones.open_clip.checkpoint import OPENAI_KEYS, OpenCLIPCheckpoint
from quee_hf.errors import MissingExtraError, UnsupportedBackboneError

DEFAULT_TEMPLATES = ("a photo of a {}.",)
_VISION = "visual."
_CLASSES_AT_ONCE = 32


def embed_class_names(
    checkpoint: OpenCLIPCheckpoint,
    class_names: Sequence[str],
    templates: Sequence[str] = DEFAULT_TEMPLATES,
) -> Tensor:
    """Embed the names of classes, each as the mean of what it is in several prompts.

    Args:
        checkpoint: With the text tower that belongs to the vision tower.
        class_names: All different.
        templates: Prompts, with "{}" where the name goes.

    Returns:
        `(classes, size)`, float32, of length 1: the `class_embeddings` of `from_backbone`.

    Raises:
        MissingExtraError: If open_clip is not installed, or cannot be imported.
        ValueError: If names are not all different, or a template has no place for one.
        UnsupportedBackboneError: If the text tower is another than open_clip's own.

    Source:
        Radford et al. 2021 (CLIP, arXiv:2103.00020), §3.1.4.
    """
    names = check_class_names(class_names)
    if not templates or isinstance(templates, str) or not all(map(_has_one_place, templates)):
        raise ValueError(
            f"`templates` must be a list of texts with one '{{}}', where the name goes, got {templates!r}."
        )
    library = _library()
    model, tokenizer = _text_model(library, checkpoint)
    found: Tensor = library.build_zero_shot_classifier(
        model, tokenizer, names, list(templates), num_classes_per_batch=_CLASSES_AT_ONCE
    )
    return found.T.float().contiguous()


def _has_one_place(template: str) -> bool:
    try:
        fields = [field for _, field, _, _ in Formatter().parse(template) if field is not None]
    except ValueError:  # a brace without its partner
        return False
    return fields == [""]


def _library() -> Any:
    try:
        import open_clip
    except (ImportError, RuntimeError) as error:  # a torchvision made for another torch raises the latter
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise MissingExtraError(
            f"Embedding class names needs open_clip, which cannot be imported: {reason}. Run"
            " `pip install quee-hf[open-clip]`; it brings torchvision, which must be the build for the torch"
            " that is installed."
        ) from error
    return open_clip


def _text_model(library: Any, checkpoint: OpenCLIPCheckpoint) -> tuple[Any, Any]:
    """Return a model with the checkpoint's text tower, and its tokenizer; its vision tower is random."""
    config = dict(checkpoint.model_config or library.get_model_config(checkpoint.model_name))
    text = dict(config["text_cfg"])
    if config.get("custom_text") or any(name.startswith("hf_") for name in text):
        raise UnsupportedBackboneError(f"The text tower is not open_clip's own: {text}.")
    model = library.CLIP(**{**config, "quick_gelu": checkpoint.activation == "quick_gelu"})
    weights = {
        name: value.reshape(()) if name == "logit_scale" else value
        for name, value in checkpoint.weights.items()
        if not name.startswith(_VISION) and name not in (*OPENAI_KEYS, "attn_mask", "logit_bias")
    }
    try:
        mismatch = model.load_state_dict(weights, strict=False)
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise UnsupportedBackboneError(f"The text tower does not fit its config: {reason}") from error
    missing = [name for name in mismatch.missing_keys if not name.startswith(_VISION)]
    if wrong := [*missing, *mismatch.unexpected_keys]:
        raise UnsupportedBackboneError(f"The text tower does not fit its config: {', '.join(wrong[:5])}.")
    tokenizer = library.SimpleTokenizer(
        context_length=text.get("context_length", 77), **text.get("tokenizer_kwargs", {})
    )
    return model.eval(), tokenizer
