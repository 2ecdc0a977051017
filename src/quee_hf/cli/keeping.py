"""Where verbs keep models, and what they have measured of one: in its config, there or in a copy."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from quee_hf.modeling import QuEEForImageClassification

_KEPT = ("record", "cost_model", "cost_table", "operating_points", "certificates", "cost_lambda")


def check_place(model: str, output: Path | None) -> None:
    """Raise `ValueError`, before anything is measured, if what is found cannot be kept.

    Args:
        model: Directory or Hub id.
        output: Directory for a copy, new or empty; `None` stands for the model's own.
    """
    from quee_hf.build.quantization import check_output

    if output is not None:
        check_output(output)
    elif not Path(model).is_dir():
        raise ValueError(
            f"What is measured is kept in the model's directory, which {model} is not: give --output."
        )
    elif not os.access(model, os.W_OK):
        raise ValueError(f"What is measured is kept in {model}, where nothing can be written: give --output.")


def keep_measured(
    source: str, output: Path | None, model: "QuEEForImageClassification", image_processor: Any
) -> None:
    """Write what was measured into the config of the model at `source`, or into a copy at `output`."""
    if output is None:
        _keep(Path(source), model)
    else:
        save_model(output, model, image_processor)


def _keep(folder: Path, model: "QuEEForImageClassification") -> None:
    """Write what was measured into the model's config, and its card anew; its weights stay as they are."""
    from quee_hf.configuration import QuEEConfig
    from quee_hf.hub.card import write_card

    config = QuEEConfig.from_pretrained(folder)
    for name in _KEPT:
        setattr(config, name, getattr(model.config, name))
    config.save_pretrained(folder)
    write_card(folder, config)


def save_model(output: Path, model: "QuEEForImageClassification", image_processor: Any) -> None:
    """Write a model and its image processor to a new directory, whole or not at all."""
    from quee_hf.checkpoints import atomic_directory

    with atomic_directory(output) as staging:
        model.save_pretrained(staging)
        image_processor.save_pretrained(staging)
