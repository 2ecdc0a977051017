"""`quee compare`: a model's gates beside other ways to route it."""

from pathlib import Path
from typing import Annotated, Any

import typer

from quee_hf.cli import options
from quee_hf.cli.display import library_output_on_stderr, say, show, show_json, show_table


def compare(
    model: options.Model,
    *,
    data: Annotated[
        str,
        typer.Option(
            help="Test images, used for nothing before: a folder with a subfolder per class, parquet files"
            " (joined by commas), or a dataset on the Hub.",
            rich_help_panel=options.SOURCES,
        ),
    ],
    validation: Annotated[
        str,
        typer.Option(
            help="Images that the classifier has not seen, for all methods to learn from.",
            rich_help_panel=options.SOURCES,
        ),
    ],
    output: Annotated[
        Path,
        typer.Option(help="Directory for results; the same command goes on from what is there."),
    ] = Path("comparison"),
    methods: Annotated[
        str | None,
        typer.Option(
            help="Names joined by commas, such as max-probability,oracle; all if not given. Only if named:"
            " clusters-2, -5, -10, -20, -40, -70, the paper's gates with so many clusters, and"
            " quee-seeing-test, gates that learn from the test images: a ceiling."
        ),
    ] = None,
    seeds: Annotated[int, typer.Option(help="How often each method is fitted, on other divisions.")] = 3,
    gate_epochs: Annotated[int, typer.Option(help="Most epochs for the gates; they stop early.")] = 60,
    match_labels: options.MatchLabels = "names",
    revision: options.Revision = "main",
    batch_size: options.BatchSize = 64,
    device: options.Device = "auto",
    skip_bad: options.SkipBad = False,
    as_json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """Compare a model's gates with thresholds, patience, fixed levels, chance and an oracle.

    Gates and baselines are fitted on the same validation images, several times, and route the same test
    images. Intervals are over both images and fits. Every image runs every path once; then all is replayed.

    **Example**

        quee compare run/model --data photos/test --validation photos/unseen --output comparison
    """
    from quee_hf.build.comparison_methods import DEFAULT_METHODS

    chosen = DEFAULT_METHODS if methods is None else tuple(name.strip() for name in methods.split(","))
    fields = {"data": data, "validation": validation, "methods": chosen, "num_seeds": seeds}
    fields |= {"gate_epochs": gate_epochs, "match_labels": match_labels, "batch_size": batch_size}
    with library_output_on_stderr():
        result = _compare(model, {**fields, "device": device, "skip_bad": skip_bad}, output, revision)
    if as_json:
        show_json(result)
    else:
        _summarize(result, output)


def _compare(source: str, fields: dict[str, Any], output: Path, revision: str) -> dict[str, Any]:
    from quee_hf.build.comparison import ComparisonPlan, compare
    from quee_hf.cli.loading import load_model

    plan = ComparisonPlan(**fields)
    if output.exists() and not output.is_dir():
        raise ValueError(f"{output} is not a directory.")
    model, image_processor = load_model(source, plan.device, revision)
    return compare(model, image_processor, plan, output, say)


def _summarize(result: dict[str, Any], output: Path) -> None:
    found = result["methods"]
    order = sorted(found, key=lambda name: -found[name]["area"]["value"])
    show_table(
        f"{result['data']['num_images']} test images, {result['num_seeds']} fits, 95 % intervals; area: mean"
        " accuracy over budgets from 0.2 to 1",
        ("method", "area", "less that of quee"),
        [(name, _text(found[name]["area"]), _text(found[name]["area_difference"])) for name in order],
    )
    show(f"Wrote {output}: comparison.json, comparison.md, comparison.png")


def _text(described: dict[str, Any]) -> str:
    low, high = described["interval"]
    return f"{described['value']:.2%} ({low:.2%} to {high:.2%})"
