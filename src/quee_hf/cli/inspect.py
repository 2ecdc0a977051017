"""`quee inspect`: what a model is, from its config and the headers of its files."""

from typing import TYPE_CHECKING, Any

from quee_hf.cli import options
from quee_hf.cli.display import library_output_on_stderr, path_text, show, show_json, show_table
from quee_hf.cli.times import show_certificates, show_points, show_times

if TYPE_CHECKING:
    from quee_hf.configuration import QuEEConfig


def inspect(
    model: options.Model,
    revision: options.Revision = "main",
    as_json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """Say what a model is: exits, levels, quantization, paths and their costs, operating points.

    **Example**

        quee inspect run/model
    """
    with library_output_on_stderr():
        found = _inspect(model, revision)
    if as_json:
        show_json(found)
    else:
        _summarize(found)


def _inspect(source: str, revision: str) -> dict[str, Any]:
    from quee_hf.blueprint import path_tree, segment_costs, uniform_paths
    from quee_hf.cli.loading import load_config
    from quee_hf.hub.times import timed_paths
    from quee_hf.routing.costs import path_costs

    config = load_config(source, revision)
    paths = list(path_tree(config).paths)
    if "gates" not in config.trained_parts:  # then paths are forced, and any may be
        paths += [path for path in uniform_paths(config) if path not in paths]
    costs = path_costs(paths, segment_costs(config))
    return {
        "model": source,
        **_settings(config),
        "size_bytes": _size(source, revision),
        "paths": [
            {"path": [config.level_list[level] for level in path], "cost": round(float(cost), 6)}
            for path, cost in zip(paths, costs, strict=True)
        ],
        "operating_points": config.operating_points,
        "certificates": config.certificates,
        "profile": config.profile,
        "times": timed_paths(config),
    }


def _size(source: str, revision: str) -> int | None:
    """Return the bytes of the weights, of which nothing is fetched; `None` if the Hub cannot be asked."""
    from pathlib import Path

    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled
    from huggingface_hub.hf_api import RepoFile
    from huggingface_hub.utils import httpx  # type: ignore[attr-defined]

    from quee_hf.build.source import is_local
    from quee_hf.checkpoints import WEIGHT_FILE, weight_files

    if is_local(source):
        return sum(Path(file).stat().st_size for file in weight_files(source))
    try:
        files = list(HfApi().list_repo_tree(source, revision=revision))
    except (HfHubHTTPError, OfflineModeIsEnabled, httpx.HTTPError):
        return None
    return sum(file.size for file in files if isinstance(file, RepoFile) and WEIGHT_FILE.fullmatch(file.path))


def _settings(config: "QuEEConfig") -> dict[str, Any]:
    return {
        "backbone": config.backbone.model_type,
        "base_model": (config.record or {}).get("base_model"),
        "num_classes": config.num_classes,
        "exit_blocks": list(config.exit_blocks),
        "levels": config.level_list,
        "head_type": config.head_type,
        "quantization": config.quantization,
        "cost_model": config.cost_model,
        "cost_lambda": config.cost_lambda,
        "trained_parts": list(config.trained_parts),
        "format_version": config.format_version,
    }


def _summarize(found: dict[str, Any]) -> None:
    quantization = found["quantization"]
    lines = {
        "backbone": f"{found['backbone']}, {found['exit_blocks'][-1]} blocks, {found['num_classes']} classes",
        "made from": found["base_model"],
        "exits after blocks": ", ".join(map(str, found["exit_blocks"])),
        "levels": ", ".join(map(str, found["levels"])),
        "quantization": quantization
        and f"{quantization['method']}, {quantization['num_images']} calibration images,"
        f" {quantization['weight_sharing']} weights",
        "trained": ", ".join(found["trained_parts"]) or "nothing: images are not routed",
        "default cost_lambda": found["cost_lambda"],
        "weights": None if found["size_bytes"] is None else f"{found['size_bytes'] / 1e6:.1f} MB",
    }
    for name, value in lines.items():
        if value is not None:
            show(f"{name + ':':20} {value}")
    show()
    show_table(
        f"{len(found['paths'])} paths, costs by {found['cost_model']}",
        ("path", "after block", "cost"),
        [
            (path_text(row["path"]), str(found["exit_blocks"][len(row["path"]) - 1]), f"{row['cost']:.3f}")
            for row in found["paths"]
        ],
    )
    if found["operating_points"]:
        show_points(found["operating_points"])
    if found["certificates"]:
        show_certificates(found["certificates"])
    if found["profile"]:
        show_times(found["profile"], found["times"])
