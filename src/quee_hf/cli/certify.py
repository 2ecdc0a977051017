"""`quee certify`: the cheapest lambda that keeps a promise about accuracy."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from quee_hf.cli import options
from quee_hf.cli.display import library_output_on_stderr, say, show, show_json, show_table
from quee_hf.cli.keeping import check_place, keep_measured

if TYPE_CHECKING:
    from quee_hf.configuration import QuEEConfig
    from quee_hf.data import LabelledImages

_WHAT = "What to promise"  # panel


def certify(
    model: options.Model,
    data: Annotated[
        str,
        typer.Option(
            help="Images that the model was not made with (those of its operating points will do): a folder"
            " with a subfolder per class, parquet files (joined by commas), or a dataset on the Hub. For"
            " consistency without labels, if need be, and anywhere in a folder.",
            rich_help_panel=options.SOURCES,
        ),
    ],
    *,
    max_accuracy_drop: Annotated[
        str,
        typer.Option(
            help="Accuracy, below 1, that may be lost; several, joined by commas, are certified each by"
            " itself. One below 0, by betting, promises that accuracy is gained.",
            rich_help_panel=_WHAT,
        ),
    ] = "0.01",
    confidence: Annotated[
        float,
        typer.Option(
            help="With which the promise holds, between 0 and 1; a pipeline goes by 0.95 and more.",
            rich_help_panel=_WHAT,
        ),
    ] = 0.95,
    promise: Annotated[
        Literal["accuracy", "consistency"],
        typer.Option(
            help="accuracy: right at most that less often than the whole network. consistency: another class"
            " than the whole network's at most that often, whatever the labels say.",
            rich_help_panel=_WHAT,
        ),
    ] = "accuracy",
    method: Annotated[
        Literal["betting", "hoeffding_bentkus"],
        typer.Option(
            help="betting counts images that an early exit rescues; the other is the classical bound.",
            rich_help_panel=_WHAT,
        ),
    ] = "betting",
    limit: options.Limit = None,
    output: Annotated[
        Path | None,
        typer.Option(help="Directory for the certified model, new or empty; the model's own if not given."),
    ] = None,
    engine: options.Engine = "torch",
    match_labels: options.MatchLabels = "names",
    revision: options.Revision = "main",
    batch_size: options.BatchSize = 64,
    device: options.Device = "auto",
    skip_bad: options.SkipBad = False,
    as_json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """Find the cheapest operating point whose loss of accuracy is at most what you allow, with a guarantee.

    What is found is kept in the model's config.json, shown in its card, and used by
    `pipeline(..., max_accuracy_drop=0.01)`. Images that the model was made with are refused, and one that is
    there more than once counts once. That nothing can be certified from these images is an answer, too: it
    comes with how many it would take, nothing is written, and certificates that are there stay.

    **Example**

        quee certify run/model --data photos/held-out --max-accuracy-drop 0.005,0.01
    """
    limits = options.parse_numbers(max_accuracy_drop, "--max-accuracy-drop")
    check_place(model, output)
    plan, what = options.Images(data, limit, match_labels, skip_bad), (promise, confidence, method)
    with library_output_on_stderr():
        result = _certify((model, revision, device), (engine, batch_size), plan, limits, what, output)
    if as_json:
        show_json(result)
    else:
        _summarize(result)


def _certify(
    source: tuple[str, str, str],
    running: tuple[str, int],
    plan: options.Images,
    limits: list[float],
    what: tuple[str, float, str],
    output: Path | None,
) -> dict[str, Any]:
    from quee_hf.build.ingredients import read_images, read_matching
    from quee_hf.certification import Promise, certify_images, check_promise
    from quee_hf.cli.loading import load_model

    kind, confidence, method = what
    for value in limits:
        check_promise(value, confidence, kind, method)
    model, image_processor = load_model(source[0], source[2], source[1])
    model.check_gates_are_trained()
    model.set_engine(running[0])
    if kind == "consistency":
        images = read_images(plan.data, say, skip_bad=plan.skip_bad, labelled=False)
    else:
        images = read_matching(plan.data, model, plan, say)
    images = _each_once(images).spread(plan.limit)
    prepared, kept = images.with_processor(image_processor), Promise(kind, confidence, method)
    found = certify_images(model, prepared, kept, limits, source=plan.data, batch_size=running[1])
    is_certified = any(each.certificate for each in found)
    if is_certified:
        if output is None:
            _take_in(Path(source[0]), model.config)
        keep_measured(source[0], output, model, image_processor)
    return {
        "model": source[0],
        "output": str(output or source[0]) if is_certified else None,
        "data": {"source": plan.data, "num_images": len(images), "fingerprint": images.fingerprint},
        "promise": kind,
        "confidence": confidence,
        "method": method,
        "results": [
            {"max_accuracy_drop": value, **each._asdict()} for value, each in zip(limits, found, strict=True)
        ],
    }


def _take_in(folder: Path, config: "QuEEConfig") -> None:
    """Take in certificates that another process has kept in a model meanwhile."""
    from quee_hf.certificates import keep_certificates
    from quee_hf.configuration import QuEEConfig

    there, found = QuEEConfig.from_pretrained(folder), config.certificates
    if there.cost_model == config.cost_model:
        config.certificates = there.certificates
        keep_certificates(config, found or ())


def _each_once(images: "LabelledImages") -> "LabelledImages":
    """Return the images without those that are there again, and say so."""
    found = images.distinct()
    if repeated := len(images) - len(found):
        say(f"Left out: {repeated} images that are the same as others, pixel for pixel.")
    return found


def _summarize(result: dict[str, Any]) -> None:
    rows, accuracy = [], None
    for each in result["results"]:
        certificate, needed = each["certificate"], each["images_needed"]
        if certificate is not None:
            accuracy = certificate["full_accuracy"]
            cells = (
                f"{certificate['cost_lambda']:g}",
                f"{certificate['cost']:.3f}",
                f"{certificate['observed']:+.2%}",
                "",
            )
        else:
            cells = ("-", "-", "-", f"about {needed}" if needed else "too much lost here to tell")
        rows.append((f"{each['max_accuracy_drop']:.2%}", *cells))
    whole = "" if accuracy is None else f"; the whole network is right on {accuracy:.1%}"
    show_table(
        f"Certified with {result['confidence']:.4g} confidence from {result['data']['num_images']} images"
        f" ({result['promise']}{whole})",
        ("lose at most", "lambda", "cost", "lost here", "images needed"),
        rows,
    )
    show(
        f"Wrote {result['output']}" if result["output"] else "Nothing is certified, and nothing was written."
    )
