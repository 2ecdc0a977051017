"""`RescuePlan`: everything that decides what `quee rescue` measures."""

from dataclasses import dataclass
from typing import Self, cast

from quee_hf.build.recipe import LABEL_MATCHING
from quee_hf.levels import Level, check_level, is_integer_level
from quee_hf.ptq import PTQ_METHODS
from quee_hf.ptq.smoothquant import Smoothing, check_smoothing

FLOAT = "float"  # the control
PAPER_BUDGET = 0.87  # LRA-EE (arXiv:2605.26415), table 1, saves 13.4 % of the FLOPs


@dataclass(frozen=True)
class Regime:
    """How a network is computed.

    Args:
        method: One of `PTQ_METHODS`; `None` in full precision.
        smoothing: SmoothQuant's alpha, "search" or `None`.
    """

    method: str | None = None
    smoothing: Smoothing = None

    @property
    def name(self) -> str:
        """What it is called in results and file names: float, repq, torch_dynamic+0.5."""
        if self.method is None:
            return FLOAT
        return self.method if self.smoothing is None else f"{self.method}+{self.smoothing}"

    @classmethod
    def parse(cls, text: str, smoothing: Smoothing = None) -> Self:
        """Read a method and, after a plus, SmoothQuant's alpha.

        Args:
            text: Such as `repq` or `torch_dynamic+0.5`.
            smoothing: Where the text names none.

        Raises:
            ValueError: If there is no such method, or it is no alpha.

        Example:
            >>> Regime.parse("torch_dynamic+0.5")
            Regime(method='torch_dynamic', smoothing=0.5)
        """
        method, has_own, alpha = text.strip().partition("+")
        if method not in PTQ_METHODS:
            raise ValueError(f"`ptq` must name methods of {sorted(PTQ_METHODS)}, got {method!r}.")
        chosen = _read_alpha(alpha) if has_own else smoothing
        check_smoothing(chosen)
        return cls(method, chosen)


@dataclass(frozen=True, kw_only=True)
class RescuePlan:
    """What to measure, on what, and how.

    Args:
        model: Hub id or directory of a trained HF classifier with float weights.
        train: Images that the classifier may have seen: for heads, calibration and noise.
        validation: Images that it has not seen: for gates, thresholds and operating points.
        data: Test images, used for nothing else.
        ptq: Quantization methods, each as `Regime.parse` takes it; full precision is always measured, too.
        smoothing: SmoothQuant's alpha, "search" or `None`, for methods that name none.
        level: Bits of the quantized networks.
        exits: Blocks before the last after which images may leave, counted from 1; from the middle on if not
            given.
        budget: FLOPs that leaving early may take, relative to the whole network.
        num_seeds: How often heads and gates are trained anew.
        head_epochs: Most epochs for heads; they stop early.
        gate_epochs: Most epochs for gates; they stop early.
        num_train_images: How many of the training images to use, evenly spread; all if not given.
        calibration_images: How many of them set the ranges of quantization.
        class_embeddings: CLIP only: safetensors file with `class_embeddings`.
        class_names: Names of the classes, in the order of the labels; the model's or the data's if not given.
        logit_scale: CLIP only: natural logarithm of what multiplies the cosine.
        match_labels: "names" or "numbers", as in a build's recipe.
        skip_bad: Whether to leave out images that cannot be read.
        batch_size: Images per batch when the network runs; changes nothing but speed and memory.
        device: Where the network runs; heads and gates are trained on the CPU.

    Raises:
        ValueError: If a value is impossible whatever the model and the data are.
    """

    model: str
    train: str
    validation: str
    data: str
    ptq: tuple[str, ...] = ("torch_dynamic", "repq")
    smoothing: Smoothing = None
    level: Level = 8
    exits: tuple[int, ...] | None = None
    budget: float = PAPER_BUDGET
    num_seeds: int = 3
    head_epochs: int = 20
    gate_epochs: int = 40
    num_train_images: int | None = None
    calibration_images: int = 128
    class_embeddings: str | None = None
    class_names: tuple[str, ...] | None = None
    logit_scale: float | None = None
    match_labels: str = "names"
    skip_bad: bool = False
    batch_size: int = 64
    device: str = "auto"

    def __post_init__(self) -> None:
        """Check each value by itself."""
        for name in ("num_seeds", "head_epochs", "gate_epochs", "num_train_images", "calibration_images"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"`{name}` must be at least 1, got {value}.")
        if self.batch_size < 1:
            raise ValueError(f"`batch_size` must be at least 1, got {self.batch_size}.")
        if not 0 < self.budget <= 1:
            raise ValueError(f"`budget` must be above 0 and at most 1, got {self.budget}.")
        check_level(self.level)
        if not is_integer_level(self.level):
            raise ValueError(f"`level` must be bits, 2 to 8, got {self.level!r}: float is measured anyway.")
        if self.match_labels not in LABEL_MATCHING:
            raise ValueError(
                f"`match_labels` must be one of {list(LABEL_MATCHING)}, got {self.match_labels!r}."
            )
        names = [regime.name for regime in self.regimes]
        if len(set(names)) < len(names) or len(names) == 1:
            raise ValueError(
                f"`ptq` must name at least one method and none of them twice, got {list(self.ptq)}."
            )

    @property
    def regimes(self) -> tuple[Regime, ...]:
        """Full precision, then the quantized ones."""
        return (Regime(), *(Regime.parse(text, self.smoothing) for text in self.ptq))


def _read_alpha(text: str) -> Smoothing:
    """Read a number, or leave a word for `check_smoothing` to judge."""
    try:
        return float(text)
    except ValueError:
        return cast(Smoothing, text)
