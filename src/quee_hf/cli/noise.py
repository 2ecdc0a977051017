"""`quee noise`: how far quantization moves a model's hidden states, and which exits it spoils."""

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from quee_hf.cli import options
from quee_hf.cli.display import library_output_on_stderr, say, show, show_json, show_table

if TYPE_CHECKING:
    from quee_hf.levels import Level
    from quee_hf.modeling import QuEEForImageClassification

_FILES = ("noise.json", "noise.md", "noise.png")


class _Plan(NamedTuple):
    reference: str | None
    data: str
    level: "Level | None"
    num_images: int
    largest_jump: float
    least_inr: float
    skip_bad: bool
    batch_size: int
    device: str
    revision: str


def noise(
    model: options.Model,
    *,
    data: Annotated[
        str,
        typer.Option(
            help="Images; their labels are not used: a folder with a subfolder per class, parquet files"
            " (joined by commas), or a dataset on the Hub.",
            rich_help_panel=options.SOURCES,
        ),
    ],
    output: Annotated[Path, typer.Option(help="Directory for results.")],
    reference: Annotated[
        str | None,
        typer.Option(
            help="Directory or Hub id of the same model with float weights: a QuEE model, or the classifier"
            " that it was made from. Not needed if fp32 is among the model's levels.",
            rich_help_panel=options.SOURCES,
        ),
    ] = None,
    level: Annotated[
        str | None,
        typer.Option(
            help="Level of the whole network: 8, 6, bf16; the most exact integer level if not given."
        ),
    ] = None,
    num_images: Annotated[int, typer.Option(min=1, help="Use this many of the images, evenly spread.")] = 512,
    max_jump: Annotated[
        float,
        typer.Option(
            min=1,
            help="An exit is pathological if the noise after its block is more than this many times the"
            " median of the blocks around it, two on either side; inf turns this off.",
        ),
    ] = 2.0,
    min_inr: Annotated[
        float,
        typer.Option(
            min=0,
            help="An exit is pathological, too, if what its block changes is less than this many times the"
            " noise; 0 turns this off.",
        ),
    ] = 1.0,
    revision: options.Revision = "main",
    batch_size: options.BatchSize = 64,
    device: options.Device = "auto",
    skip_bad: options.SkipBad = False,
    as_json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """Compare a quantized model with full precision after every block, and name exits to leave out.

    The noise of a block is what quantization of all blocks so far has changed in its output. Writes
    noise.json, noise.md and noise.png.

    **Example**

        quee noise quantized --reference google/vit-base-patch16-224 --data photos/val --output noise
    """
    from quee_hf.levels import parse_level

    chosen = None if level is None else parse_level(level)
    limits = (num_images, max_jump, min_inr)
    plan = _Plan(reference, data, chosen, *limits, skip_bad, batch_size, device, revision)
    with library_output_on_stderr():
        result = _measure(model, plan, output)
    if as_json:
        show_json(result)
    else:
        _summarize(result, output)


def _measure(source: str, plan: _Plan, output: Path) -> dict[str, Any]:
    from quee_hf.build.ingredients import read_images
    from quee_hf.checkpoints import atomic_directory
    from quee_hf.cli.loading import load_model
    from quee_hf.diagnostics.noise_profile import check_comparable, measure_noise
    from quee_hf.diagnostics.versions import library_versions

    if output.exists() and not output.is_dir():
        raise ValueError(f"{output} is not a directory.")
    model, image_processor = load_model(source, plan.device, plan.revision)
    reference = _load_reference(source, plan.reference, model)
    check_comparable(model, reference, plan.level)
    images = read_images(plan.data, say, skip_bad=plan.skip_bad).spread(plan.num_images)
    prepared = images.with_processor(image_processor)
    profile = measure_noise(model, reference, prepared, level=plan.level, batch_size=plan.batch_size)
    result = {
        "model": source,
        "reference": plan.reference or source,
        "method": (model.config.quantization or {})["method"],
        "data": {"source": plan.data, "fingerprint": images.fingerprint},
        "versions": library_versions(),
        **profile,
        **_judge(profile, list(model.config.exit_blocks), plan),
    }
    with atomic_directory(output) as staging:
        _write(result, staging)
    return result


def _load_reference(
    source: str, reference: str | None, model: "QuEEForImageClassification"
) -> "QuEEForImageClassification":
    from quee_hf.cli.loading import load_float_model

    if reference is not None:
        return load_float_model(reference, model)
    if "fp32" not in model.level_list:
        raise ValueError(f"{source} has no float weights to compare with: name a model by --reference.")
    return model


def _judge(profile: dict[str, Any], exit_blocks: list[int], plan: _Plan) -> dict[str, Any]:
    """Return which exits are pathological, and what would speak against an exit after other blocks."""
    from quee_hf.diagnostics.pathological_exits import objections, pathological_exits

    limits = {"largest_jump": plan.largest_jump, "least_inr": plan.least_inr}
    against = objections(profile, **limits)
    return {
        # JSON knows no infinity: without a limit there is none.
        **{name: limit if math.isfinite(limit) else None for name, limit in limits.items()},
        "exit_blocks": exit_blocks,
        "pathological_exits": pathological_exits(profile, exit_blocks, **limits),
        "objections": {str(block): reasons for block, reasons in against.items() if reasons},
    }


def _objections(result: dict[str, Any]) -> dict[int, list[str]]:
    return {row["block"]: result["objections"].get(str(row["block"]), []) for row in result["blocks"]}


def _write(result: dict[str, Any], folder: Path) -> None:
    from quee_hf.build.files import write_json, write_text
    from quee_hf.diagnostics.noise_report import noise_table, plot_noise

    against, verdict = _objections(result), _verdict(result)
    title = f"{result['method']}, level {result['level']}, {result['num_images']} images"
    write_json(folder / "noise.json", result)
    write_text(folder / "noise.md", f"{title}\n\n{noise_table(result, against)}\n\n{verdict}\n")
    plot_noise(result, against, folder / "noise.png", title)


def _verdict(result: dict[str, Any]) -> str:
    exits, spoilt = result["exit_blocks"], result["pathological_exits"]
    if spoilt:
        named = ", ".join(f"{block} ({', '.join(result['objections'][str(block)])})" for block in spoilt)
        return f"Exits to leave out, after blocks: {named}"
    others = "" if len(exits) > 1 else "; the model has only its last"
    return f"No exit is pathological{others}."


def _summarize(result: dict[str, Any], output: Path) -> None:
    from quee_hf.diagnostics.noise_report import COSINES, number_text

    exits, against = result["exit_blocks"], _objections(result)
    show()
    show_table(
        f"{result['num_images']} images, {result['method']}, all blocks at level {result['level']}",
        ("block", "against", "exit", "noise", "jump", "INR", "tokens", "class", "patches"),
        [
            (
                str(row["block"]),
                ", ".join(against[row["block"]]),
                "yes" if row["block"] in exits else "",
                "-" if row["noise_ratio"] is None else f"{number_text(100 * row['noise_ratio'])}%",
                *(number_text(row[name]) for name in ("noise_jump", "inr")),
                *(f"{row[name]:.4f}" for name in COSINES),
            )
            for row in result["blocks"]
        ],
    )
    show(
        "Noise: over the signal; jump: noise over the median of the blocks around; INR: what the block"
        " changes,\nover noise; then cosines to full precision: all tokens, class token, mean patch."
    )
    final = result["final"]
    show(
        f"Last exit: cosine of embeddings {final['embedding_cosine']:.4f}, of logits"
        f" {final['logits_cosine']:.4f}; {final['same_class']:.1%} of the images keep their class."
    )
    show(_verdict(result), style="bold")
    show(f"Wrote {output}: {', '.join(_FILES)}")
