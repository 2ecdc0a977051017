"""`QuEEConfig`: everything needed to rebuild a QuEE model from its weights."""

import math
from collections.abc import Sequence
from typing import Any, cast

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, PreTrainedConfig
from transformers.configuration_utils import SubConfigSpec

from quee_hf.levels import Level, check_levels
from quee_hf.measurements import Profile, check_cost_table, check_measurements
from quee_hf.saved_config import FORMAT_VERSION, OLDEST_FORMAT_VERSION, SavedConfig
from quee_hf.schemes import QuantizationScheme, check_kept
from quee_hf.values import is_from_0_to, is_number, without

HEAD_TYPES = ("linear", "mlp", "attention", "ssa", "cls")
GATE_TYPES = {
    "error_predictor": "history",
    "lra": "spatial",
}  # and the features each has if none are named
GATE_FEATURES = ("confidence", "history", "probabilities", "spatial")
COST_MODELS = ("bitops", "flops", "latency")
FIRST_LEVELS = ("highest", "any")
TRAINABLE_PARTS = ("heads", "gates")
_FLOATS = ("float32", "float16", "bfloat16", "float64")
# Far more than any model has: what a damaged config asks for must not take hours or all memory to refuse.
MOST_BLOCKS, MOST_PATHS = 1000, 10_000
# What transformers itself passes to or stores in any config beside the declared fields.
_FOREIGN_FIELDS = {
    "_attn_implementation_internal",
    "_commit_hash",
    "_experts_implementation_internal",
    "_name_or_path",
    "attn_implementation",
    "auto_map",
    "experts_implementation",
    "model_type",
    "name_or_path",
    "num_labels",
    "output_attentions",
    "torch_dtype",
    "use_cache",
}


@strict
class QuEEConfig(SavedConfig):
    """Describe a backbone, where it may exit, at which levels, and how it decides.

    Args:
        backbone_config: Config of the wrapped ViT, DeiT, DINOv2, T2T-ViT or CLIP vision model.
        exit_blocks: Blocks that are followed by an exit, counted from 1, ascending; the last must be the
            backbone's last block, whose exit is the backbone's own head.
        levels: How a segment may be computed, from most to least exact: bit-widths 2 to 8, "bf16", "fp32".
        head_type: "linear" (the backbone's own kind of head), "mlp" (two layers on the tokens that its own
            head reads), "attention" (two layers on what learned queries find among all tokens), "ssa" (two
            layers on the mean patch token, LRA-EE's) or "cls" (two layers on the class token).
        head_hidden_size: Width of the hidden layer, of heads that have one.
        gate_type: Which gate decides: "error_predictor" (QuEE's: predicts the error of every path) or "lra"
            (LRA-EE's: leaves at the first exit that is sure enough, at the most exact level).
        gate_features: What a gate knows of an image: "confidence" (how sure this exit and the one before
            are), "history" (how sure all exits so far are, and which agree), "probabilities" (all class
            probabilities of this exit and the one before, QuEE's choice) or "spatial" (confidence, margin
            and spatial variance, LRA-EE's choice). `None` takes what suits the gate's type.
        gate_hidden_size: Width of a gate's hidden layer.
        path_embedding_size: Size to which a path's code is embedded in a gate.
        max_paths: Most paths that gates score; more are sampled down to this many.
        path_seed: Seed of that sampling.
        monotone_levels: Whether levels may only become less exact along a path (the paper's choice).
        first_level: "highest": the first segment always runs at the most exact level (the paper's choice);
            "any": gate 0 picks it from the paths' mean errors, as nothing is known of the image yet.
        quantization: How the integer levels were made, as `quee_hf.schemes.QuantizationScheme` describes it;
            `None` until the model is quantized.
        cost_model: "bitops" (FLOPs x bits over blocks), "flops", or "latency" (from `cost_table`).
        cost_table: One row per segment, one column per level, in any one unit; used by "latency".
            `quee_hf.profile` makes one, in milliseconds.
        operating_points: Measured `{"cost_lambda", "cost", "accuracy", "num_images", "cost_model"}`, and
            "latency_ms" if there is a profile; ascending in lambda.
        certificates: As `quee_hf.certify` makes them; `None` when nothing has been certified.
        cost_lambda: Default operating point; `None` runs every image through the whole network at the
            most exact level.
        logit_scale: Multiplies cosine logits; CLIP models have one, and models with a classifier `None`.
        trained_parts: Which of "heads" and "gates" have been trained.
        record: How the model came about, for its card: "base_model" (Hub id), "license" (as the Hub spells
            it), "roles" (which images were used for what), "measured", "profile" (how long parts take) and
            "drift_reference" (what routing makes of validation images); `None` if nothing is known.
        image_size: Side of the square input in pixels; `None` takes the backbone's.
        format_version: Version of the file layout that wrote this config.

    Raises:
        StrictDataclassError: If a field has the wrong type or the fields contradict each other.

    Example:
        >>> config = QuEEConfig(exit_blocks=[4, 8, 12], levels=[8, 6])
        >>> config.num_exits, config.segments
        (3, [(0, 4), (4, 8), (8, 12)])
    """

    model_type = "quee"
    sub_configs_defaults = {"backbone_config": SubConfigSpec(config_class=AutoConfig, model_type="vit")}  # noqa: RUF012

    backbone_config: dict[str, Any] | PreTrainedConfig | None = None
    exit_blocks: list[int] | tuple[int, ...] = (4, 8, 12)
    levels: list[int | str] | tuple[int | str, ...] = (8, 6)
    head_type: str = "attention"
    head_hidden_size: int = 256
    gate_type: str = "error_predictor"
    gate_features: str | None = None
    gate_hidden_size: int = 64
    path_embedding_size: int = 8
    max_paths: int = 50
    path_seed: int = 0
    monotone_levels: bool = True
    first_level: str = "highest"
    quantization: dict[str, Any] | None = None
    cost_model: str = "bitops"
    cost_table: list[list[float]] | None = None
    operating_points: list[dict[str, Any]] | None = None
    certificates: list[dict[str, Any]] | None = None
    cost_lambda: float | int | None = None
    logit_scale: float | None = None
    trained_parts: list[str] | tuple[str, ...] = ()
    record: dict[str, Any] | None = None
    image_size: int | list[int] | tuple[int, ...] | None = None
    format_version: int = FORMAT_VERSION

    def __post_init__(self, **kwargs: Any) -> None:
        """Refuse unknown fields and give the image size its default, which is the backbone's."""
        if unknown := sorted(set(kwargs) - _FOREIGN_FIELDS):
            known = sorted(name for name in type(self).__annotations__ if name != "model_type")
            raise ValueError(f"QuEEConfig has no field {unknown}; its fields are {known}.")
        super().__post_init__(**kwargs)  # type: ignore[no-untyped-call]
        if self.image_size is None:
            self.image_size = getattr(self.backbone_config, "image_size", None)
        if self.gate_features is None:
            self.gate_features = GATE_TYPES.get(self.gate_type)

    @classmethod
    def register_for_auto_class(cls, auto_class: str = "AutoConfig") -> None:
        """Do nothing: after it, every save would copy this package's source beside the weights."""

    @property
    def backbone(self) -> PreTrainedConfig:
        """The backbone's config, which is an object from construction on."""
        return cast(PreTrainedConfig, self.backbone_config)

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return int(cast(int, self.num_labels))

    @property
    def class_names(self) -> list[str]:
        """The names of the classes, in their order."""
        names: Any = self.id2label
        return [str(names[index]) for index in range(self.num_classes)]

    @property
    def num_exits(self) -> int:
        """Number of exits, the last one included."""
        return len(self.exit_blocks)

    @property
    def segments(self) -> list[tuple[int, int]]:
        """Half-open ranges of blocks, counted from 0, one per exit."""
        ends = list(self.exit_blocks)
        return list(zip([0, *ends[:-1]], ends, strict=True))

    @property
    def scheme(self) -> QuantizationScheme | None:
        """How the model was quantized; `None` before it is."""
        return None if self.quantization is None else QuantizationScheme.from_dict(self.quantization)

    @property
    def profile(self) -> Profile | None:
        """How long the model's parts take, where that was measured; `None` if it was not."""
        return (self.record or {}).get("profile")

    @property
    def level_list(self) -> list[Level]:
        """The levels as a list, whatever sequence the config was made or loaded with."""
        return list(self.levels)

    def forget_measurements(self) -> None:
        """Drop what depends on weights or costs that have changed: operating points, the default lambda."""
        self.operating_points = self.certificates = self.cost_lambda = None
        self.record = without(self.record, "measured", "drift_reference") or None

    def forget_profile(self) -> None:
        """Drop how long parts take, and what goes by that: the cost table, a cost model of "latency"."""
        self.record, self.cost_table = without(self.record, "profile") or None, None
        self.operating_points = [
            without(point, "latency_ms") for point in self.operating_points or ()
        ] or None
        if self.cost_model == "latency":
            self.cost_model = "bitops"
            self.forget_measurements()

    def keep_record(self, name: str, value: Any) -> None:
        """Keep in `record` something of how the model came about, in place of what is there by that name."""
        self.record = {**(self.record or {}), name: value}

    def forget_roles(self, names: Sequence[str]) -> None:
        """Drop which images played some roles: others have, or will."""
        record = dict(self.record or {})
        kept = [role for role in record.pop("roles", ()) if role["role"] not in names]
        self.record = {**record, **({"roles": kept} if kept else {})} or None

    def validate_format(self) -> None:
        """The format is one that this version reads."""
        if not OLDEST_FORMAT_VERSION <= self.format_version <= FORMAT_VERSION:
            raise ValueError(
                f"`format_version` must be {OLDEST_FORMAT_VERSION} to {FORMAT_VERSION},"
                f" got {self.format_version}."
            )

    def validate_exit_blocks(self) -> None:
        """Exits ascend, exist, and end at the last block."""
        blocks = list(self.exit_blocks)
        num_blocks = getattr(self.backbone_config, "num_hidden_layers", None)
        if not blocks or blocks != sorted(set(blocks)) or blocks[0] < 1:
            raise ValueError(f"`exit_blocks` must ascend and count from 1, got {blocks}.")
        if blocks[-1] > MOST_BLOCKS:
            raise ValueError(f"There may be {MOST_BLOCKS} blocks at most, got `exit_blocks` {blocks}.")
        if num_blocks is not None and blocks[-1] != num_blocks:
            raise ValueError(
                f"`exit_blocks` must end at the backbone's last block, {num_blocks}, got {blocks}: the last"
                " exit is the backbone's own head."
            )

    def validate_levels(self) -> None:
        """Levels exist and descend in precision."""
        check_levels(self.levels)

    def validate_choices(self) -> None:
        """Fields with a fixed set of values hold one of them."""
        choices = {
            "head_type": HEAD_TYPES,
            "gate_type": GATE_TYPES,
            "gate_features": GATE_FEATURES,
            "cost_model": COST_MODELS,
            "first_level": FIRST_LEVELS,
        }
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"`{name}` must be one of {list(allowed)}, got {getattr(self, name)!r}.")
        if unknown := set(self.trained_parts) - set(TRAINABLE_PARTS):
            raise ValueError(f"`trained_parts` may hold {list(TRAINABLE_PARTS)}, got {sorted(unknown)}.")

    def validate_sizes(self) -> None:
        """Sizes are positive, and every path prefix of the longest path fits in `max_paths`."""
        for name in ("head_hidden_size", "gate_hidden_size", "path_embedding_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}` must be at least 1, got {getattr(self, name)}.")
        if not self.num_exits <= self.max_paths <= MOST_PATHS:
            raise ValueError(
                f"`max_paths` must be at least the number of exits, {self.num_exits}, and at most"
                f" {MOST_PATHS}, got {self.max_paths}."
            )

    def validate_dtype(self) -> None:
        """Weights are floats."""
        if self.dtype is not None and str(self.dtype).removeprefix("torch.") not in _FLOATS:
            raise ValueError(f"`dtype` must be one of {list(_FLOATS)}, got {self.dtype!r}.")

    def validate_records(self) -> None:
        """The image size is positive, and what was measured or done is described as it is written."""
        size = self.image_size
        if size is not None and not all(side >= 1 for side in ([size] if isinstance(size, int) else size)):
            raise ValueError(f"`image_size` must be at least 1, got {size}.")
        if self.scheme is not None:
            check_kept(self.scheme.kept, getattr(self.backbone_config, "num_hidden_layers", None))
        check_measurements(self, self.num_exits, len(self.levels))

    def validate_logit_scale(self) -> None:
        """What multiplies cosines is positive."""
        scale = self.logit_scale
        if scale is not None and not (is_number(scale) and scale > 0):
            raise ValueError(f"`logit_scale` must be positive and finite, got {scale}.")

    def validate_costs(self) -> None:
        """The cost table fits the segments and levels, and lambda is not negative."""
        value = self.cost_lambda
        if value is not None and not is_from_0_to(value, math.inf):
            raise ValueError(f"`cost_lambda` must be at least 0, got {value}.")
        if self.cost_table is not None:
            check_cost_table(self.cost_table, self.num_exits, len(self.levels))
        elif self.cost_model == "latency":
            raise ValueError("`cost_model` 'latency' needs a `cost_table`; `quee_hf.profile` measures one.")
