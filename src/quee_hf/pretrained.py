"""`QuEEPreTrainedModel`: loading and saving, checked more strictly than transformers does."""

import copy
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self, cast

import torch
from huggingface_hub import CommitInfo
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers import initialization as init
from transformers.integrations import is_deepspeed_zero3_enabled, is_fsdp_enabled
from transformers.models.clip.modeling_clip import CLIPVisionEmbeddings

from quee_hf.checkpoints import (
    HUB_OPTIONS,
    atomic_directory,
    check_savable,
    read_weights,
    weight_files,
)
from quee_hf.checksums import check_cached_config, checked_files, seal_weights
from quee_hf.configuration import QuEEConfig
from quee_hf.errors import IncompatibleCheckpointError, QuEEError
from quee_hf.gates.error_predictor import ErrorPredictor
from quee_hf.hub.card import CARD_FILE, PICTURE_FILE, has_own_card, say_kept, write_card
from quee_hf.hub.publish import publish_folder
from quee_hf.hub.remote_code import AUTO_MAP, write_remote_code
from quee_hf.quantization.linear import narrow_weights
from quee_hf.saved_config import DAMAGE

_PUSH_OPTIONS = (
    "repo_id",
    "commit_message",
    "commit_description",
    "private",
    "create_pr",
    "revision",
    "tags",
    "token",
)

# Options of `from_pretrained` that have no say in where weights are placed, and as what.
_WITHOUT_EFFECT = {*HUB_OPTIONS, "trust_remote_code", "use_safetensors", "_commit_hash", "_from_auto"}


class QuEEPreTrainedModel(PreTrainedModel):
    """Loading, saving and initialisation, checked more strictly than transformers does."""

    config_class = QuEEConfig
    # Must start no key of the state dict: transformers strips or adds it where it matches keys.
    base_model_prefix = "quee"
    main_input_name = "pixel_values"
    source_folder: Path | None = None  # where the files are that the weights were loaded from
    input_modalities = ["image"]  # noqa: RUF012 - the type transformers declares
    _no_split_modules = ["Block"]  # noqa: RUF012

    def _init_weights(self, module: nn.Module) -> None:
        """Rebuild what files do not hold; modules initialise their own weights when they are made."""
        if isinstance(module, CLIPVisionEmbeddings):
            init.copy_(cast(Tensor, module.position_ids), torch.arange(module.num_positions).expand(1, -1))
        elif isinstance(module, ErrorPredictor):
            init.copy_(module.path_codes, torch.tensor(module.code_rows))

    def _rebuild_buffers(self) -> None:
        """Rebuild the buffers that files do not hold, on the CPU."""
        for module in self.modules():
            if names := module._non_persistent_buffers_set:
                for name in names:
                    setattr(module, name, torch.empty_like(module.get_buffer(name), device="cpu"))
                self._init_weights(module)

    @classmethod
    def register_for_auto_class(cls, auto_class: str = "AutoModel") -> None:
        """Do nothing: after it, every save would copy this package's source beside the weights."""

    @classmethod
    def from_pretrained(  # type: ignore[override]  # all but the source goes through as keywords
        cls, pretrained_model_name_or_path: str | os.PathLike[str], *model_args: Any, **kwargs: Any
    ) -> Any:
        """Load a saved model, from a directory or the Hub; options as in transformers.

        Raises:
            IncompatibleCheckpointError: If a file is damaged, the weights do not fit the config exactly or
                are not finite, or a later version wrote them.
            ValueError: If it is a model of another type.
        """
        source = pretrained_model_name_or_path
        if isinstance(kwargs.get("dtype"), str) and kwargs["dtype"] == "auto":
            del kwargs["dtype"]  # the saved one, which is the default; the config would take it for a dtype
        hub_options = {name: kwargs[name] for name in HUB_OPTIONS if name in kwargs}
        if (config := kwargs.pop("config", None)) is None:
            try:
                config, kwargs = QuEEConfig.from_pretrained(source, return_unused_kwargs=True, **kwargs)
            except OSError:
                check_cached_config(source, **hub_options)
                raise
        files, is_plain = weight_files(source, **hub_options), not model_args and _is_plain(config, kwargs)
        with checked_files(files):
            model = cls._without_memory(config)
            expected = model.state_dict()
            weights = read_weights(files, expected)  # all are checked, whoever loads them
            if is_plain:
                # transformers takes a tenth of a millisecond for each tensor.
                model.load_state_dict(weights, assign=True)
                model._rebuild_buffers()
                model.config.name_or_path = model.name_or_path = str(source)
                model.train(False)
                model.source_folder = Path(files[0]).parent
                model.freeze_backbone()
                return model
            del weights, model
            kwargs = {**kwargs, **hub_options, "config": config, "use_safetensors": True}
            loaded: Any = super().from_pretrained(source, *model_args, **kwargs)
        made = loaded[0] if isinstance(loaded, tuple) else loaded
        made._settle(Path(files[0]).parent)
        return loaded

    @classmethod
    def _without_memory(cls, config: QuEEConfig) -> Self:
        """Make a model of which only shapes matter: weights are assigned, or transformers makes another."""
        try:
            with torch.device("meta"):
                return cls(copy.deepcopy(config))
        except QuEEError:
            raise
        except (RuntimeError, MemoryError, *DAMAGE) as error:
            raise IncompatibleCheckpointError(
                f"No model can be made of what the config describes: {error!r}."
            ) from error

    def _settle(self, folder: Path) -> None:
        """Take back what transformers does to all float parameters: they are trainable, and of one kind."""
        self.source_folder = folder
        narrow_weights(self)
        self.freeze_backbone()

    def freeze_backbone(self) -> None:
        """Make only what training may change trainable; subclasses say what that is."""
        self.requires_grad_(False)

    def save_pretrained(  # type: ignore[override]  # all but the directory are keywords
        self, save_directory: str | os.PathLike[str], *, push_to_hub: bool = False, **kwargs: Any
    ) -> None:
        """Save config and weights; `save_directory` changes only once all files are written.

        Args:
            save_directory: Where to; made if it does not exist.
            push_to_hub: Whether to push the model to the Hub afterwards.
            **kwargs: As in transformers: `max_shard_size`, and for a push `repo_id`, `token`, ...

        Raises:
            ValueError: If a weight is float64, NaN or infinite, which loading would refuse.
        """
        if not kwargs.pop("is_main_process", True):
            return
        hub_options = {name: kwargs.pop(name) for name in _PUSH_OPTIONS if push_to_hub and name in kwargs}
        if kwargs.get("variant") is not None:
            raise ValueError(f"QuEE models have no variants, got `variant` {kwargs['variant']!r}.")
        check_savable(kwargs.get("state_dict") or self.state_dict())
        target = Path(save_directory)
        with atomic_directory(target) as staging:
            self._write_files(staging, **kwargs)
            if has_own_card(target):
                say_kept(str(target))
                (staging / CARD_FILE).unlink()
            elif not self.config.operating_points:
                (target / PICTURE_FILE).unlink(missing_ok=True)  # of an earlier save
        if push_to_hub:
            repo_id = hub_options.pop("repo_id", target.resolve().name)
            publish_folder(target, repo_id, **hub_options)

    def _write_files(self, folder: Path, **kwargs: Any) -> None:
        self.config.auto_map = dict(AUTO_MAP)
        super().save_pretrained(folder, **kwargs)
        seal_weights(folder.glob("*.safetensors"))
        write_remote_code(folder)
        write_card(folder, cast(QuEEConfig, self.config))

    def push_to_hub(  # type: ignore[override]  # noqa: PLR0913 - transformers' arguments; it returns a commit
        self,
        repo_id: str,
        *,
        commit_message: str | None = None,
        commit_description: str | None = None,
        private: bool | None = None,
        token: bool | str | None = None,
        revision: str | None = None,
        create_pr: bool = False,
        max_shard_size: int | str = "50GB",
        tags: Sequence[str] = (),
    ) -> CommitInfo:
        """Push config, weights and card to the Hub, in one commit; arguments as in transformers.

        A card there that somebody wrote, rather than quee_hf, stays. The image processor is pushed by its own
        `push_to_hub`, or with all other files by `quee push`.

        Returns:
            The commit.

        Raises:
            ValueError: If a weight is float64, NaN or infinite, which loading would refuse.
        """
        check_savable(self.state_dict())
        with tempfile.TemporaryDirectory() as folder:
            self._write_files(Path(folder), max_shard_size=max_shard_size)
            return publish_folder(
                Path(folder),
                repo_id,
                tags=tags,
                private=private,
                token=token,
                commit_message=commit_message,
                commit_description=commit_description,
                revision=revision,
                create_pr=create_pr,
            )


def _is_plain(config: PreTrainedConfig, options: Mapping[str, Any]) -> bool:
    """Tell whether a model is loaded as it is, float32 on the CPU, and transformers need not see to it."""
    others = {name: value for name, value in options.items() if name not in _WITHOUT_EFFECT}
    kinds = {others.pop("dtype", None), config.dtype, torch.get_default_dtype()}
    return (
        kinds <= {None, "auto", torch.float32}
        and torch.get_default_device().type == "cpu"
        and all(value is None or value == {} for value in others.values())
        and not is_deepspeed_zero3_enabled()
        and not is_fsdp_enabled()
    )
