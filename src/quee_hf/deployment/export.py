"""Write a model as ONNX graphs, and what routes images through them."""

import json
import os
import warnings
from collections.abc import Callable
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from PIL import Image
from tqdm.auto import tqdm

from quee_hf.blueprint import check_runnable, image_size, num_tokens
from quee_hf.checkpoints import replaced_directory
from quee_hf.deployment.description import (
    DESCRIPTION_FILE,
    EXPORT_FORMAT,
    Description,
    GateDescription,
    GraphNames,
    hash_graph,
    write_description,
)
from quee_hf.deployment.files import HOST_FILES, write_host_files
from quee_hf.deployment.image_reader import ImageReader
from quee_hf.errors import NotReadyError
from quee_hf.execution.engines.graph_engine import GraphEngine
from quee_hf.execution.engines.onnxruntime import OnnxRuntimeEngine
from quee_hf.gates import ErrorGates, Gates
from quee_hf.graphs.embedding import embedding_graph
from quee_hf.graphs.exits import exit_graph
from quee_hf.graphs.segments import segment_graph
from quee_hf.graphs.steps import gate_graph
from quee_hf.levels import Level
from quee_hf.modeling import QuEEForImageClassification

Graphs = dict[str, Callable[[], onnx.ModelProto]]  # by the name of the file


def write_export(
    model: QuEEForImageClassification,
    directory: str | os.PathLike[str],
    image_processor: Any,
    *,
    overwrite: bool,
) -> None:
    """Do what `quee_hf.deployment.export_onnx` does."""
    target = Path(os.path.abspath(directory))
    _check_target(target, overwrite=overwrite)
    if (device := model.device).type != "cpu":
        raise NotReadyError(f"A model is exported from the CPU; this one is on {device}.")
    for level in model.level_list:
        check_runnable(model.config, level)
    names, graphs = _graphs(model)
    described = _describe(model, names, image_processor)
    target.parent.mkdir(parents=True, exist_ok=True)
    with replaced_directory(target) as staging, torch.inference_mode():
        for name, make in tqdm(graphs.items(), desc="Exporting", unit="graph", leave=False):
            (staging / name).write_bytes(make().SerializeToString(deterministic=True))
        checksums = {name: hash_graph(staging / name) for name in graphs}
        write_host_files(staging)
        write_description(staging, described._replace(checksums=checksums))


def _check_target(target: Path, *, overwrite: bool) -> None:
    if target.exists() and not target.is_dir():
        raise ValueError(f"{target} exists and is not a directory.")
    there = {path.name for path in target.iterdir()} if target.exists() else set()
    if there and not overwrite:
        raise ValueError(f"{target} is not empty: name another directory, or give overwrite=True.")
    others = {name for name in there if not name.endswith(".onnx")} - {DESCRIPTION_FILE, *HOST_FILES}
    others -= {"__pycache__"}
    if there and (others or DESCRIPTION_FILE not in there):
        found = ", ".join(sorted(others or there)[:3])
        raise ValueError(f"{target} holds more than an earlier export, which alone is replaced: {found}.")


def _graphs(model: QuEEForImageClassification) -> tuple[GraphNames, Graphs]:
    """Return the names of all graphs, and what makes each."""
    parts, config = OnnxRuntimeEngine(model), model.config
    names = GraphNames("embedding.onnx", [], [], [])
    graphs: Graphs = {names.embedding: partial(_embedding, parts, num_tokens(config))}
    for index in range(config.num_exits):
        names.segments.append([_segment_file(index, level) for level in config.level_list])
        for name, level in zip(names.segments[-1], config.level_list, strict=True):
            graphs[name] = partial(_segment, parts, index, level)
        names.heads.append(f"head_{index + 1}.onnx")
        graphs[names.heads[-1]] = partial(_head, parts, index)
    if "gates" in config.trained_parts:
        for depth in range(1, config.num_exits):
            names.gates.append(f"gate_{depth}.onnx")
            graphs[names.gates[-1]] = partial(gate_graph, model.gates, depth)
    return names, graphs


def _segment_file(index: int, level: Level) -> str:
    """Return the name of a file; "bf16" is computed as "fp32", and needs no file beside that."""
    return f"segment_{index + 1}_level_{'fp32' if level == 'bf16' else level}.onnx"


def _embedding(parts: GraphEngine, num_tokens: int) -> onnx.ModelProto:
    return embedding_graph(parts.embedding(), num_tokens)


def _segment(parts: GraphEngine, index: int, level: Level) -> onnx.ModelProto:
    return segment_graph(parts.segment(index, level))


def _head(parts: GraphEngine, index: int) -> onnx.ModelProto:
    return exit_graph(parts.exit(index))


def _describe(model: QuEEForImageClassification, names: GraphNames, processor: Any) -> Description:
    config, router = model.config, model.router
    shape = [int(config.backbone.num_channels), *image_size(config)]
    return Description(
        format_version=EXPORT_FORMAT,
        quee_hf=_own_version(),
        input_shape=shape,
        labels=config.class_names,
        levels=model.level_list,
        exit_blocks=list(config.exit_blocks),
        paths=[list(path) for path in model.paths],
        path_costs=router.costs.tolist(),
        path_choices=router.choices.tolist(),
        cost_model=config.cost_model,
        segment_costs=model.cost_table,
        cost_lambda=config.cost_lambda,
        operating_points=config.operating_points,
        gate=_describe_gate(model) if names.gates else None,
        preprocessing=describe_processor(processor, shape),
        graphs=names,
        checksums={},
    )


def _own_version() -> str:
    try:
        return version("quee-hf")
    except PackageNotFoundError:
        return "unknown"


@torch.inference_mode()
def _describe_gate(model: QuEEForImageClassification) -> GateDescription:
    gates: Gates = model.gates
    kind = model.config.gate_type
    if isinstance(gates, ErrorGates):
        first = model.score(0, torch.empty(1, 0, 1))[0].tolist() if 0 in gates.numbers else None
        return GateDescription(kind, first, None, None)
    lambdas, thresholds = gates.lambdas.float(), gates.thresholds.float()
    # What lies behind the first repetition is repeated: it stands for lambdas that are not used.
    count = len(lambdas.unique_consecutive())
    return GateDescription(kind, None, lambdas[:count].tolist(), thresholds[:count].tolist())


def describe_processor(processor: Any, shape: list[int]) -> dict[str, Any] | None:
    """Say how an image processor makes pixel values, if it makes them as `ImageReader` does."""
    if processor is None:
        return None
    fields = json.loads(processor.to_json_string())

    def step(name: str, value: str) -> Any:
        return fields.get(value) if fields.get(name) else None

    steps = {
        "size": step("do_resize", "size"),
        "resample": fields.get("resample"),
        "crop_size": step("do_center_crop", "crop_size"),
        "rescale_factor": step("do_rescale", "rescale_factor"),
        "mean": step("do_normalize", "image_mean"),
        "std": step("do_normalize", "image_std"),
    }
    if (difference := _difference(steps, processor, shape)) is not None:
        kind = type(processor).__name__
        warnings.warn(
            f"The export does not say how images become pixel values: {kind} {difference}.", stacklevel=5
        )
        return None
    return steps


def _difference(steps: dict[str, Any], processor: Any, shape: list[int]) -> str | None:
    """Say in what `ImageReader` and an image processor differ, by what they make of some images."""
    try:
        read = ImageReader(steps)
    except ValueError as error:
        return f"has sizes of another kind: {error}"
    random = np.random.default_rng(0)
    for height, width in ((37, 61), (301, 150), (shape[1], shape[2]), (5, 9)):
        image = Image.fromarray(random.integers(0, 256, (height, width, 3), dtype=np.uint8))
        expected = np.asarray(processor(images=[image], return_tensors="np")["pixel_values"])
        found = read(image)
        if list(found.shape[1:]) != shape:
            return f"makes images of {found.shape[1:]}, and the model takes {tuple(shape)}"
        if found.shape != expected.shape or not np.allclose(found, expected, rtol=0, atol=1e-6):
            return "does more than to resize, crop, rescale and normalise"
    return None
