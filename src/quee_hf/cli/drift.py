"""`quee drift`: whether images are like those that a model was validated on."""

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from quee_hf.cli import options
from quee_hf.cli.display import library_output_on_stderr, say, show, show_json, show_table
from quee_hf.cli.image_files import expand, read_batches, report_unreadable
from quee_hf.cli.keeping import keep_measured

if TYPE_CHECKING:
    from quee_hf.cli.loading import LoadedModel


def drift(
    model: options.Model,
    images: options.ImageFiles,
    cost_lambda: Annotated[
        float | None,
        typer.Option(min=0, help="At which the images are routed; the model's default if not given."),
    ] = None,
    window: Annotated[
        int,
        typer.Option(min=1, help="Images to compare at once; the last that do not fill one are left out."),
    ] = 500,
    false_alarm_rate: Annotated[
        float, typer.Option(help="Probability that a window without drift is reported.")
    ] = 0.01,
    shadow_share: Annotated[
        float,
        typer.Option(
            min=0, max=1, help="Of images that the whole network classifies, too, to see whether it agrees."
        ),
    ] = 0.0,
    reference: Annotated[
        str | None,
        typer.Option(
            help="Images used for nothing else, to compare with, a folder with a subfolder per class, parquet"
            " files, or a dataset on the Hub: kept in the model's directory. Not needed where its operating"
            " points were measured with this version.",
            rich_help_panel=options.SOURCES,
        ),
    ] = None,
    engine: options.Engine = "torch",
    match_labels: options.MatchLabels = "names",
    revision: options.Revision = "main",
    batch_size: options.BatchSize = 32,
    device: options.Device = "auto",
    skip_bad: options.SkipBad = False,
    as_json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """Tell whether images are like those that a model was validated on; they need no labels.

    Compares where images leave the network, how probable it thinks an error, and how sure it is, with the
    images that measured its operating points, at the same lambda.

    **Example**

        quee drift run/model holiday/ --window 200 --shadow-share 0.1
    """
    if not 0 < false_alarm_rate < 1:
        raise ValueError(f"--false-alarm-rate must be above 0 and below 1, got {false_alarm_rate}.")
    if reference is not None and not Path(model).is_dir():
        raise ValueError(f"--reference is kept in the model's directory, which {model} is not: download it.")
    files = expand(images)
    plan = None if reference is None else options.Images(reference, None, match_labels, skip_bad)
    how = {"window": window, "false_alarm_rate": false_alarm_rate, "shadow_share": shadow_share}
    with library_output_on_stderr():
        from quee_hf.cli.loading import load_model

        loaded = load_model(model, device, revision)
        loaded.model.set_engine(engine)
        if plan is not None:
            _record(model, loaded, plan)
        result = {"model": model, **_compare(loaded, files, cost_lambda, how, batch_size)}
    if as_json:
        show_json(result)
    else:
        _summarize(result)
    report_unreadable(result["unreadable"], len(files), skip_bad=skip_bad)


def _record(source: str, loaded: "LoadedModel", plan: options.Images) -> None:
    from quee_hf.build.ingredients import read_matching
    from quee_hf.data.roles import OPERATING_POINTS, check_unused
    from quee_hf.diagnostics.drift_recording import record_drift_reference

    found = read_matching(plan.data, loaded.model, plan, say)
    check_unused(loaded.model.config, found, plan.data, but=(OPERATING_POINTS,))
    record_drift_reference(loaded.model, found.with_processor(loaded.image_processor))
    keep_measured(source, None, loaded.model, loaded.image_processor)


def _compare(
    loaded: "LoadedModel",
    files: list[Path],
    cost_lambda: float | None,
    how: dict[str, Any],
    batch_size: int,
) -> dict[str, Any]:
    import torch
    from tqdm.auto import tqdm

    from quee_hf.diagnostics.drift import DriftMonitor

    monitor, unreadable = DriftMonitor(loaded.model, **how), []  # type: ignore[var-annotated]
    used = loaded.model.config.cost_lambda if cost_lambda is None else cost_lambda
    if used is None:
        raise ValueError("The model has no default lambda: give --cost-lambda.")
    windows = []
    with tqdm(total=len(files), desc="Classifying", unit="image", leave=False) as bar:
        for batch in read_batches(files, min(batch_size, how["window"]), unreadable):
            given = loaded.image_processor(images=[image for _, image in batch], return_tensors="pt")
            before = monitor.report()["num_windows"]
            with torch.inference_mode():
                monitor(given["pixel_values"].to(loaded.model.device), cost_lambda=used)
            report = monitor.report()
            if report["num_windows"] > before:
                shifts = {name: shift._asdict() for name, shift in report["shifts"].items()}
                windows.append({"remarkable": report["remarkable"], "shifts": shifts})
            bar.update(len(batch))
    report = monitor.report()
    names = ("num_images", "num_unanswered", "num_windows", "num_drifted", "agreement", "images_needed")
    return {
        "cost_lambda": "inf" if used == math.inf else used,
        **{name: report[name] for name in names},  # type: ignore[literal-required]
        "window": how["window"],
        "windows": windows,
        "unreadable": unreadable,
    }


def _summarize(result: dict[str, Any]) -> None:
    if result["num_unanswered"]:
        show(f"{result['num_unanswered']} images have no answer (NaN or infinity) and were left out")
    if not result["num_images"]:
        return
    if not result["num_windows"]:
        show(f"{result['num_images']} images are too few: a window has {result['window']} (--window).")
    else:
        rows = []
        for number, each in enumerate(result["windows"], start=1):
            cells = [f"{shift['psi']:.3f} ({shift['p_value']:.3g})" for shift in each["shifts"].values()]
            rows.append((str(number), *cells, ", ".join(each["remarkable"]) or "-"))
        show_table(
            f"Windows of {result['window']} images: stability index (p-value) of each quantity",
            ("window", "exit", "error", "confidence", "differs in"),
            rows,
        )
        show(f"{result['num_drifted']} of {result['num_windows']} windows differ from validation")
        if left := result["num_images"] % result["window"]:
            show(f"The last {left} images fill no window and were left out")
    if (agreement := result["agreement"]) is not None:
        low, high = agreement["interval"]
        show(
            f"The whole network agrees on {agreement['share']:.1%} ({low * 100:.1f}-{high * 100:.1f}) of"
            f" {agreement['num_images']} images; expected {agreement['expected']:.1%}"
        )
