"""`quee train-heads` and `quee train-gates`: one step of a build, on a model that is there already."""

from pathlib import Path
from typing import Annotated, Any

import typer

from quee_hf.cli import options
from quee_hf.cli.display import library_output_on_stderr, say, show, show_json, show_table
from quee_hf.cli.keeping import save_model

_HOW = "How to train"  # panel
_Output = Annotated[Path, typer.Option(help="Directory for the trained model, new or empty.")]
_Epochs = Annotated[int, typer.Option(min=1, help="Most epochs; training stops early.", rich_help_panel=_HOW)]
_Rate = Annotated[float, typer.Option(min=0, help="Learning rate.", rich_help_panel=_HOW)]
_Seed = Annotated[int, typer.Option(min=0, help="Of all random choices.", rich_help_panel=_HOW)]


def train_heads(
    model: options.Model,
    *,
    train: Annotated[
        str,
        typer.Option(
            help="Images to learn from: a folder with a subfolder per class, parquet files (joined by"
            " commas), or a dataset on the Hub. The classifier may have seen them.",
            rich_help_panel=options.SOURCES,
        ),
    ],
    output: _Output,
    epochs: _Epochs = 20,
    learning_rate: _Rate = 3e-3,
    seed: _Seed = 0,
    match_labels: options.MatchLabels = "names",
    revision: options.Revision = "main",
    batch_size: options.BatchSize = 64,
    device: options.Device = "auto",
    skip_bad: options.SkipBad = False,
    as_json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """Train the exit heads of a QuEE model anew; the gates must be trained again afterwards.

    A tenth of the images tells when to stop.

    **Example**

        quee train-heads run/model --train photos/train --output with-heads
    """
    plan = {"train": train, "match_labels": match_labels, "batch_size": batch_size, "skip_bad": skip_bad}
    with library_output_on_stderr():
        schedule = epochs, learning_rate, seed
        result = _train("heads", (model, revision), output, {**plan, "device": device}, schedule)
    if as_json:
        show_json(result)
    else:
        show(f"Wrote {output}. Its gates are not trained: quee train-gates {output}")


def train_gates(
    model: options.Model,
    *,
    train: Annotated[
        str,
        typer.Option(
            help="Images that the classifier has not seen: on those it has, it errs too rarely to learn"
            " from.",
            rich_help_panel=options.SOURCES,
        ),
    ],
    validation: Annotated[
        str,
        typer.Option(
            help="Images used for nothing else, to measure operating points.", rich_help_panel=options.SOURCES
        ),
    ],
    output: _Output,
    epochs: _Epochs = 60,
    learning_rate: _Rate = 2e-3,
    seed: _Seed = 0,
    match_labels: options.MatchLabels = "names",
    revision: options.Revision = "main",
    batch_size: options.BatchSize = 64,
    device: options.Device = "auto",
    skip_bad: options.SkipBad = False,
    as_json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """Train the gates of a QuEE model anew, and measure its operating points.

    A fifth of the images to learn from tells when to stop.

    **Example**

        quee train-gates run/model --train photos/unseen --validation photos/held-out --output with-gates
    """
    plan = {"train": train, "match_labels": match_labels, "batch_size": batch_size, "skip_bad": skip_bad}
    plan |= {"validation": validation, "device": device}
    with library_output_on_stderr():
        result = _train("gates", (model, revision), output, plan, (epochs, learning_rate, seed))
    if as_json:
        show_json(result)
        return
    show_table(
        f"Operating points on {result['num_images']['operating points']} images",
        ("lambda", "cost", "accuracy"),
        [
            (f"{point['cost_lambda']:g}", f"{point['cost']:.3f}", f"{point['accuracy']:.1%}")
            for point in result["operating_points"]
        ],
    )
    show(f"Wrote {output}")


def _train(
    part: str,
    source: tuple[str, str],
    output: Path,
    fields: dict[str, Any],
    schedule: tuple[int, float, int],
) -> dict[str, Any]:
    from quee_hf.build.quantization import check_output
    from quee_hf.build.retraining import RetrainingPlan, retrain_gates, retrain_heads
    from quee_hf.build.training import Schedule
    from quee_hf.cli.loading import load_model

    check_output(output)
    plan = RetrainingPlan(schedule=Schedule(*schedule), **fields)
    model, image_processor = load_model(source[0], plan.device, source[1])
    retrain = {"heads": retrain_heads, "gates": retrain_gates}[part]
    result = retrain(model, image_processor, plan, say)
    save_model(output, model, image_processor)
    return {"output": str(output), **result}
