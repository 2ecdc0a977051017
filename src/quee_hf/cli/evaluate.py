"""`quee evaluate`: accuracy, cost and gate quality of a model on labelled images."""

import math
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer

from quee_hf.cli import options
from quee_hf.cli.display import (
    accuracy_text,
    library_output_on_stderr,
    path_text,
    say,
    show,
    show_json,
    show_table,
)
from quee_hf.processes import is_main_process

_PICTURES = (".png", ".svg", ".pdf")


class _Plan(NamedTuple):
    data: str
    limit: int | None
    match_labels: str
    skip_bad: bool
    batch_size: int
    device: str
    revision: str
    engine: str
    is_recorded: bool


def evaluate(
    model: options.Model,
    data: Annotated[
        str,
        typer.Option(
            help="Images used for nothing before: a folder with a subfolder per class, parquet files (joined"
            " by commas), or a dataset on the Hub."
        ),
    ],
    cost_lambda: Annotated[
        str | None,
        typer.Option(
            help="Operating points to report, such as 0,0.1,0.3; the model's own if not given.",
        ),
    ] = None,
    output: Annotated[Path, typer.Option(help="JSON file to write.")] = Path("evaluation.json"),
    picture: Annotated[
        Path | None,
        typer.Option(
            help="Picture to write, accuracy over cost (.png, .svg, .pdf); beside the JSON file if not given."
        ),
    ] = None,
    limit: options.Limit = None,
    record: Annotated[
        bool,
        typer.Option(
            "--record",
            help="Keep the points in the model's config.json and show them in its card. For test images only:"
            " ones that the model was made with are refused.",
        ),
    ] = False,
    engine: options.Engine = "torch",
    match_labels: options.MatchLabels = "names",
    revision: options.Revision = "main",
    batch_size: options.BatchSize = 64,
    device: options.Device = "auto",
    skip_bad: options.SkipBad = False,
    as_json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """Measure a QuEE model: accuracy and cost at every operating point, beside simpler ways to save.

    Every image runs every path once; after that, routing at any lambda takes seconds. For comparison, on the
    same images: every exit and every level alone, and leaving at the first exit whose largest probability
    reaches a threshold.

    Processes that `torchrun` or `accelerate launch` starts share the images; the first one writes.

    **Example**

        quee evaluate run/model --data photos/test --cost-lambda 0,0.1,0.3 --output evaluation.json

        torchrun --standalone --nproc_per_node 2 --no-python quee evaluate run/model --data photos/test
    """
    lambdas = None if cost_lambda is None else options.parse_numbers(cost_lambda, "--cost-lambda")
    if lambdas and not all(math.isfinite(value) and value >= 0 for value in lambdas):
        raise ValueError(f"--cost-lambda must be finite and at least 0, got {cost_lambda}.")
    if record and not Path(model).is_dir():
        raise ValueError(f"--record writes to the model's directory, which {model} is not.")
    picture = output.with_suffix(".png") if picture is None else picture
    for file in (output, picture):
        _check_writable(file)
    if picture.suffix.lower() not in _PICTURES:
        raise ValueError(f"--picture: {picture} must end in one of {', '.join(_PICTURES)}.")
    with library_output_on_stderr():
        plan = _Plan(data, limit, match_labels, skip_bad, batch_size, device, revision, engine, record)
        result = _evaluate(model, lambdas, plan)
        if result is None:
            return
        _write(result, output, picture)
        if record:
            _record(Path(model), result)
    if as_json:
        show_json(result)
    else:
        _summarize(result, output, picture)


def _check_writable(file: Path) -> None:
    if file.is_dir() or not file.absolute().parent.is_dir():
        raise ValueError(f"Cannot write {file}: it is a directory, or its directory does not exist.")


def _evaluate(model_source: str, lambdas: list[float] | None, plan: _Plan) -> dict[str, Any] | None:
    """Return what was found; nothing in a process that only helps another."""
    from quee_hf.build.ingredients import read_matching
    from quee_hf.cli.loading import load_model
    from quee_hf.data.roles import check_unused
    from quee_hf.diagnostics.evaluation import evaluate_model
    from quee_hf.diagnostics.static_paths import collect_all_outputs
    from quee_hf.diagnostics.versions import library_versions
    from quee_hf.errors import NotReadyError

    model, image_processor = load_model(model_source, plan.device, plan.revision)
    if "gates" not in model.config.trained_parts:
        raise NotReadyError(
            f"The gates of {model_source} are not trained: build the model with `quee build`, or train them"
            " with `quee train-gates`."
        )
    model.set_engine(plan.engine)
    images = read_matching(plan.data, model, plan, say).spread(plan.limit)
    if plan.is_recorded:
        check_unused(model.config, images, plan.data)
    outputs = collect_all_outputs(model, images.with_processor(image_processor), batch_size=plan.batch_size)
    if not is_main_process():
        return None
    model.cpu()
    return {
        "model": model_source,
        "engine": model.engine,
        "data": {
            "source": plan.data,
            "num_images": len(images),
            "num_skipped": len(images.skipped),
            "fingerprint": images.fingerprint,
        },
        "versions": library_versions(),
        **evaluate_model(model, outputs, lambdas),
    }


def _write(result: dict[str, Any], output: Path, picture: Path) -> None:
    from quee_hf.build.files import write_json
    from quee_hf.diagnostics.evaluation import plot_evaluation

    write_json(output, result)
    plot_evaluation(result, picture)


def _record(folder: Path, result: dict[str, Any]) -> None:
    from quee_hf.build.records import record_test
    from quee_hf.configuration import QuEEConfig
    from quee_hf.hub.card import write_card

    config, data = QuEEConfig.from_pretrained(folder), result["data"]
    record_test(config, data["source"], data["num_images"], result["points"])
    config.save_pretrained(folder)
    write_card(folder, config)


def _summarize(result: dict[str, Any], output: Path, picture: Path) -> None:
    blocks = "/".join(str(block) for block in result["exit_blocks"])
    show()
    show_table(
        f"{result['data']['num_images']} images, 95 % intervals; last column: share leaving after each block",
        ("lambda", "cost", "accuracy", "expected", f"% after {blocks}"),
        [
            (
                f"{row['cost_lambda']:g}",
                f"{row['cost']:.3f}",
                accuracy_text(row),
                f"{1 - row['predicted_error']:.1%}",
                "/".join(f"{share * 100:.0f}" for share in row["exit_shares"]),
            )
            for row in result["points"]
        ],
    )
    show_table(
        "For comparison: all images on one path",
        ("path", "after block", "cost", "accuracy"),
        [
            (path_text(row["path"]), str(row["exit_block"]), f"{row['cost']:.3f}", accuracy_text(row))
            for row in (*result["exits"], *result["uniform_paths"][1:])
        ],
    )
    area = result["area_under_curve"]
    low, high = area["difference_interval"]
    show(
        f"Mean accuracy over budgets from 0.2 to 1: routed {area['routed']:.1%}, thresholding"
        f" {area['thresholding']:.1%}, difference {area['difference']:+.2%} ({low:+.2%} to {high:+.2%})"
    )
    for file in (output, picture):
        show(f"Wrote {file}")
