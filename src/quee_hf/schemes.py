"""`QuantizationScheme`: what a quantized model's tensors are, so that files can be read without guessing."""

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from quee_hf.levels import Level, check_level, is_integer_level

# The products of a block, by the name of the module that computes each.
PRODUCTS = ("qkv", "scores", "mix", "output", "fc1", "fc2")
WEIGHT_SHARING = ("independent", "nested")
_CHOICES = {
    "weight_sharing": WEIGHT_SHARING,
    "weights": ("symmetric", "asymmetric"),
    "activations": ("static", "dynamic"),
    "softmax": ("uniform", "twin", "log"),
    "gelu": ("uniform", "twin", "log"),
}
_KEPT_NAME = re.compile(rf"(\*|[1-9][0-9]*)\.({'|'.join(PRODUCTS)})")


@dataclass(frozen=True, kw_only=True)
class QuantizationScheme:
    """Describe how a model was quantized.

    Args:
        method: Name of the PTQ method.
        num_images: How many calibration images it saw.
        weight_sharing: "independent": each level has its own codes (the paper's choice); "nested": one store
            of 8-bit codes, whose leading bits are the codes of the lower levels.
        weights: "symmetric": code 0 is weight 0; "asymmetric": each row has an offset.
        activations: Ranges of what enters a linear layer: "static" (from the calibration images) or
            "dynamic" (each image's own).
        softmax: Codes of attention probabilities: "uniform", "twin" (two uniform ranges) or "log".
        gelu: The same of what the activation function of an ungated MLP returns.
        per_head: Whether each attention head has ranges of its own for queries, keys, values and
            probabilities.
        kept: Exceptions: products that run at a level of their own wherever the model runs at an integer
            one, such as `{"9.fc2": 8, "*.scores": "fp32"}`; blocks are counted from 1, `*` means all.
        options: Of the method, for the record.

    Raises:
        ValueError: If a value is not one of those above.
    """

    method: str
    num_images: int
    weight_sharing: str = "independent"
    weights: str = "symmetric"
    activations: str = "static"
    softmax: str = "uniform"
    gelu: str = "uniform"
    per_head: bool = False
    kept: dict[str, Level] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check each value."""
        if not isinstance(self.method, str):
            raise ValueError(f"`quantization` must name its 'method', got {self.method!r}.")
        for name, allowed in _CHOICES.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"`{name}` must be one of {list(allowed)}, got {getattr(self, name)!r}.")
        if not isinstance(self.num_images, int) or self.num_images < 0:
            raise ValueError(f"`num_images` must be a whole number from 0 on, got {self.num_images!r}.")
        if not isinstance(self.per_head, bool):
            raise ValueError(f"`per_head` must be true or false, got {self.per_head!r}.")
        if not isinstance(self.options, dict):
            raise ValueError(f"`options` of `quantization` must be a mapping, got {self.options!r}.")
        check_kept(self.kept)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "QuantizationScheme":
        """Read what `to_dict` wrote.

        Raises:
            ValueError: If a field is unknown, missing or wrong.
        """
        known = [item.name for item in fields(cls)]
        if unknown := sorted(set(values) - set(known)):
            raise ValueError(f"`quantization` has no field {unknown}; its fields are {known}.")
        if "method" not in values:
            raise ValueError(f"`quantization` must name its 'method', got {dict(values)}.")
        return cls(**{"num_images": 0, **values})

    def to_dict(self) -> dict[str, Any]:
        """Return the fields, fit for JSON."""
        return asdict(self)

    def kept_level(self, block: int, product: str) -> Level | None:
        """Return the level at which a product is kept, if it is.

        Args:
            block: Counted from 1.
            product: One of `PRODUCTS`.
        """
        return self.kept.get(f"{block}.{product}", self.kept.get(f"*.{product}"))

    def computed_at(self, level: Level, block: int, product: str) -> Level:
        """Return the level at which a product is computed when the model runs at `level`.

        Example:
            >>> scheme = QuantizationScheme(method="mse", num_images=1, kept={"9.fc2": 8})
            >>> scheme.computed_at(4, 9, "fc2"), scheme.computed_at(4, 8, "fc2")
            (8, 4)
        """
        kept = self.kept_level(block, product)
        return kept if is_integer_level(level) and kept is not None else level


def check_kept(kept: Mapping[str, object], num_blocks: int | None = None) -> None:
    """Raise `ValueError` unless `kept` maps products of blocks to levels.

    Args:
        kept: Such as `{"9.fc2": 8}`.
        num_blocks: How many blocks there are, if known.
    """
    if not isinstance(kept, Mapping):
        raise ValueError(f"Exceptions must be a mapping such as {{'9.fc2': 8}}, got {kept!r}.")
    for name, level in kept.items():
        match = _KEPT_NAME.fullmatch(str(name))
        if match is None:
            raise ValueError(
                "Exceptions are named '<block>.<product>', the block counted from 1 or '*', the product one"
                f" of {list(PRODUCTS)}; got {name!r}."
            )
        if num_blocks is not None and match[1] != "*" and int(match[1]) > num_blocks:
            raise ValueError(f"There are {num_blocks} blocks, but an exception names {name!r}.")
        check_level(level)
