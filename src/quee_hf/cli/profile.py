"""`quee profile`: how long the parts of a model take on this machine."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from quee_hf.cli import options
from quee_hf.cli.display import library_output_on_stderr, say, show, show_json, show_table
from quee_hf.cli.keeping import check_place, keep_measured
from quee_hf.cli.times import show_points, show_times

if TYPE_CHECKING:
    from quee_hf.configuration import QuEEConfig

_FEW_RUNS = 9
_HOW = "How to measure"  # panel


def profile(
    model: options.Model,
    *,
    engine: options.Engine = "torch",
    batch_sizes: Annotated[
        str, typer.Option(help="How many images to run at once, joined by commas.", rich_help_panel=_HOW)
    ] = "1,8,32",
    batch_size: Annotated[
        int | None,
        typer.Option(help="Of these, the one that costs are for; the largest if not given."),
    ] = None,
    threads: Annotated[
        int | None,
        typer.Option(min=1, help="Of the CPU; torch's choice if not given.", rich_help_panel=_HOW),
    ] = None,
    seconds: Annotated[
        float,
        typer.Option(
            help="When to begin no further round; three are measured in any case.", rich_help_panel=_HOW
        ),
    ] = 60.0,
    data: Annotated[
        str | None,
        typer.Option(
            help="Images used for nothing else: the model routes by these times from now on, and operating"
            " points are measured on them. Without, the times are kept, and costs stay what they are.",
            rich_help_panel=options.SOURCES,
        ),
    ] = None,
    limit: options.Limit = None,
    output: Annotated[
        Path | None,
        typer.Option(help="Directory for the measured model, new or empty; the model's own if not given."),
    ] = None,
    match_labels: options.MatchLabels = "names",
    revision: options.Revision = "main",
    device: options.Device = "auto",
    skip_bad: options.SkipBad = False,
    as_json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """Measure how long each part of a QuEE model takes where it runs, and keep that with the model.

    Every segment at every level, every exit and decision, and the embedding are run in turn, many times over.
    What is kept in the model's config.json is shown in its card, by `inspect`, and used by routing
    by time: `--target-latency-ms` of `predict`.

    **Example**

        quee profile run/model --engine openvino --threads 2 --data photos/held-out
    """
    check_place(model, output)
    how: dict[str, Any] = {
        "batch_sizes": options.parse_integers(batch_sizes, "--batch-sizes"),
        "batch_size": batch_size,
        "threads": threads,
        "max_seconds": seconds,
    }
    plan = None if data is None else options.Images(data, limit, match_labels, skip_bad)
    with library_output_on_stderr():
        config = _profile((model, revision, device), engine, how, plan, output)
        result = _describe(model, config, output)
    if as_json:
        show_json(result)
    else:
        _summarize(result, is_routed=data is not None)


def _profile(
    source: tuple[str, str, str],
    engine: str,
    how: dict[str, Any],
    plan: options.Images | None,
    output: Path | None,
) -> "QuEEConfig":
    from quee_hf.build.refitting import read_measuring_images, refit_operating_points
    from quee_hf.cli.loading import load_model
    from quee_hf.profile import profile as measure

    model, image_processor = load_model(source[0], source[2], source[1])
    model.set_engine(engine)
    images = None if plan is None else read_measuring_images(model, plan, say)
    measure(model, **how)
    if plan is not None and images is not None:
        model.set_cost_model("latency")
        refit_operating_points(model, image_processor, images, plan.data)
    keep_measured(source[0], output, model, image_processor)
    return model.config


def _describe(source: str, config: "QuEEConfig", output: Path | None) -> dict[str, Any]:
    from quee_hf.hub.times import timed_paths

    return {
        "model": source,
        "output": str(output or source),
        "exit_blocks": list(config.exit_blocks),
        "levels": config.level_list,
        "profile": config.profile,
        "times": timed_paths(config),
        "cost_table": config.cost_table,
        "cost_model": config.cost_model,
        "cost_lambda": config.cost_lambda,
        "operating_points": config.operating_points,
    }


def _summarize(result: dict[str, Any], *, is_routed: bool) -> None:
    profile, sizes = result["profile"], result["profile"]["batch_sizes"]
    show()
    show_table(
        f"ms per image of each part: median of at least {min(profile['num_rounds'])} runs (quartiles)",
        ("part", "level", *(f"batch {size}" for size in sizes)),
        [(*part, *(map(_spread_text, spreads))) for part, spreads in _parts(result)],
    )
    if min(profile["num_rounds"]) < _FEW_RUNS:
        show("These are few: give more --seconds, or fewer --batch-sizes.")
    show_times(profile, result["times"])
    show_table(
        f"Costs: ms at batch {profile['batch_size']}, with the exit; equally fast levels cost the same",
        ("segment ends at block", *map(str, result["levels"])),
        [
            (str(block), *(f"{cost:.3f}" for cost in row))
            for block, row in zip(result["exit_blocks"], result["cost_table"], strict=True)
        ],
    )
    if is_routed:
        show_points(result["operating_points"])
    elif result["cost_model"] != "latency":
        show("To route by these times: --data VALIDATION, images used for nothing else.")
    elif not result["operating_points"]:
        show("Operating points were measured with other times and are forgotten: measure them with --data.")
    show(f"Wrote {result['output']}")


def _parts(result: dict[str, Any]) -> list[tuple[tuple[str, str], list[list[float]]]]:
    """Return each part's name, its level, and its times at each batch size."""
    profile, blocks = result["profile"], result["exit_blocks"]
    rows = [(("embedding", ""), profile["embedding"])]
    for position, (first, last) in enumerate(zip([0, *blocks], blocks, strict=False)):
        for level, spreads in zip(result["levels"], profile["segments"][position], strict=True):
            rows.append(((f"blocks {first + 1} to {last}", str(level)), spreads))
        rows.append(((f"exit after block {last}", ""), profile["exits"][position]))
        if position < len(profile["decisions"]):
            rows.append(((f"decision after block {last}", ""), profile["decisions"][position]))
    return rows


def _spread_text(spread: list[float]) -> str:
    median, low, high = spread
    return f"{median:.3f} ({low:.3f}-{high:.3f})"
