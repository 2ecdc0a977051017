"""How `transformers.pipeline` comes to use our pipeline for QuEE models."""

import functools
import warnings
from typing import Any

from transformers import ImageClassificationPipeline
from transformers.pipelines import PIPELINE_REGISTRY

from quee_hf.configuration import QuEEConfig
from quee_hf.pipeline import QuEEImageClassificationPipeline

_TASK = "image-classification"


class ImageClassificationDispatch(ImageClassificationPipeline):
    """Makes the pipeline that fits the model: ours for a QuEE model, the stock one for any other.

    `transformers.pipeline` reads from the class what to load, before it knows the model's type.
    """

    def __new__(cls, model: Any, *args: Any, **kwargs: Any) -> ImageClassificationPipeline:  # type: ignore[misc]
        """Return an instance of the class that fits. It is not this one, so `__init__` is not run again."""
        is_quee = getattr(getattr(model, "config", None), "model_type", None) == QuEEConfig.model_type
        fitting = QuEEImageClassificationPipeline if is_quee else ImageClassificationPipeline
        return fitting(model, *args, **kwargs)  # type: ignore[no-untyped-call]


def register_pipeline() -> bool:
    """Let `pipeline("image-classification")` use `QuEEImageClassificationPipeline` for QuEE models.

    Other models keep the stock class, and no config is changed. Calling it again changes nothing.

    Returns:
        Whether it is in use. If another package has replaced the stock class, that is left alone, with a
        warning the first time.
    """
    # `PIPELINE_REGISTRY.register_pipeline` would give every model our class, and when one is saved write
    # `custom_pipelines` into its config, which then cannot be loaded without `trust_remote_code`.
    entry = PIPELINE_REGISTRY.supported_tasks[_TASK]
    owner = entry["impl"] if isinstance(entry["impl"], str) else _dotted_name(entry["impl"])
    ours = _dotted_name(ImageClassificationDispatch)
    if owner not in (ours, _dotted_name(ImageClassificationPipeline)):
        _warn_of_owner(owner)
        return False
    entry["impl"] = ours
    return True


def _dotted_name(kind: type) -> str:
    """Return a class's module and name, as transformers' table of tasks has them."""
    return f"{kind.__module__}.{kind.__qualname__}"


@functools.cache
def _warn_of_owner(owner: str) -> None:
    """Warn, once for each owner, that the task belongs to another package."""
    warnings.warn(
        f"pipeline('{_TASK}') already belongs to {owner}; for QuEE models, pass"
        " pipeline_class=quee_hf.pipeline.QuEEImageClassificationPipeline.",
        stacklevel=3,
    )
