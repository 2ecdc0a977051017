"""`Recipe`: everything that decides what a build makes."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from quee_hf.levels import Level, is_integer_level
from quee_hf.ptq.smoothquant import Smoothing
from quee_hf.schemes import WEIGHT_SHARING, check_kept

GATE_TARGETS = ("outcome", "cluster")
DISTILLATIONS = ("none", "soft", "cosine")
LABEL_MATCHING = ("names", "numbers")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What to build, from what, and how.

    Args:
        model: Hub id or directory of a trained HF classifier.
        train: Images that the backbone may have seen, as `load_image_dataset` takes them.
        validation: Images that it has not seen.
        exits: Blocks with an exit, counted from 1, ascending, the last one the backbone's last.
        levels: From most to least exact.
        class_embeddings: CLIP only: safetensors file with `class_embeddings`.
        class_names: Names of the classes, in the order of the labels; the model's or the data's if not given.
        logit_scale: CLIP only: natural logarithm of what multiplies the cosine.
        head: "linear", "mlp", "attention", "ssa" or "cls".
        distillation: How heads are drawn to the full-precision network's last exit, too: "none", "soft" or
            "cosine".
        head_views: How often heads look at a training image: once as it is, then cropped and mirrored.
        first_level: "highest" or "any".
        max_paths: Most paths that gates choose from.
        calibration_images: Images that set the ranges of quantization.
        ptq: Name of the quantization method.
        ptq_options: Its options.
        smoothing: SmoothQuant's alpha, "search" to choose it for each layer, or `None`.
        weight_sharing: "independent" or "nested".
        keep: Products that run at a level of their own: `{"9.fc2": 8}`.
        gate: "error_predictor" or "lra".
        gate_features: What gates see: "confidence", "history", "probabilities" or "spatial"; what suits the
            gate if not given.
        gate_targets: "outcome" or "cluster".
        num_clusters: Clusters per path; chosen by their error on held-out images if not given.
        head_epochs: Most epochs of training the exit heads.
        gate_epochs: Most epochs of training the gates.
        gate_fraction: Share of the validation images that gates are trained on; the others measure.
        max_accuracy_drop: Accuracy that the default operating point may lose.
        match_labels: "names": the data's class names must be the model's; "numbers": labels are taken as they
            are.
        skip_bad: Whether to leave out images that cannot be read.
        seed: Of every random choice.
        batch_size: Images per batch when the network runs; changes nothing but speed and memory.
        device: Where the network runs: "auto", "cpu", "cuda", ...; heads and gates are trained on the CPU.

    Raises:
        ValueError: If a value is impossible whatever the model and the data are.
    """

    model: str
    train: str
    validation: str
    exits: tuple[int, ...]
    levels: tuple[Level, ...]
    class_embeddings: str | None = None
    class_names: tuple[str, ...] | None = None
    logit_scale: float | None = None
    head: str = "attention"
    distillation: str = "soft"
    head_views: int = 1
    first_level: str = "highest"
    max_paths: int = 50
    calibration_images: int = 128
    ptq: str = "repq"
    ptq_options: Mapping[str, Any] = field(default_factory=dict)
    smoothing: Smoothing = None
    weight_sharing: str = "independent"
    keep: Mapping[str, Level] = field(default_factory=dict)
    gate: str = "error_predictor"
    gate_features: str | None = None
    gate_targets: str = "outcome"
    num_clusters: int | None = None
    head_epochs: int = 20
    gate_epochs: int = 60
    gate_fraction: float = 0.7
    max_accuracy_drop: float = 0.01
    match_labels: str = "names"
    skip_bad: bool = False
    seed: int = 0
    batch_size: int = 64
    device: str = "auto"

    def __post_init__(self) -> None:
        """Check each value by itself."""
        counts = ("head_views", "calibration_images", "head_epochs", "gate_epochs", "batch_size")
        for name in (*counts, "num_clusters"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"`{name}` must be at least 1, got {value}.")
        if not 0 < self.gate_fraction < 1:
            raise ValueError(f"`gate_fraction` must be between 0 and 1, got {self.gate_fraction}.")
        if not 0 <= self.max_accuracy_drop <= 1:
            raise ValueError(f"`max_accuracy_drop` must be from 0 to 1, got {self.max_accuracy_drop}.")
        if not 0 <= self.seed < 2**32:
            raise ValueError(f"`seed` must be from 0 to 2**32 - 1, got {self.seed}.")
        if self.logit_scale is not None and not math.isfinite(self.logit_scale):
            raise ValueError(f"`logit_scale` must be finite, got {self.logit_scale}.")
        _check_choice("distillation", self.distillation, DISTILLATIONS)
        _check_choice("gate_targets", self.gate_targets, GATE_TARGETS)
        _check_choice("match_labels", self.match_labels, LABEL_MATCHING)
        _check_choice("weight_sharing", self.weight_sharing, WEIGHT_SHARING)
        check_kept(self.keep, self.exits[-1] if self.exits else None)
        if self.num_clusters is not None and self.gate_targets != "cluster":
            raise ValueError("`num_clusters` has a meaning with `gate_targets` 'cluster' only.")

    @property
    def is_quantized(self) -> bool:
        """Whether any level is a bit-width."""
        return any(is_integer_level(level) for level in self.levels)

    def as_dict(self) -> dict[str, Any]:
        """Return the recipe with lists for tuples, fit for YAML and JSON."""
        return {name: _plain(value) for name, value in asdict(self).items()}

    def pick(self, names: Sequence[str]) -> dict[str, Any]:
        """Return some of its fields and properties, fit for JSON."""
        known = {item.name for item in fields(self)} | {"is_quantized"}
        if unknown := set(names) - known:
            raise ValueError(f"A recipe has no field {sorted(unknown)}.")
        return {name: _plain(getattr(self, name)) for name in names}


def _plain(value: object) -> object:
    return list(value) if isinstance(value, tuple) else value


def _check_choice(name: str, value: str, allowed: Sequence[str]) -> None:
    if value not in allowed:
        raise ValueError(f"`{name}` must be one of {list(allowed)}, got {value!r}.")
