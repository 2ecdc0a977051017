"""`quee embed-classes`: class embeddings by the text tower of a CLIP."""

from pathlib import Path
from typing import Annotated, Any

import typer

from quee_hf.cli import options
from quee_hf.cli.display import library_output_on_stderr, show, show_json


def embed_classes(
    checkpoint: options.OpenCLIPCheckpoint,
    *,
    name: options.OpenCLIPName = None,
    class_names: options.GivenClassNames,
    template: Annotated[
        list[str] | None,
        typer.Option(
            help="Prompt with {} where the name goes; of several, embeddings are averaged. If none is given,"
            " 'a photo of a {}.'"
        ),
    ] = None,
    output: Annotated[Path, typer.Option(help="Safetensors file to write.")],
    as_json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    r"""Embed the names of classes by the text tower of an open_clip checkpoint.

    This needs `quee-hf[open-clip]`. The result is what `--class-embeddings` of other verbs reads; the
    checkpoint's logit scale is beside it.

    **Example**

        quee embed-classes open_clip_model.safetensors --name ViT-B-32 \
            --class-names names.json --output class_embeddings.safetensors
    """
    with library_output_on_stderr():
        found = _embed(checkpoint, name, class_names, template, output)
    if as_json:
        show_json(found)
    else:
        show(f"Wrote {output}: {found['num_classes']} classes, embeddings of {found['size']}")


def _embed(
    checkpoint: Path, name: str | None, class_names: str, templates: list[str] | None, output: Path
) -> dict[str, Any]:
    from quee_hf.backbones.class_embeddings import write_class_embeddings
    from quee_hf.backbones.open_clip import DEFAULT_TEMPLATES, embed_class_names, open_checkpoint
    from quee_hf.errors import QuEEError

    names = options.read_class_names(class_names) or []
    if output.is_dir() or not output.absolute().parent.is_dir():
        raise QuEEError(f"`output`: {output} cannot be written: name a file in a directory that is there.")
    opened = open_checkpoint(checkpoint, name)
    embeddings = embed_class_names(opened, names, templates or DEFAULT_TEMPLATES)
    write_class_embeddings(output, embeddings, opened.logit_scale)
    return {"output": str(output), "num_classes": len(embeddings), "size": embeddings.shape[1]}
