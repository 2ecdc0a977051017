"""`quee export`: what deploys a model."""

from pathlib import Path
from typing import Annotated, Any

import typer

from quee_hf.cli import options
from quee_hf.cli.display import library_output_on_stderr, say, show, show_json


def export(
    model: options.Model,
    onnx: Annotated[
        Path | None,
        typer.Option(help="Folder to write ONNX graphs to, with all that runs them without PyTorch."),
    ] = None,
    handler: Annotated[
        bool,
        typer.Option("--handler", help="Write a handler for Inference Endpoints into the model's folder."),
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace an earlier export, or another handler.")
    ] = False,
    revision: options.Revision = "main",
    as_json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """Write a model in a form that is deployed.

    `--onnx` writes a folder that needs only ONNX Runtime and NumPy, and Pillow to read images: a graph for
    each part of the network at each level, and a router that takes the same decisions. `--handler` adds files
    to the model's folder by which Hugging Face Inference Endpoints serve it with PyTorch; `quee push` pushes
    them.

    **Example**

        quee export run/model --onnx deployed
    """
    if onnx is None and not handler:
        raise ValueError("Give --onnx DIR, --handler, or both: they say what to write.")
    with library_output_on_stderr():
        result = _export(model, onnx, handler, overwrite, revision)
    if as_json:
        show_json(result)
    elif "onnx" in result:
        written = result["onnx"]
        size = written["size_bytes"] / 2**20
        show(f"Wrote {written['graphs']} graphs to {written['folder']}, {size:.1f} MiB in all.")
    if not as_json and "handler" in result:
        show(f"Wrote {', '.join(result['handler'])}.")


def _export(
    model: str, onnx: Path | None, has_handler: bool, overwrite: bool, revision: str
) -> dict[str, Any]:
    from quee_hf.build.source import is_local
    from quee_hf.cli.loading import load_model
    from quee_hf.deployment import export_onnx
    from quee_hf.deployment.files import write_handler

    if has_handler and not is_local(model):
        raise ValueError(f"--handler writes into the model's folder, and {model} is none on this machine.")
    say(f"Loading {model}")
    loaded = load_model(model, "cpu", revision)
    result: dict[str, Any] = {"model": model}
    if onnx is not None:
        export_onnx(loaded.model, onnx, loaded.image_processor, overwrite=overwrite)
        files = list(onnx.iterdir())
        result["onnx"] = {
            "folder": str(onnx),
            "graphs": sum(file.suffix == ".onnx" for file in files),
            "size_bytes": sum(file.stat().st_size for file in files),
        }
    if has_handler:
        result["handler"] = [str(file) for file in write_handler(Path(model), overwrite=overwrite)]
    return result
