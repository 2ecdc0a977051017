"""`quee convert`: a checkpoint of open_clip as a model of Hugging Face."""

import shlex
from pathlib import Path
from typing import Annotated, Any

import typer

from quee_hf.cli import options
from quee_hf.cli.display import library_output_on_stderr, show, show_json


def convert(
    checkpoint: options.OpenCLIPCheckpoint,
    *,
    name: options.OpenCLIPName = None,
    output: Annotated[Path, typer.Option(help="Directory for the model, new or empty.")],
    as_json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """Make a Hugging Face model of the vision tower of an open_clip checkpoint.

    It is what `build` and `quantize` start from. Neither open_clip nor torchvision is needed, and no code in
    the checkpoint is run. Beside the weights lies the image processor: that of `open_clip_config.json`, or
    CLIP's own.

    **Example**

        quee convert open_clip_model.safetensors --name ViT-B-32 --output my-clip
    """
    with library_output_on_stderr():
        found = _convert(checkpoint, name, output)
    if as_json:
        show_json(found)
        return
    show(
        f"Wrote {output}: {found['num_blocks']} blocks, {found['hidden_size']} wide, {found['activation']},"
        f" images of {found['image_size']} px, embeddings of {found['embedding_size']}"
    )
    given = "" if name is None else f" --name {name}"
    show("\nTry next", style="bold")
    show(
        f"  quee embed-classes {shlex.quote(str(checkpoint))}{given} --class-names NAMES.json --output"
        " class_embeddings.safetensors"
    )
    show(
        f"  quee build --model {shlex.quote(str(output))} --class-embeddings class_embeddings.safetensors"
        " --class-names NAMES.json --train TRAIN --validation VALIDATION --recipe clip --output RUN"
    )


def _convert(checkpoint: Path, name: str | None, output: Path) -> dict[str, Any]:
    from quee_hf.backbones.open_clip import convert_vision, open_checkpoint
    from quee_hf.build.quantization import check_output

    check_output(output)
    opened = open_checkpoint(checkpoint, name)
    tower = convert_vision(opened)
    tower.save_pretrained(output)
    config = tower.model.config
    return {
        "output": str(output),
        "activation": config.hidden_act,
        "num_blocks": config.num_hidden_layers,
        "hidden_size": config.hidden_size,
        "patch_size": config.patch_size,
        "image_size": config.image_size,
        "embedding_size": config.projection_dim,
        "logit_scale": opened.logit_scale,
    }
