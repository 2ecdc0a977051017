"""Options that several verbs have, and how lists on the command line are read. Imports nothing heavy."""

import json
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

import typer

SOURCES, RUNNING = "What to read", "Running"  # panels
BatchSize = Annotated[
    int,
    typer.Option(
        min=1,
        help="Images per batch when the network runs; smaller needs less memory.",
        rich_help_panel=RUNNING,
    ),
]
Device = Annotated[
    str, typer.Option(help="Where the network runs: auto, cpu, cuda, cuda:1, mps.", rich_help_panel=RUNNING)
]
SkipBad = Annotated[
    bool,
    typer.Option(
        "--skip-bad",
        help="Leave out images that cannot be read, instead of stopping.",
        rich_help_panel=RUNNING,
    ),
]
MatchLabels = Annotated[
    Literal["names", "numbers"],
    typer.Option(
        help="How the data's classes are matched with the model's: by their names, or by their numbers (the"
        " same classes in the same order, whatever they are called).",
        rich_help_panel=SOURCES,
    ),
]
Limit = Annotated[
    int | None,
    typer.Option(min=1, help="Use this many of the images, evenly spread.", rich_help_panel=SOURCES),
]
ImageFiles = Annotated[
    list[str], typer.Argument(help="Image files, or directories with image files at any depth.")
]
ClassEmbeddings = Annotated[
    Path | None,
    typer.Option(
        help="CLIP only: safetensors file with `class_embeddings`, one row per class.",
        rich_help_panel=SOURCES,
    ),
]
ClassNames = Annotated[
    str | None,
    typer.Option(
        help="JSON file with the names of the classes: a list, or an object with it in 'classes'; or the list"
        " itself. If the"
        " data has other names, but as many, they are taken to be the same classes in the same order.",
        rich_help_panel=SOURCES,
    ),
]
_CLASS_NAMES = (
    "JSON file with the names of the classes: a list, or an object with it in 'classes'; or the list itself."
)
GivenClassNames = Annotated[str, typer.Option("--class-names", help=_CLASS_NAMES)]
OpenCLIPCheckpoint = Annotated[
    Path,
    typer.Argument(
        help="Safetensors file, or one that `torch.save` wrote, or a directory with either under the name"
        " that it has on the Hub."
    ),
]
OpenCLIPName = Annotated[
    str | None,
    typer.Option(
        help="What open_clip calls the architecture: ViT-B-32, ViT-B-16 or ViT-L-14, with -quickgelu at the"
        " end if it was trained with QuickGELU, as all of OpenAI's were. Not needed if open_clip_config.json"
        " lies beside the weights."
    ),
]
Json = Annotated[
    bool,
    typer.Option(
        "--json", help="Print the result as JSON, and nothing else, on stdout.", rich_help_panel=RUNNING
    ),
]
Debug = Annotated[
    bool, typer.Option("--debug", help="Show the traceback of an error.", rich_help_panel=RUNNING)
]
Engine = Annotated[
    str,
    typer.Option(
        help="What runs the network: torch (simulates integer levels), openvino, onnxruntime or torch_int8"
        " (integer kernels), or auto (the fastest here).",
        rich_help_panel=RUNNING,
    ),
]
Revision = Annotated[
    str,
    typer.Option(help="Branch, tag or commit of a model on the Hub.", rich_help_panel=RUNNING),
]
Model = Annotated[str, typer.Argument(help="Directory or Hub id of a QuEE model, such as RUN/model.")]


class Images(NamedTuple):
    """Which images to read, and how."""

    data: str
    limit: int | None
    match_labels: str
    skip_bad: bool


def parse_numbers(text: str, option: str) -> list[float]:
    """Read numbers joined by commas.

    Example:
        >>> parse_numbers("0,0.5", "--cost-lambda")
        [0.0, 0.5]
    """
    try:
        return [float(part) for part in text.split(",")]
    except ValueError as error:
        raise typer.BadParameter(
            f"{text!r} is not a list of numbers such as 0,0.1,0.3", param_hint=option
        ) from error


def parse_integers(text: str, option: str) -> list[int]:
    """Read whole numbers joined by commas.

    Example:
        >>> parse_integers("4,6", "--exits")
        [4, 6]
    """
    try:
        return [int(part) for part in text.split(",")]
    except ValueError as error:
        raise typer.BadParameter(
            f"{text!r} is not a list of whole numbers such as 4,6,8", param_hint=option
        ) from error


def read_class_names(source: str | None) -> list[str] | None:
    """Read class names from JSON, in a file or as it is: a list, or an object with the list in `classes`."""
    if source is None:
        return None
    try:
        content = json.loads(source if source.startswith("[") else Path(source).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise typer.BadParameter(
            f"cannot read {source} as JSON: {error}", param_hint="--class-names"
        ) from error
    names = content.get("classes") if isinstance(content, dict) else content
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise typer.BadParameter(
            f"{source} holds neither a list of names nor an object with such a list in 'classes'",
            param_hint="--class-names",
        )
    return names
