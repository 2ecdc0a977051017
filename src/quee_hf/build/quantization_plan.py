"""`QuantizationPlan`: everything that decides what `quee quantize` makes."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from quee_hf.build.recipe import LABEL_MATCHING
from quee_hf.levels import Level, check_level, is_integer_level
from quee_hf.ptq import PTQ_METHODS
from quee_hf.ptq.method import PTQMethod
from quee_hf.ptq.smoothquant import Smoothing, check_smoothing
from quee_hf.quantize import DEFAULT_METHOD, make_method
from quee_hf.schemes import WEIGHT_SHARING, check_kept

# What to choose from if levels are to be chosen. At 2 bits no method leaves a usable network.
CANDIDATES: tuple[Level, ...] = (8, 7, 6, 5, 4, 3)
_TRUTH = {"true": True, "false": False}


@dataclass(frozen=True, kw_only=True)
class QuantizationPlan:
    """What to quantize, on what images, and how.

    Args:
        model: Hub id or directory of a trained HF classifier, or of a QuEE model with float weights.
        images: For calibration, as `load_image_dataset` takes them; their labels are not used.
        levels: From most to least exact, at least one of them an integer. `None` chooses among `CANDIDATES`
            by their accuracy on `data`, as `quee_hf.levels.choose_levels` has it.
        method: One of `quee_hf.ptq.PTQ_METHODS`.
        options: Of the method.
        smoothing: SmoothQuant's alpha, "search", or `None`.
        weight_sharing: "independent" or "nested".
        keep: Products that run at a level of their own: `{"9.fc2": 8}`.
        calibration_images: How many images to use.
        data: Labelled images to measure accuracy on; `None` measures none.
        limit: How many of them to use, evenly spread; all if not given.
        keep_within: Accuracy that the first chosen level may lose.
        max_drop: Accuracy that the other chosen levels may lose.
        class_embeddings: CLIP only: safetensors file with `class_embeddings`.
        class_names: Names of the classes, in the order of the labels; the model's or the data's if not given.
        match_labels: "names" or "numbers", as in a build's recipe.
        skip_bad: Whether to leave out images that cannot be read.
        seed: Of every random choice.
        batch_size: Images per batch when the network runs; changes nothing but speed and memory.
        device: Where the network runs: "auto", "cpu", "cuda", ...

    Raises:
        ValueError: If a value is impossible whatever the model and the data are.
    """

    model: str
    images: str
    levels: tuple[Level, ...] | None = (8, 7, 6)
    method: str = DEFAULT_METHOD
    options: Mapping[str, Any] = field(default_factory=dict)
    smoothing: Smoothing = None
    weight_sharing: str = "independent"
    keep: Mapping[str, Level] = field(default_factory=dict)
    calibration_images: int = 128
    data: str | None = None
    limit: int | None = None
    keep_within: float = 0.002
    max_drop: float = 0.02
    class_embeddings: str | None = None
    class_names: tuple[str, ...] | None = None
    match_labels: str = "names"
    skip_bad: bool = False
    seed: int = 0
    batch_size: int = 64
    device: str = "auto"

    def __post_init__(self) -> None:
        """Check each value by itself."""
        self._check_levels()
        self._check_numbers()
        self.make_method()
        check_smoothing(self.smoothing)
        check_kept(self.keep)
        for name, allowed in (("weight_sharing", WEIGHT_SHARING), ("match_labels", LABEL_MATCHING)):
            if getattr(self, name) not in allowed:
                raise ValueError(f"`{name}` must be one of {list(allowed)}, got {getattr(self, name)!r}.")

    @property
    def candidates(self) -> tuple[Level, ...]:
        """The levels to make; some are dropped again if they are to be chosen."""
        return CANDIDATES if self.levels is None else self.levels

    def make_method(self) -> PTQMethod:
        """Return the method with its options."""
        return make_method(self.method, self.options)

    def _check_levels(self) -> None:
        if self.levels is None:
            if self.data is None:
                raise ValueError("`levels` 'auto' needs labelled images to measure accuracy on: give `data`.")
            return
        for level in self.levels:
            check_level(level)
        if not any(is_integer_level(level) for level in self.levels):
            raise ValueError(f"`levels` must hold a bit-width, got {list(self.levels)}.")

    def _check_numbers(self) -> None:
        for name in ("calibration_images", "batch_size", "limit"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"`{name}` must be at least 1, got {value}.")
        for name in ("keep_within", "max_drop"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"`{name}` must be from 0 to 1, got {getattr(self, name)}.")
        if not 0 <= self.seed < 2**32:
            raise ValueError(f"`seed` must be from 0 to 2**32 - 1, got {self.seed}.")
        if self.limit is not None and self.data is None:
            raise ValueError("`limit` has a meaning with `data` only.")


def read_method_options(method: str, texts: Mapping[str, str]) -> dict[str, Any]:
    """Turn the texts of a method's options into what their types ask for.

    Names that the method does not have stay as they are; `make_method` refuses them.

    Example:
        >>> read_method_options("repq", {"ridge": "0.01", "log": "true"})
        {'ridge': 0.01, 'log': True}
    """
    fields = PTQ_METHODS[method].__dataclass_fields__ if method in PTQ_METHODS else {}
    kinds = {name: fields[name].type if name in fields else str for name in texts}
    return {name: _read(name, text, kinds[name]) for name, text in texts.items()}


def _read(name: str, text: str, kind: object) -> Any:
    if kind is bool:
        if text.lower() not in _TRUTH:
            raise ValueError(f"`option` {name} must be true or false, got {text!r}.")
        return _TRUTH[text.lower()]
    if kind is not float:
        return text
    try:
        return float(text)
    except ValueError as error:
        raise ValueError(f"`option` {name} must be a number, got {text!r}.") from error
