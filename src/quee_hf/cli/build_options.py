"""Options of `quee build` alone. Imports nothing heavy."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from quee_hf.cli.options import RUNNING, SOURCES
from quee_hf.cli.recipes import use_recipe

_WHAT, _HOW = "What to build", "How to build it"  # panels

RecipeFile = Annotated[
    str | None,
    typer.Option(
        "--recipe",
        callback=use_recipe,
        is_eager=True,
        help="Values for the options below, which overrule them: vit, dinov2, clip, or a YAML file, such as"
        " the recipe.yaml of a build.",
        rich_help_panel=SOURCES,
    ),
]
Model = Annotated[str, typer.Option(help="Trained classifier: Hub id or directory.", rich_help_panel=SOURCES)]
Train = Annotated[
    str,
    typer.Option(
        help="Images for exit heads and quantization: a folder with a subfolder per class, parquet files"
        " (joined by commas), or a dataset on the Hub. The classifier may have seen them.",
        rich_help_panel=SOURCES,
    ),
]
Validation = Annotated[
    str,
    typer.Option(help="Images that the classifier has not seen, for the gates.", rich_help_panel=SOURCES),
]
Exits = Annotated[
    str,
    typer.Option(
        help="Blocks after which an image may leave, such as 4,6,8. The last block is added if missing.",
        rich_help_panel=_WHAT,
    ),
]
Levels = Annotated[
    str,
    typer.Option(
        help="How exactly a part of the network may be computed: bits (8 to 2), bf16, fp32; most exact"
        " first.",
        rich_help_panel=_WHAT,
    ),
]
LogitScale = Annotated[
    float | None,
    typer.Option(
        help="CLIP only: natural logarithm of the scale of the cosine; the file's or the model's if not"
        " given.",
        rich_help_panel=SOURCES,
    ),
]
Head = Annotated[
    Literal["linear", "mlp", "attention", "ssa", "cls"],
    typer.Option(
        help="Kind of the exit heads: the classifier's own, two layers on the same tokens, two layers on what"
        " learned queries find among all tokens (slower to train, more often right), or two layers on the"
        " mean patch token (LRA-EE) or on the class token.",
        rich_help_panel=_WHAT,
    ),
]
Distillation = Annotated[
    Literal["none", "soft", "cosine"],
    typer.Option(
        help="Draw heads to the last exit at full precision, too: to its softened probabilities, or to the"
        " direction of its outputs (as in LRA-EE's paper).",
        rich_help_panel=_HOW,
    ),
]
HeadViews = Annotated[
    int,
    typer.Option(
        help="How often heads look at a training image: once as it is, then cropped and mirrored at random."
        " More of them help where training images are few and mirroring means nothing.",
        rich_help_panel=_HOW,
    ),
]
Gate = Annotated[
    Literal["error_predictor", "lra"],
    typer.Option(
        help="What decides: predicted errors of all paths (QuEE), or leaving at the first sure exit (LRA).",
        rich_help_panel=_WHAT,
    ),
]
FirstLevel = Annotated[
    Literal["highest", "any"],
    typer.Option(
        help="Level of the first part: always the most exact, or any.",
        rich_help_panel=_WHAT,
    ),
]
MaxPaths = Annotated[
    int,
    typer.Option(help="Most combinations of exits and levels to choose from.", rich_help_panel=_WHAT),
]
CalibrationImages = Annotated[
    int,
    typer.Option(help="Training images that set the ranges of quantization.", rich_help_panel=_HOW),
]
HeadEpochs = Annotated[
    int, typer.Option(help="Most epochs for the heads; they stop early.", rich_help_panel=_HOW)
]
GateFeatures = Annotated[
    Literal["confidence", "history", "probabilities", "spatial"] | None,
    typer.Option(
        help="What gates see: how sure this exit and the one before are, how sure all exits so far are, all"
        " class probabilities (as in QuEE's paper), or confidence, margin and spatial variance (as in"
        " LRA-EE's). If not given, what suits the gate.",
        rich_help_panel=_HOW,
    ),
]
GateTargets = Annotated[
    Literal["outcome", "cluster"],
    typer.Option(
        help="What gates learn: whether each image was right, or the error rate of images like it (as in"
        " the paper; needs more validation images).",
        rich_help_panel=_HOW,
    ),
]
NumClusters = Annotated[
    int | None,
    typer.Option(
        help="Number of clusters for 'cluster'; if not given, the best calibrated number.",
        rich_help_panel=_HOW,
    ),
]
GateEpochs = Annotated[
    int, typer.Option(help="Most epochs for the gates; they stop early.", rich_help_panel=_HOW)
]
GateFraction = Annotated[
    float,
    typer.Option(
        help="Share of the validation images for the gates: 80 % of it for training and 20 % for early"
        " stopping (with 'cluster': 40, 40 for clusters, 20). All others measure the operating points.",
        rich_help_panel=_HOW,
    ),
]
MaxAccuracyDrop = Annotated[
    float,
    typer.Option(
        help="Accuracy that the default operating point may lose: 0.01 is one point.",
        rich_help_panel=_HOW,
    ),
]
Seed = Annotated[int, typer.Option(help="Of all random choices.", rich_help_panel=_HOW)]
Output = Annotated[
    Path,
    typer.Option(
        help="Directory of this build. The same command continues an interrupted one; another recipe"
        " redoes only what it changes.",
        rich_help_panel=RUNNING,
    ),
]
