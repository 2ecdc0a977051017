"""`FloatModel`: what is to be quantized, known without its weights and then loaded with them."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub.errors import StrictDataclassError
from transformers import AutoImageProcessor, PreTrainedConfig

from quee_hf.build.quantization_plan import QuantizationPlan
from quee_hf.build.rebuild import rebuild
from quee_hf.build.recipe import Recipe
from quee_hf.build.source import Source, complete_exits, is_local, open_source
from quee_hf.configuration import QuEEConfig
from quee_hf.errors import BadDatasetError, QuEEError
from quee_hf.modeling import QuEEForImageClassification
from quee_hf.schemes import check_kept
from quee_hf.values import without


@dataclass(frozen=True)
class FloatModel:
    """A classifier with float weights.

    Args:
        class_names: Its own; `None` if it has none but placeholders.
        num_classes: How many classes it tells apart.
        num_blocks: Of its backbone.
        image_processor: Makes its input.
        wrapping: What is new if it is an HF classifier: fields of `QuEEConfig`.
        changes: What changes if it is a QuEE model already: fields of its config.
    """

    class_names: list[str] | None
    num_classes: int
    num_blocks: int
    image_processor: Any
    wrapping: dict[str, Any] | None = None
    changes: dict[str, Any] | None = None


def check_data_paths(plan: QuantizationPlan) -> None:
    """Refuse images that are not there, before anything is loaded.

    Raises:
        BadDatasetError: If a path does not exist; what looks like a dataset on the Hub is not looked up.
    """
    for option, source in (("images", plan.images), ("data", plan.data)):
        if source is None or Path(source).expanduser().exists():
            continue
        for part in (part.strip() for part in source.split(",")):
            if is_local(part.partition(":")[0]) and not Path(part).expanduser().exists():
                raise BadDatasetError(f"`{option}`: {part or 'an empty name'} does not exist.")


def open_float_model(plan: QuantizationPlan) -> FloatModel:
    """Read the config and the image processor of a plan's model, and check the plan against them.

    Raises:
        QuEEError: If the model does not exist or has no image processor.
        UnsupportedBackboneError: If it is of an unsupported type.
        ValueError: If it is quantized already, or the plan does not fit it.
    """
    try:
        fields, _ = PreTrainedConfig.get_config_dict(plan.model)
    except (OSError, ValueError):
        fields = {}  # `open_source` says what is wrong
    is_wrapped = fields.get("model_type") == QuEEConfig.model_type
    opened = _open_wrapped(plan) if is_wrapped else _open_classifier(plan)
    check_kept(plan.keep, opened.num_blocks)
    return opened


def load_float_model(
    plan: QuantizationPlan, opened: FloatModel, class_names: list[str]
) -> QuEEForImageClassification:
    """Load the weights, with the plan's levels and with one exit if there were none, on the CPU."""
    names = dict(enumerate(class_names))
    if opened.wrapping is not None:
        return QuEEForImageClassification.from_backbone(
            plan.model, class_embeddings=plan.class_embeddings, id2label=names, **opened.wrapping
        )
    labels = {"id2label": names, "label2id": {name: index for index, name in names.items()}}
    loaded = QuEEForImageClassification.from_pretrained(plan.model)
    return rebuild(loaded, **(opened.changes or {}), **labels)


def _open_classifier(plan: QuantizationPlan) -> FloatModel:
    # A build's recipe for the same model: its checks are those that are needed here.
    recipe = Recipe(
        model=plan.model,
        train=plan.images,
        validation=plan.data or plan.images,
        exits=(1,),
        levels=plan.candidates,
        class_embeddings=plan.class_embeddings,
        class_names=plan.class_names,
    )
    source: Source = open_source(complete_exits(recipe))
    num_blocks, (height, width) = source.backbone_config.num_hidden_layers, source.image_size
    wrapping = {
        "exit_blocks": [num_blocks],
        "levels": list(plan.candidates),
        "image_size": height if height == width else [height, width],
    }
    return FloatModel(
        source.class_names, source.num_classes, num_blocks, source.image_processor, wrapping=wrapping
    )


def _open_wrapped(plan: QuantizationPlan) -> FloatModel:
    try:
        config = QuEEConfig.from_pretrained(plan.model)
        processor = AutoImageProcessor.from_pretrained(plan.model, backend="pil")
    except OSError as error:
        raise QuEEError(f"`model`: cannot load {plan.model}: {str(error).splitlines()[0]}") from error
    if config.quantization is not None:
        raise ValueError(f"`model`: {plan.model} is quantized already; start from its float model.")
    if plan.class_embeddings is not None:
        raise ValueError(f"`class_embeddings` are for CLIP models; {plan.model} has its classes already.")
    if plan.class_names is not None and len(plan.class_names) != config.num_classes:
        raise ValueError(
            f"{len(plan.class_names)} class names, but the model has {config.num_classes} classes."
        )
    # What was measured or trained for other levels does not hold any more.
    changes: dict[str, Any] = {
        "levels": list(plan.candidates),
        "max_paths": max(config.max_paths, config.num_exits),
        "cost_model": "bitops" if config.cost_model == "latency" else config.cost_model,
        "record": without(config.record, "profile") or None,
        **dict.fromkeys(("cost_table", "cost_lambda", "operating_points", "certificates")),
    }
    try:
        QuEEConfig.from_dict({**config.to_dict(), **changes})
    except StrictDataclassError as error:
        raise ValueError(str(error.__cause__ or error)) from error
    labels: Any = config.id2label
    names = [str(labels[index]) for index in range(config.num_classes)]
    return FloatModel(names, len(names), config.backbone.num_hidden_layers, processor, changes=changes)
