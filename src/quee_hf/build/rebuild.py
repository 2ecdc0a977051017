"""Another model with the same trunk and heads: later stages decide on levels and paths."""

import copy
from pathlib import Path
from typing import Any

import torch
from torch import nn

from quee_hf.build.ingredients import Ingredients
from quee_hf.configuration import QuEEConfig
from quee_hf.modeling import QuEEForImageClassification

_GATES = "gates."


def rebuild(model: QuEEForImageClassification, **config_fields: Any) -> QuEEForImageClassification:
    """Return a model with other levels or paths; its trunk and heads are the same, its gates untrained.

    What was measured with the gates is forgotten.

    Args:
        model: On the CPU. Levels can only change before it is quantized.
        **config_fields: Fields of `QuEEConfig` to change.
    """
    config = copy.deepcopy(model.config)
    config.forget_measurements()
    fields = {**config.to_dict(), **config_fields}
    fields["trained_parts"] = [part for part in model.config.trained_parts if part != "gates"]
    rebuilt = QuEEForImageClassification(QuEEConfig.from_dict(fields))
    kept = {name: value for name, value in model.state_dict().items() if not name.startswith(_GATES)}
    mismatch = rebuilt.load_state_dict(kept, strict=False)
    wrong = [*mismatch.unexpected_keys, *(key for key in mismatch.missing_keys if not key.startswith(_GATES))]
    if wrong:
        raise ValueError(f"{sorted(config_fields)} cannot be changed any more: {wrong[:3]} do not fit.")
    rebuilt.train(False)
    return rebuilt


def move(model: QuEEForImageClassification, device: torch.device) -> None:
    """Move a model to a device, in place."""
    nn.Module.to(model, device)  # the type that transformers gives its own `to` is wrong


def with_routes(folder: Path, ingredients: Ingredients) -> QuEEForImageClassification:
    """Load a quantized model and give it the recipe's paths and gates."""
    recipe = ingredients.recipe
    return rebuild(
        QuEEForImageClassification.from_pretrained(folder),
        first_level=recipe.first_level,
        max_paths=recipe.max_paths,
        path_seed=recipe.seed,
        gate_type=recipe.gate,
        gate_features=recipe.gate_features,
    )
