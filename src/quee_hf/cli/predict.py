"""`quee predict`: classify image files."""

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from quee_hf.cli import options
from quee_hf.cli.display import library_output_on_stderr, path_text, show, show_json, show_table
from quee_hf.cli.image_files import expand, read_batches, report_unreadable

if TYPE_CHECKING:
    from PIL import Image

    from quee_hf.cli.loading import LoadedModel


def predict(
    model: options.Model,
    images: options.ImageFiles,
    cost_lambda: Annotated[
        float | None,
        typer.Option(
            help="What the cost of the full network is worth in error probability: 0 asks for accuracy at any"
            " cost. The model's default if not given.",
        ),
    ] = None,
    target_cost: Annotated[
        float | None,
        typer.Option(
            help="Highest mean cost, from 0 to 1: takes the most accurate operating point that costs no more."
        ),
    ] = None,
    target_latency_ms: Annotated[
        float | None,
        typer.Option(
            help="Highest mean time of an image in milliseconds: takes the most accurate operating point that"
            " takes no longer, by the times of `quee profile`."
        ),
    ] = None,
    hold: Annotated[
        bool,
        typer.Option(
            "--hold",
            help="Move lambda from batch to batch so that these images, whatever they are, cost on average"
            " what --target-cost or --target-latency-ms says.",
        ),
    ] = False,
    path: Annotated[
        str | None,
        typer.Option(
            help="Levels of the parts of the network that all images are to run, joined by commas, 8,8,6;"
            " they leave at the exit after the last. Needs no trained gates."
        ),
    ] = None,
    top_k: Annotated[int, typer.Option(min=1, help="Classes to list per image.")] = 1,
    engine: options.Engine = "torch",
    revision: options.Revision = "main",
    batch_size: options.BatchSize = 32,
    device: options.Device = "auto",
    skip_bad: options.SkipBad = False,
    as_json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """Classify images: label, score, and what each image took to decide.

    The path lists the level of each part of the network that the image went through; the cost is relative to
    the whole network at its most exact level; the error is the predicted probability that the label is wrong.

    **Example**

        quee predict run/model cat.jpg holiday/ --target-cost 0.5 --top-k 3
    """
    targets = {"target_cost": target_cost, "target_latency_ms": target_latency_ms}
    _check_choices(cost_lambda, targets, path)
    if hold and target_cost is None and target_latency_ms is None:
        raise ValueError("--hold needs --target-cost or --target-latency-ms.")
    files = expand(images)
    with library_output_on_stderr():
        from quee_hf.cli.loading import load_model

        loaded = load_model(model, device, revision)
        loaded.model.set_engine(engine)
        route = _hold(loaded, targets) if hold else _route(loaded, cost_lambda, targets, path)
        result = {"model": model, **_predict(loaded, files, route, top_k, batch_size)}
    if as_json:
        show_json(result)
    else:
        _summarize(result)
    report_unreadable(result["unreadable"], len(files), skip_bad=skip_bad)


def _check_choices(cost_lambda: float | None, targets: dict[str, float | None], path: str | None) -> None:
    if sum(choice is not None for choice in (cost_lambda, *targets.values(), path)) > 1:
        raise ValueError("Give one of --cost-lambda, --target-cost, --target-latency-ms and --path.")
    target_cost, target_latency_ms = targets["target_cost"], targets["target_latency_ms"]
    if cost_lambda is not None and not cost_lambda >= 0:
        raise ValueError(f"--cost-lambda must be at least 0, got {cost_lambda}.")
    if target_cost is not None and not 0 <= target_cost <= 1:
        raise ValueError(f"--target-cost must be from 0 to 1, got {target_cost}.")
    if target_latency_ms is not None and not target_latency_ms >= 0:
        raise ValueError(f"--target-latency-ms must be at least 0, got {target_latency_ms}.")


def _route(
    loaded: "LoadedModel", cost_lambda: float | None, targets: dict[str, float | None], path: str | None
) -> dict[str, Any]:
    """Return the model's arguments that say how to route; none if its default is wanted."""
    from quee_hf.execution.operating_points import lambda_within
    from quee_hf.levels import parse_level

    if path is not None:
        return {"path": [parse_level(level) for level in path.split(",")]}
    if any(target is not None for target in targets.values()):
        return {"cost_lambda": lambda_within(loaded.model, **targets)}
    return {} if cost_lambda is None else {"cost_lambda": cost_lambda}


def _hold(loaded: "LoadedModel", targets: dict[str, float | None]) -> dict[str, Any]:
    """Return what moves lambda."""
    from quee_hf.execution.budget import BudgetController

    controller = BudgetController.for_model(
        loaded.model, target_cost=targets["target_cost"], target_latency_ms=targets["target_latency_ms"]
    )
    return {"cost_lambda": controller}


def _predict(
    loaded: "LoadedModel",
    files: list[Path],
    route: dict[str, Any],
    top_k: int,
    batch_size: int,
) -> dict[str, Any]:
    from tqdm.auto import tqdm

    config = loaded.model.config
    used = route.get("cost_lambda", None if "path" in route else config.cost_lambda)
    unreadable: list[dict[str, str]] = []
    found = []
    with tqdm(total=len(files), desc="Classifying", unit="image", leave=False) as bar:
        for batch in read_batches(files, batch_size, unreadable):
            found += _classify(loaded, batch, route, top_k)
            bar.update(len(batch))
    costs = [image["cost"] for image in found]
    budget = None if used is None or isinstance(used, int | float) else used.report()
    if budget is not None:
        used = budget["cost_lambda"]
    return {
        "cost_lambda": "inf" if used == math.inf else used,
        "budget": budget,
        "path": route.get("path"),
        "mean_cost": sum(costs) / len(costs) if costs else None,
        "images": found,
        "unreadable": unreadable,
    }


def _classify(
    loaded: "LoadedModel", batch: list[tuple[Path, "Image.Image"]], route: dict[str, Any], top_k: int
) -> list[dict[str, Any]]:
    import torch

    from quee_hf.execution.finite import check_finite

    model, config, names = loaded.model, loaded.model.config, loaded.model.config.class_names
    pixel_values = loaded.image_processor(images=[image for _, image in batch], return_tensors="pt")
    check_finite(pixel_values["pixel_values"])
    with torch.inference_mode():
        out = model(pixel_values["pixel_values"].to(model.device), **route)
    scores, labels = out.logits.softmax(dim=-1).topk(min(top_k, model.num_labels))
    described = []
    for row, (file, _) in enumerate(batch):
        exit_index, error = int(out.exit_index[row]), float(out.error_probability[row])
        described.append(
            {
                "image": str(file),
                "predictions": [
                    {"label": names[int(label)], "score": float(score)}
                    for label, score in zip(labels[row], scores[row], strict=True)
                ],
                "exit_block": config.exit_blocks[exit_index],
                "path": [config.level_list[level] for level in out.path[row, : exit_index + 1].tolist()],
                "cost": float(out.cost[row]),
                "error_probability": None if math.isnan(error) else error,
            }
        )
    return described


def _summarize(result: dict[str, Any]) -> None:
    if not result["images"]:
        return
    rows = []
    for image in result["images"]:
        error = image["error_probability"]
        for rank, prediction in enumerate(image["predictions"]):
            route = (
                str(image["exit_block"]),
                path_text(image["path"]),
                f"{image['cost']:.3f}",
                "-" if error is None else f"{error:.1%}",
            )
            label, score = prediction["label"], f"{prediction['score']:.1%}"
            rows.append((image["image"], label, score, *route) if not rank else ("", label, score, *[""] * 4))
    show_table("Predictions", ("image", "label", "score", "block", "path", "cost", "error"), rows)
    how = "the whole network" if result["cost_lambda"] is None else f"lambda {result['cost_lambda']}"
    if result["path"] is not None:
        how = f"path {path_text(result['path'])}"
    if (budget := result["budget"]) is not None:
        how = (
            f"budget {budget['budget']:g} {budget['unit']}, mean {budget['mean']:.4g} ({budget['verdict']}),"
            f" last lambda {budget['cost_lambda']:.4g}"
        )
    show(f"{len(result['images'])} images, mean cost {result['mean_cost']:.3f}, {how}")
