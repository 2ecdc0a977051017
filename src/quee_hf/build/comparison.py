"""Compare a model's gates with other ways to route it: fit all on the same images, sweep, resample."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from quee_hf.baselines import GateData, Sweep
from quee_hf.blueprint import gate_spec
from quee_hf.build.comparison_findings import (
    at_other_costs,
    classes_at_most_lost,
    describe_own,
    describe_widths,
)
from quee_hf.build.comparison_methods import CLUSTER_METHODS, METHODS, OWN, Fitted
from quee_hf.build.comparison_pictures import draw_classes, draw_clusters, draw_comparison
from quee_hf.build.files import cached_tensors, write_json, write_text
from quee_hf.build.ingredients import choose_device, read_matching
from quee_hf.build.rebuild import move
from quee_hf.build.roles import positions
from quee_hf.data import LabelledImages, count_shared_images
from quee_hf.diagnostics.comparison import COSTS, compare_sweeps, comparison_table
from quee_hf.diagnostics.static_paths import AllOutputs, as_tensors, collect_all_outputs, from_tensors
from quee_hf.diagnostics.versions import library_versions
from quee_hf.errors import BadDatasetError, NotReadyError
from quee_hf.execution.path_outputs import PathOutputs
from quee_hf.modeling import QuEEForImageClassification
from quee_hf.training.exit_heads import collect_pooled

_HEAD_INPUTS = ("pooled", "class_tokens")
_FEWEST_IMAGES = 10  # of which two tell when to stop
_SHARES = (0.8, 0.2)  # of the images to learn from: for learning, and to tell when to stop


@dataclass(frozen=True, kw_only=True)
class ComparisonPlan:
    """What to compare, on what.

    Args:
        data: Test images, used for nothing else, as `load_image_dataset` takes them.
        validation: Images that gates and baselines learn from; the backbone has not seen them.
        methods: Names from `METHODS`; `quee` is always among what is compared.
        num_seeds: How often each is fitted anew, on other divisions of the validation images.
        gate_epochs: Most epochs for gates.
        match_labels: "names" or "numbers".
        skip_bad: Whether to leave out images that cannot be read.
        batch_size: Images per batch when the network runs.
        device: Where it runs.
    """

    data: str
    validation: str
    methods: tuple[str, ...]
    num_seeds: int = 3
    gate_epochs: int = 60
    match_labels: str = "names"
    skip_bad: bool = False
    batch_size: int = 64
    device: str = "auto"

    def __post_init__(self) -> None:
        """Refuse what cannot be compared."""
        if unknown := sorted(set(self.methods) - set(METHODS)):
            raise ValueError(f"There is no method {', '.join(unknown)}; there are {', '.join(METHODS)}.")
        for name in ("num_seeds", "gate_epochs", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}` must be at least 1, got {getattr(self, name)}.")


def compare(
    model: QuEEForImageClassification,
    image_processor: Any,
    plan: ComparisonPlan,
    output: Path,
    say: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Fit every method on the validation images, `num_seeds` times, and route the test images by it.

    What was computed is kept in `output` and used again by the next call, as long as the model, the images
    and the plan are the same. `comparison.json`, `.md` and `.png` are written there, and `classes.png`: which
    paths the images of each class take. If numbers of clusters are compared, there is `clusters.png`, too.

    Args:
        model: With trained heads; its gates are not used, but trained anew like everything else.
        image_processor: Of the model.
        plan: What to compare.
        output: Directory, made if it does not exist.
        say: Shows one line to the user.

    Returns:
        What `comparison.json` holds.

    Raises:
        QuEEError: If the images cannot be used, or the heads are not trained.
    """
    if model.config.num_exits > 1 and "heads" not in model.config.trained_parts:
        raise NotReadyError("The exit heads are not trained: train them first, with `quee train-heads`.")
    test, validation = (read_matching(source, model, plan, say) for source in (plan.data, plan.validation))
    if shared := count_shared_images(test, validation):
        raise BadDatasetError(f"{shared} of the test images are among those to learn from.")
    if len(validation) < _FEWEST_IMAGES:
        raise BadDatasetError(f"Gates learn from at least {_FEWEST_IMAGES} images, got {len(validation)}.")
    output.mkdir(parents=True, exist_ok=True)
    identity = f"{_identity(model)} {_preparation(image_processor)}"
    move(model, choose_device(plan.device))
    outputs, known = (
        _outputs(output / f"{name}-outputs.safetensors", model, images, image_processor, plan, identity)
        for name, images in (("test", test), ("validation", validation))
    )
    move(model, torch.device("cpu"))
    images = f"{test.fingerprint} {validation.fingerprint}"
    key = f"{identity} {_routing(model)} {images} {plan.gate_epochs} {library_versions()}"
    fits = _fit_all(model, plan, validation, (known.routable, outputs), output, key)
    full_path = ~outputs.routable.is_wrong[:, model.router.tree.exact_nodes[-1]]
    sweeps = {name: [one.sweep for one in fitted] for name, fitted in fits.items()}
    widths = describe_widths(model, outputs.uniform)
    costs = sorted({*COSTS, *(width["cost"] for width in widths)})
    methods = compare_sweeps(sweeps, OWN, full_path.numpy(), costs=costs)
    result: dict[str, Any] = {
        "data": {"source": plan.data, "num_images": len(test), "fingerprint": test.fingerprint},
        "validation": {"source": plan.validation, "num_images": len(validation)},
        "num_seeds": plan.num_seeds,
        "cost_model": model.config.cost_model,
        "levels": model.level_list,
        "exit_blocks": list(model.config.exit_blocks),
        "versions": library_versions(),
        "full_path_accuracy": float(full_path.double().mean()),
        "static": widths,
        "methods": methods,
        "other_costs": at_other_costs(model, sweeps, full_path.numpy()),
        "gates": describe_own(model, fits, outputs.routable),
        "classes": classes_at_most_lost(model, fits, known.routable, outputs.routable),
    }
    _write(result, output)
    return result


def _write(result: dict[str, Any], output: Path) -> None:
    methods = result["methods"]
    write_json(output / "comparison.json", result)
    write_text(output / "comparison.md", comparison_table(methods, OWN, result["other_costs"]) + "\n")
    draw_comparison(result, output / "comparison.png")
    draw_classes(result["classes"], output / "classes.png")
    if any(name in CLUSTER_METHODS for name in methods):
        draw_clusters(result, output / "clusters.png")


def _identity(model: QuEEForImageClassification) -> str:
    """Return a hash of all that decides what a model's paths give."""
    digest = hashlib.sha256(repr((model.paths, model.level_list, model.config.exit_blocks)).encode())
    for name, tensor in sorted(model.state_dict().items()):
        if not name.startswith("gates."):
            digest.update(name.encode() + tensor.contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _preparation(image_processor: Any) -> str:
    """Return what an image processor does to images."""
    return json.dumps(image_processor.to_dict(), sort_keys=True, default=str)


def _routing(model: QuEEForImageClassification) -> str:
    """Return what of a config decides how images are routed by the same outputs: gates and costs."""
    spec = gate_spec(model.config, model.router.tree)
    gates = (model.config.gate_type, spec.features, spec.hidden_size, spec.path_embedding_size)
    return repr((*gates, model.router.costs.tolist()))


def _outputs(
    path: Path,
    model: QuEEForImageClassification,
    images: LabelledImages,
    image_processor: Any,
    plan: ComparisonPlan,
    identity: str,
) -> AllOutputs:
    def make() -> dict[str, Tensor]:
        prepared = images.with_processor(image_processor)
        tensors = as_tensors(collect_all_outputs(model, prepared, batch_size=plan.batch_size))
        if model.config.num_exits > 1:
            found = collect_pooled(model, prepared, batch_size=plan.batch_size)
            tensors |= dict(zip(_HEAD_INPUTS, found, strict=True))
        return tensors

    tensors = cached_tensors(path, f"{identity} {images.fingerprint}", make)
    outputs = from_tensors(tensors)
    pooled, class_tokens = (tensors.get(name) for name in _HEAD_INPUTS)
    return replace(outputs, routable=replace(outputs.routable, pooled=pooled, class_tokens=class_tokens))


def _fit(path: Path, key: str, run: Callable[[], Fitted]) -> Fitted:
    def make() -> dict[str, Tensor]:
        fitted = run()
        return {**fitted.sweep._asdict(), **fitted.gates}

    tensors = cached_tensors(path, key, make)
    sweep = Sweep(*(tensors.pop(name) for name in Sweep._fields))
    return Fitted(sweep, tensors)


def _fit_all(
    model: QuEEForImageClassification,
    plan: ComparisonPlan,
    validation: LabelledImages,
    outputs: tuple[PathOutputs, AllOutputs],
    output: Path,
    key: str,
) -> dict[str, list[Fitted]]:
    known, test = outputs
    names = list(dict.fromkeys([OWN, *plan.methods]))
    fits: dict[str, list[Fitted]] = {name: [] for name in names}
    with tqdm(total=len(names) * plan.num_seeds, desc="Comparing", unit="fit") as bar:
        for seed in range(plan.num_seeds):
            training, stopping = (
                known.select(positions(validation, part)) for part in validation.split(_SHARES, seed)
            )
            data = GateData(model.router, model.level_list, training, stopping, seed)
            for name in names:
                bar.set_postfix_str(f"{name}, seed {seed}")
                run = partial(METHODS[name], model, data, test, plan.gate_epochs)
                path = output / f"{name}-{seed}.safetensors"
                fits[name].append(_fit(path, f"{key} {name} {seed}", run))
                bar.update()
    return fits
