"""Options of `quee quantize` alone. Imports nothing heavy."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from quee_hf.cli.options import RUNNING, SOURCES
from quee_hf.levels import Level, parse_level

AUTO = "auto"
_WHAT, _HOW = "What to make", "How to quantize"  # panels

Model = Annotated[
    str,
    typer.Argument(
        help="Hub id or directory of a trained classifier, or of a QuEE model with float weights."
    ),
]
Images = Annotated[
    str,
    typer.Option(
        help="Images for calibration: a folder with a subfolder per class, parquet files (joined by commas),"
        " or a dataset on the Hub. The classifier may have seen them; their labels are not used.",
        rich_help_panel=SOURCES,
    ),
]
Data = Annotated[
    str | None,
    typer.Option(
        help="Labelled images that the classifier has not seen, to measure accuracy on.",
        rich_help_panel=SOURCES,
    ),
]
Limit = Annotated[
    int | None,
    typer.Option(min=1, help="Use this many of --data, evenly spread.", rich_help_panel=SOURCES),
]
Levels = Annotated[
    str,
    typer.Option(
        help="Bits (8 to 2), bf16 or fp32, most exact first; or auto: of 8 to 3 bits, those that are accurate"
        " enough on --data.",
        rich_help_panel=_WHAT,
    ),
]
KeepWithin = Annotated[
    float,
    typer.Option(
        help="With auto: accuracy that the highest level may lose, 0.002 is 0.2 points.",
        rich_help_panel=_WHAT,
    ),
]
MaxDrop = Annotated[
    float,
    typer.Option(help="With auto: accuracy that the other levels may lose.", rich_help_panel=_WHAT),
]
Method = Annotated[
    str,
    typer.Option(
        help="min_max, mse, ptq4vit, repq or torch_dynamic.",
        rich_help_panel=_HOW,
    ),
]
MethodOptions = Annotated[
    list[str] | None,
    typer.Option(help="Of the method, such as ridge=0.01; can be repeated.", rich_help_panel=_HOW),
]
Smoothing = Annotated[
    str | None,
    typer.Option(
        help="SmoothQuant: alpha from 0 to 1, or search for the best of each layer.", rich_help_panel=_HOW
    ),
]
WeightSharing = Annotated[
    Literal["independent", "nested"],
    typer.Option(
        help="Weights of their own for each level, or one 8-bit store whose leading bits are the lower levels"
        " (a smaller file, less accurate).",
        rich_help_panel=_HOW,
    ),
]
Keep = Annotated[
    list[str] | None,
    typer.Option(
        help="Exceptions, as block.product=level: 9.fc2=8, or *.scores=fp32. Products are qkv, scores, mix,"
        " output, fc1 and fc2; can be repeated.",
        rich_help_panel=_HOW,
    ),
]
CalibrationImages = Annotated[
    int, typer.Option(help="How many of --images to use, evenly spread.", rich_help_panel=_HOW)
]
Report = Annotated[
    bool,
    typer.Option(
        "--report",
        help="Write quantization.json and quantization.png beside the model: errors of every block.",
        rich_help_panel=_WHAT,
    ),
]
Output = Annotated[Path, typer.Option(help="Directory of the model; new or empty.", rich_help_panel=RUNNING)]
Seed = Annotated[int, typer.Option(help="Of all random choices.", rich_help_panel=RUNNING)]


def parse_levels(text: str) -> tuple[Level, ...] | None:
    """Read levels joined by commas; `None` stands for "auto".

    Example:
        >>> parse_levels("8,6"), parse_levels("auto")
        ((8, 6), None)
    """
    return None if text.strip() == AUTO else tuple(parse_level(level) for level in text.split(","))


def parse_smoothing(text: str | None) -> float | str | None:
    """Read a number, or leave a word for the library to judge.

    Example:
        >>> parse_smoothing("0.5"), parse_smoothing("search")
        (0.5, 'search')
    """
    if text is None:
        return None
    try:
        return float(text)
    except ValueError:
        return text


def parse_keep(texts: list[str] | None) -> dict[str, Level]:
    """Read the exceptions of `--keep`.

    Example:
        >>> parse_keep(["9.fc2=8"])
        {'9.fc2': 8}
    """
    return {name: parse_level(level) for name, level in parse_pairs(texts, "--keep", "9.fc2=8").items()}


def parse_pairs(texts: list[str] | None, option: str, example: str) -> dict[str, str]:
    """Read what is written as name=value.

    Example:
        >>> parse_pairs(["ridge=0.01"], "--option", "ridge=0.01")
        {'ridge': '0.01'}
    """
    pairs: dict[str, str] = {}
    for text in texts or ():
        name, is_pair, value = (part.strip() for part in text.partition("="))
        if not (name and is_pair and value) or name in pairs:
            problem = "names something twice" if name in pairs else f"is not of the form {example}"
            raise typer.BadParameter(f"{text!r} {problem}", param_hint=option)
        pairs[name] = value
    return pairs
