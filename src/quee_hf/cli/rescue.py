"""`quee rescue`: what leaving early rescues and loses, quantized and in full precision."""

from pathlib import Path
from typing import Annotated, Any

import typer

from quee_hf.cli import options
from quee_hf.cli import quantize_options as quantizing
from quee_hf.cli.display import library_output_on_stderr, say, show, show_json, show_table

_WHAT = "What to measure"  # panel
_SHOWN = (  # of the ablation; rescue.md has all of it
    "baseline",
    "ssa-last-distilled",
    "ssa-adaptive-distilled",
    "ssa-adaptive-distilled-unlimited",
    "cls-adaptive-distilled",
)

Source = Annotated[str, typer.Argument(help="Trained classifier with float weights: Hub id or directory.")]
Train = Annotated[
    str,
    typer.Option(
        help="Images for heads and quantization: a folder with a subfolder per class, parquet files (joined"
        " by commas), or a dataset on the Hub. The classifier may have seen them.",
        rich_help_panel=options.SOURCES,
    ),
]
Validation = Annotated[
    str,
    typer.Option(
        help="Images that the classifier has not seen, for gates and thresholds.",
        rich_help_panel=options.SOURCES,
    ),
]
Data = Annotated[
    str, typer.Option(help="Test images, used for nothing else.", rich_help_panel=options.SOURCES)
]
TrainImages = Annotated[
    int | None,
    typer.Option(
        "--num-train-images",
        help="Use this many of --train, evenly spread; all if not given.",
        rich_help_panel=options.SOURCES,
    ),
]
Methods = Annotated[
    str,
    typer.Option(
        help="Quantization methods joined by commas (min_max, mse, ptq4vit, repq, torch_dynamic); with"
        " SmoothQuant as torch_dynamic+0.5. Full precision is always measured, too.",
        rich_help_panel=_WHAT,
    ),
]
Bits = Annotated[int, typer.Option(help="Bits of the quantized networks, 2 to 8.", rich_help_panel=_WHAT)]
Exits = Annotated[
    str | None,
    typer.Option(
        help="Blocks after which images may leave, such as 6,8,10; from the middle on if not given. The last"
        " block is always one.",
        rich_help_panel=_WHAT,
    ),
]
Budget = Annotated[
    float,
    typer.Option(
        help="FLOPs of leaving early, relative to the whole network, on the validation images.",
        rich_help_panel=_WHAT,
    ),
]
Seeds = Annotated[int, typer.Option(help="How often heads and gates are trained.", rich_help_panel=_WHAT)]
HeadEpochs = Annotated[
    int, typer.Option(help="Most epochs for heads; they stop early.", rich_help_panel=_WHAT)
]
GateEpochs = Annotated[
    int, typer.Option(help="Most epochs for gates; they stop early.", rich_help_panel=_WHAT)
]


def rescue(
    model: Source,
    *,
    train: Train,
    validation: Validation,
    data: Data,
    ptq: Methods = "torch_dynamic,repq",
    smoothing: quantizing.Smoothing = None,
    level: Bits = 8,
    exits: Exits = None,
    budget: Budget = 0.87,
    seeds: Seeds = 3,
    head_epochs: HeadEpochs = 20,
    gate_epochs: GateEpochs = 40,
    num_train_images: TrainImages = None,
    calibration_images: quantizing.CalibrationImages = 128,
    class_embeddings: options.ClassEmbeddings = None,
    class_names: options.ClassNames = None,
    match_labels: options.MatchLabels = "names",
    output: Annotated[
        Path,
        typer.Option(
            help="Directory for results; the same command goes on from what is there.",
            rich_help_panel=options.RUNNING,
        ),
    ],
    batch_size: options.BatchSize = 64,
    device: options.Device = "auto",
    skip_bad: options.SkipBad = False,
    as_json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    r"""Measure what leaving early rescues and loses, quantized and in full precision (LRA-EE).

    Heads on the class token and on the mean patch token are trained after every exit, with and without
    distillation, and gates on them, for the network in full precision and for each quantization method.
    Writes rescue.json, rescue.md, rescue.png and heads.png.

    **Example**

        quee rescue my-clip --class-embeddings classes.safetensors --class-names classes.json \
            --train photos/train --validation photos/unseen --data photos/test \
            --ptq torch_dynamic,repq --output rescue
    """
    chosen = {name: value for name, value in locals().items() if name not in _NOT_IN_PLAN}
    with library_output_on_stderr():
        result = _measure(chosen, output)
    if as_json:
        show_json(result)
    else:
        _summarize(result, output)


_NOT_IN_PLAN = ("output", "as_json", "debug")


def _measure(chosen: dict[str, Any], output: Path) -> dict[str, Any]:
    from quee_hf.build.rescue_experiment import measure_rescue
    from quee_hf.build.rescue_plan import RescuePlan

    names, exits = options.read_class_names(chosen["class_names"]), chosen["exits"]
    embeddings = chosen["class_embeddings"]
    fields = {
        **{name: value for name, value in chosen.items() if name != "seeds"},
        "num_seeds": chosen["seeds"],
        "ptq": tuple(chosen["ptq"].split(",")),
        "smoothing": quantizing.parse_smoothing(chosen["smoothing"]),
        "exits": None if exits is None else tuple(options.parse_integers(exits, "--exits")),
        "class_names": None if names is None else tuple(names),
        "class_embeddings": None if embeddings is None else str(embeddings),
    }
    try:
        return measure_rescue(RescuePlan(**fields), output, say)
    except KeyboardInterrupt:
        say("Interrupted. The same command goes on from what is there.")
        raise


def _summarize(result: dict[str, Any], output: Path) -> None:
    rows = [
        (name, row, *(_percent(found["ablation"]["rows"][row][part]) for part in ("flops_saved", "accuracy")))
        for name, found in result["regimes"].items()
        for row in _SHOWN
    ]
    show()
    show_table(
        f"{result['num_images']['test']} test images, {result['num_seeds']} fits",
        ("network", "configuration", "FLOPs saved", "accuracy"),
        rows,
    )
    for statement in result["statements"]:
        show(statement, style="bold")
    show(f"Wrote {output}: rescue.json, rescue.md, rescue.png, heads.png")


def _percent(found: dict[str, Any]) -> str:
    return f"{found['value']:.2%}"
