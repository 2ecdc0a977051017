"""The sections of a model card, each a function of the config; an empty string if there is nothing to say."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from quee_hf.configuration import QuEEConfig
from quee_hf.hub.promises import promises_section
from quee_hf.hub.times import times_section
from quee_hf.intervals import wilson_interval
from quee_hf.tables import markdown_table

_SMALLEST_STEP = 0.005  # of cost, between rows of the table
_COST_UNITS = {
    "bitops": "multiplications and additions of the blocks, times their bits (BitOPs)",
    "flops": "multiplications and additions of the blocks (FLOPs)",
    "latency": "measured time of the blocks",
}
_NOT_COUNTED = "Embeddings, heads and gates are not counted"


def shown_points(config: QuEEConfig) -> list[dict[str, Any]]:
    """Return the operating points that differ in cost, and the default, with 95 % intervals.

    Returns:
        The points as in the config, each with `low` and `high`, the ends of its accuracy's interval.
    """
    shown: list[dict[str, Any]] = []
    for point in _differing(config.operating_points or (), config.cost_lambda):
        count = point.get("num_images", 0)
        ends = (point["accuracy"],) * 2
        if count:
            ends = wilson_interval(round(point["accuracy"] * count), count)
        shown.append({**point, "num_images": count, "low": ends[0], "high": ends[1]})
    return shown


def _differing(points: Sequence[Mapping[str, Any]], default: float | None) -> list[Mapping[str, Any]]:
    """Return the points that differ in cost from the one before, and the default."""
    shown: list[Mapping[str, Any]] = []
    for point in points:
        is_default = point["cost_lambda"] == default
        if is_default or not shown or abs(point["cost"] - shown[-1]["cost"]) >= _SMALLEST_STEP:
            shown.append(point)
    return shown


def title_of(config: QuEEConfig, repo_id: str | None) -> str:
    """Return what to call a model: its name on the Hub, or its kind."""
    return repo_id.rpartition("/")[2] if repo_id else f"quee-{config.backbone.model_type}"


def _what(config: QuEEConfig, repo_id: str | None) -> str:
    record: Mapping[str, Any] = config.record or {}
    base = record.get("base_model")
    made = f"made from [{base}](https://huggingface.co/{base})" if base else "made from a trained classifier"
    return (
        f"# {title_of(config, repo_id)}\n\n"
        f"A [QuEE](https://arxiv.org/abs/2406.14404) image classifier of {config.num_classes} classes,"
        f" {made} (`{config.backbone.model_type}`, {config.exit_blocks[-1]} blocks). {_how_it_runs(config)}"
    )


def _how_it_runs(config: QuEEConfig) -> str:
    blocks, levels = _join(config.exit_blocks), _join(config.levels)
    if config.num_exits == 1:
        return f"The whole network runs at one level, which `path` names: {levels}."
    exits = (
        f"An image may leave after block {blocks}, and the blocks before each exit run at a level of their"
        f" own: {levels}. "
    )
    if not _is_routed(config):
        return exits + "`path` says which; gates that would decide for each image are not trained."
    return exits + (
        "Gates that predict errors decide both while the image is classified; `cost_lambda` moves between"
        " accurate and cheap, with no retraining."
    )


def _is_routed(config: QuEEConfig) -> bool:
    return config.cost_lambda is not None or "gates" in config.trained_parts


def _use(config: QuEEConfig, repo_id: str | None) -> str:
    source = repo_id or "path/to/this/model"
    path = [config.level_list[-1]] * config.num_exits
    extra = f'\nclassify("image.png", path={path!r})  # the whole network at level {path[0]}'
    if _is_routed(config):
        extra = (
            '\nclassify("image.png", cost_lambda=0.3)  # cheaper'
            '\nclassify("image.png", cost_lambda=0.3, return_routing=True)  # and the route'
        )
    default = (
        f"Without `cost_lambda`, {config.cost_lambda} is used."
        if config.cost_lambda is not None
        else "Without `cost_lambda`, every image runs the whole network at the most exact level."
    )
    return (
        "## How to use it\n\n```bash\npip install quee-hf\n```\n\n```python\n"
        "import quee_hf  # registers the model type and the pipeline\n"
        "from transformers import pipeline\n\n"
        f'classify = pipeline("image-classification", model="{source}")\n'
        f'classify("image.png"){extra}\n```\n\n{default}'
    )


def _points(config: QuEEConfig, _repo_id: str | None) -> str:
    points = shown_points(config)
    if not points:
        return ""
    is_timed = all("latency_ms" in point for point in points)
    rows = [
        [
            f"{point['cost_lambda']:g}"
            + (" (default)" if point["cost_lambda"] == config.cost_lambda else ""),
            f"{point['cost']:.3f}",
            *([f"{point['latency_ms']:.3f}"] if is_timed else []),
            f"{point['accuracy']:.1%} ({point['low']:.1%} to {point['high']:.1%})",
            " ".join(f"{share:.0%}" for share in point.get("exit_shares", ())),
        ]
        for point in points
    ]
    times = ["mean ms"] if is_timed else []
    header = ["cost_lambda", "mean cost", *times, "accuracy (95 %)", "share of images per exit"]
    return (
        "## Operating points\n\n![Accuracy over cost](operating_points.png)\n\n"
        f"Measured on {points[0]['num_images']} images{_used(config)}. Other images cost and err differently:"
        f" these are measurements, not guarantees.\n\n{markdown_table(header, rows)}"
    )


def _used(config: QuEEConfig) -> str:
    """Say what is known of the images of the operating points."""
    known = {role["role"] for role in _recorded_roles(config)}
    return " used for nothing else but to choose the default" if "operating points" in known else ""


def _test(config: QuEEConfig, _repo_id: str | None) -> str:
    test = _measured(config).get("test")
    if not test:
        return ""
    rows = [
        [f"{point['cost_lambda']:g}", f"{point['cost']:.3f}", _accuracy(point)]
        for point in _differing(test["points"], config.cost_lambda)
    ]
    is_known = any(role["role"] == "gate training" for role in _recorded_roles(config))
    used = "none of those that it was made with" if is_known else "what it was made with is not recorded"
    return (
        f"## On test images\n\n{test['num_images']} images of {test['data']}; {used}.\n\n"
        + markdown_table(["cost_lambda", "mean cost", "accuracy (95 %)"], rows)
    )


def _networks(config: QuEEConfig, _repo_id: str | None) -> str:
    measured = _measured(config)
    parts = []
    for key, title in (("uniform_paths", "whole network"), ("exits", "all images leave at")):
        if entries := measured.get(key):
            rows = [
                [
                    " → ".join(map(str, entry["path"])),
                    str(entry["exit_block"]),
                    f"{entry['cost']:.3f}",
                    _accuracy(entry),
                ]
                for entry in entries
            ]
            parts.append(markdown_table([title, "block", "cost", "accuracy (95 %)"], rows))
    if not parts:
        return ""
    data = f"On images of {measured['data']}.\n\n" if "data" in measured else ""
    return f"## Without routing\n\n{data}" + "\n\n".join(parts)


def _quantization(config: QuEEConfig, _repo_id: str | None) -> str:
    scheme = config.scheme
    if scheme is None:
        return ""
    options = "".join(f", `{key}={value}`" for key, value in scheme.options.items())
    kept = ", ".join(f"`{product}` at {level}" for product, level in scheme.kept.items())
    sharing = {
        "independent": "each level has its own weights",
        "nested": "one store of 8-bit weights, whose leading bits are the lower levels",
    }[scheme.weight_sharing]
    return (
        f"## Quantization\n\nMethod `{scheme.method}`{options}, {scheme.num_images} calibration images,"
        f" weights and activations; {sharing}." + (f" Exceptions: {kept}." if kept else "")
    )


def _gates(config: QuEEConfig, _repo_id: str | None) -> str:
    gates = _measured(config).get("gates")
    if not gates:
        return ""
    rows = [
        [
            str(gate["exit_block"]),
            f"{gate['rmse']:.3f} ({gate['rmse_of_constant']:.3f})",
            *(_number(gate.get(key)) for key in ("auroc", "auroc_of_max_probability", "ece")),
        ]
        for gate in gates
    ]
    header = ["gate after block", "RMSE (of a constant)", "AUROC", "of max probability", "ECE"]
    return (
        f"## Gates\n\n{markdown_table(header, rows)}\n\nRMSE is to what the gates were taught, over all"
        " paths; AUROC ranks images by the predicted error of leaving at once; ECE is the calibration of that"
        " prediction."
    )


def _cost(config: QuEEConfig, _repo_id: str | None) -> str:
    is_timed = config.cost_model == "latency" and config.profile is not None
    return (
        f"## Cost\n\n`{config.cost_model}`: {_COST_UNITS[config.cost_model]}, relative to the dearest path."
        f" {'Heads and gates are counted, the embedding is not' if is_timed else _NOT_COUNTED}."
    )


def _roles(config: QuEEConfig, _repo_id: str | None) -> str:
    roles = _recorded_roles(config)
    if not roles:
        return ""
    rows = [[role["role"], str(role["num_images"]), role["source"]] for role in roles]
    note = ""
    if config.scheme is not None and any(role["role"] == "calibration images" for role in roles):
        note = f"\n\nOf the calibration images, {config.scheme.num_images} were used."
    return f"## Which images played which role\n\n{markdown_table(['role', 'images', 'source'], rows)}{note}"


def _limits(config: QuEEConfig, _repo_id: str | None) -> str:
    lines = ["- The classes and the kind of images are those of the model that it was made from."]
    if config.quantization is not None:
        lines.append(
            "- Integer levels are computed exactly as integer kernels would, in floating point: costs in"
            " BitOPs fall with the bits, time does not yet."
        )
    if config.operating_points and not config.certificates:
        lines.append("- No loss of accuracy is guaranteed at any operating point.")
    if not _is_routed(config) and config.num_exits > 1:
        lines.append("- The gates are not trained: images are not routed, but a path can be forced.")
    return "## Limits\n\n" + "\n".join(lines)


def _licence(config: QuEEConfig, _repo_id: str | None) -> str:
    record: Mapping[str, Any] = config.record or {}
    stated = record.get("license")
    text = f"`{stated}`." if stated else "Not stated here; that of the model that it was made from applies."
    versions = _measured(config).get("versions")
    made = ""
    if versions:
        made = "\n\nMade with " + ", ".join(f"{key} {value}" for key, value in versions.items()) + "."
    return f"## Licence\n\n{text}{made}"


SECTIONS: tuple[Callable[[QuEEConfig, str | None], str], ...] = (
    _what,
    _use,
    _points,
    promises_section,
    _test,
    _networks,
    _quantization,
    _gates,
    _cost,
    times_section,
    _roles,
    _limits,
    _licence,
)


def _measured(config: QuEEConfig) -> Mapping[str, Any]:
    return (config.record or {}).get("measured") or {}


def _recorded_roles(config: QuEEConfig) -> Sequence[Mapping[str, Any]]:
    return (config.record or {}).get("roles") or ()


def _join(values: Sequence[object]) -> str:
    *first, last = map(str, values)
    return f"{', '.join(first)} or {last}" if first else last


def _accuracy(described: Mapping[str, Any]) -> str:
    low, high = described["accuracy_interval"]
    return f"{described['accuracy']:.1%} ({low:.1%} to {high:.1%})"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"
