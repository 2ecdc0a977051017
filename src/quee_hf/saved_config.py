"""`SavedConfig`: a config whose file may be of another version, of another model, or damaged."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from huggingface_hub.errors import StrictDataclassError
from transformers import PreTrainedConfig

from quee_hf.errors import IncompatibleCheckpointError, QuEEError

FORMAT_VERSION = 2
OLDEST_FORMAT_VERSION = 2  # 1, never released, had one tensor per level and range
# What JSON that is not what it should be makes code raise that reads it.
DAMAGE = (AttributeError, LookupError, TypeError, ValueError, ArithmeticError, RecursionError)


class SavedConfig(PreTrainedConfig):
    """A config that is read from a file with more care than transformers takes."""

    @classmethod
    def get_config_dict(cls, pretrained_model_name_or_path: Any, **kwargs: Any) -> Any:
        """Read what a file says.

        Raises:
            OSError: If there is none, or it is not JSON.
            IncompatibleCheckpointError: If it is other JSON than an object.
        """
        with _refusing_damage():
            found = super().get_config_dict(pretrained_model_name_or_path, **kwargs)
            if not isinstance(found[0], dict):
                raise TypeError(f"config.json must hold an object, got a {type(found[0]).__name__}.")
            return found

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """Build a config from a saved one.

        Raises:
            IncompatibleCheckpointError: If a later version wrote it, or it makes no sense.
            ValueError: If it describes a model of another type.
        """
        model_type = config_dict.get("model_type", cls.model_type)
        if model_type != cls.model_type:
            raise ValueError(
                f"This is a {model_type!r} model, not a QuEE model; wrap it with"
                " `QuEEForImageClassification.from_backbone`."
            )
        _check_version(config_dict.get("format_version", FORMAT_VERSION))
        with _refusing_damage():
            loaded: Any = super().from_dict(config_dict, **kwargs)
            # What `from_pretrained` is asked to override is set after the checks of construction.
            (loaded[0] if isinstance(loaded, tuple) else loaded).validate()
        return loaded


@contextmanager
def _refusing_damage() -> Iterator[None]:
    try:
        yield
    except QuEEError:
        raise
    except (StrictDataclassError, *DAMAGE) as error:
        cause = error.__cause__ if isinstance(error, StrictDataclassError) and error.__cause__ else error
        reason = str(cause) if isinstance(cause, ValueError | TypeError) else repr(cause)
        raise IncompatibleCheckpointError(f"The config describes no QuEE model: {reason}") from error


def _check_version(version: object) -> None:
    if isinstance(version, int) and version < OLDEST_FORMAT_VERSION:
        raise IncompatibleCheckpointError(
            f"The model was saved in format {version}; this quee_hf reads {OLDEST_FORMAT_VERSION} to"
            f" {FORMAT_VERSION}. Build it anew."
        )
    if isinstance(version, int) and version > FORMAT_VERSION:
        raise IncompatibleCheckpointError(
            f"The model was saved in format {version}; this quee_hf reads up to {FORMAT_VERSION}. Run"
            " `pip install -U quee-hf`."
        )
