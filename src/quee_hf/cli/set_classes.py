"""`quee set-classes`: other classes for a CLIP model, without training."""

import shlex
from pathlib import Path
from typing import Annotated, Any

import typer

from quee_hf.cli import options
from quee_hf.cli.display import library_output_on_stderr, show, show_json
from quee_hf.cli.keeping import save_model


def set_classes(
    model: options.Model,
    *,
    class_names: options.GivenClassNames,
    class_embeddings: Annotated[
        Path | None,
        typer.Option(
            help="Safetensors file with `class_embeddings`, one row per name. Not needed if the model has all"
            " of the classes already.",
        ),
    ] = None,
    new_gates: Annotated[
        bool,
        typer.Option(
            "--new-gates",
            help="Replace trained gates by new, untrained ones. QuEE's gates cannot stay; LRA-EE's can.",
        ),
    ] = False,
    output: Annotated[Path, typer.Option(help="Directory for the model, new or empty.")],
    revision: options.Revision = "main",
    as_json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    r"""Give a CLIP model other classes: images are compared with other texts, and nothing is trained.

    Operating points are forgotten: they were measured with the classes before.

    **Example**

        quee set-classes run/model --class-names names.json \
            --class-embeddings class_embeddings.safetensors --output other-classes
    """
    with library_output_on_stderr():
        found = _set_classes(
            (model, revision), class_names, class_embeddings, output, keep_gates=not new_gates
        )
    if as_json:
        show_json(found)
        return
    show(f"Wrote {output}: {found['num_classes']} classes")
    if not found["has_gates"]:
        show(f"Its gates are not trained: quee train-gates {shlex.quote(str(output))}")


def _set_classes(
    source: tuple[str, str], class_names: str, embeddings: Path | None, output: Path, *, keep_gates: bool
) -> dict[str, Any]:
    from quee_hf.build.quantization import check_output
    from quee_hf.cli.loading import load_model

    names = options.read_class_names(class_names) or []
    check_output(output)
    model, image_processor = load_model(source[0], "cpu", source[1])
    model.set_classes(names, embeddings, keep_gates=keep_gates)
    save_model(output, model, image_processor)
    has_gates = "gates" in model.config.trained_parts
    return {"output": str(output), "num_classes": len(names), "has_gates": has_gates}
