"""Compare a model's gates with other ways to route it: fit all on the same images, sweep, resample."""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from tqdm.auto import tqdm

from quee_hf.baselines import GateData, Sweep
from quee_hf.baselines.sweep import exact_nodes
from quee_hf.build.comparison_methods import METHODS, OWN
from quee_hf.build.files import UNFINISHED, write_json, write_text
from quee_hf.build.ingredients import choose_device, read_matching
from quee_hf.build.rebuild import move
from quee_hf.build.roles import positions
from quee_hf.data import LabelledImages, count_shared_images
from quee_hf.diagnostics.comparison import compare_sweeps, comparison_table
from quee_hf.diagnostics.static_paths import AllOutputs, collect_all_outputs
from quee_hf.diagnostics.versions import library_versions
from quee_hf.errors import BadDatasetError, NotReadyError
from quee_hf.execution.path_outputs import PathOutputs
from quee_hf.modeling import QuEEForImageClassification
from quee_hf.plots import plot_accuracy_cost
from quee_hf.training.exit_heads import collect_exit_features

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
    gate_epochs: int = 40
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
    and the plan are the same. `comparison.json`, `.md` and `.png` are written there.

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
    output.mkdir(parents=True, exist_ok=True)
    identity = _identity(model)
    move(model, choose_device(plan.device))
    outputs, known = (
        _outputs(output / f"{name}-outputs.safetensors", model, images, image_processor, plan, identity)
        for name, images in (("test", test), ("validation", validation))
    )
    move(model, torch.device("cpu"))
    key = f"{identity} {test.fingerprint} {validation.fingerprint} {plan.gate_epochs} {library_versions()}"
    sweeps = _sweeps(model, plan, validation, (known.routable, outputs), output, key)
    full_path = ~outputs.routable.is_wrong[:, exact_nodes(model.router.tree)[-1]]
    methods = compare_sweeps(sweeps, OWN, full_path.numpy())
    result = {
        "data": {"source": plan.data, "num_images": len(test), "fingerprint": test.fingerprint},
        "validation": {"source": plan.validation, "num_images": len(validation)},
        "num_seeds": plan.num_seeds,
        "cost_model": model.config.cost_model,
        "levels": model.level_list,
        "exit_blocks": list(model.config.exit_blocks),
        "versions": library_versions(),
        "full_path_accuracy": float(full_path.double().mean()),
        "methods": methods,
    }
    write_json(output / "comparison.json", result)
    write_text(output / "comparison.md", comparison_table(methods, OWN) + "\n")
    _draw(result, output / "comparison.png")
    return result


def _draw(result: Mapping[str, Any], path: Path) -> None:
    curves = {
        name: ([p["cost"] for p in found["curve"]], [p["accuracy"] for p in found["curve"]], None)
        for name, found in result["methods"].items()
    }
    title = f"{result['data']['num_images']} test images, mean of {result['num_seeds']} fits"
    plot_accuracy_cost(curves, {}, path, title)


def _identity(model: QuEEForImageClassification) -> str:
    """Return a hash of all that decides what a model's paths give."""
    digest = hashlib.sha256(repr((model.paths, model.level_list, model.config.exit_blocks)).encode())
    for name, tensor in sorted(model.state_dict().items()):
        if not name.startswith("gates."):
            digest.update(name.encode() + tensor.contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _cached(path: Path, key: str, make: Callable[[], Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Read tensors that an earlier call wrote with the same key, or make and write them."""
    if path.exists():
        with safe_open(path, framework="pt") as file:
            if (file.metadata() or {}).get("key") == key:
                return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
    tensors = {name: tensor.contiguous() for name, tensor in make().items()}
    temporary = path.with_name(f".{path.name}{UNFINISHED}")
    save_file(tensors, temporary, metadata={"key": key})
    temporary.replace(path)
    return tensors


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
        found = collect_all_outputs(model, prepared, batch_size=plan.batch_size)
        routable, uniform = found.routable.logits, found.uniform.logits
        tensors = {"routable": routable, "uniform": uniform, "labels": found.routable.labels}
        if model.config.num_exits > 1:
            features = collect_exit_features(model, prepared, batch_size=plan.batch_size)
            tensors["pooled"] = features.pooled
        return tensors

    tensors = _cached(path, f"{identity} {images.fingerprint}", make)
    labels, pooled = tensors["labels"], tensors.get("pooled")
    return AllOutputs(
        PathOutputs(tensors["routable"], labels, pooled), PathOutputs(tensors["uniform"], labels)
    )


def _sweep(path: Path, key: str, run: Callable[[], Sweep]) -> Sweep:
    return Sweep(**_cached(path, key, lambda: run()._asdict()))


def _sweeps(
    model: QuEEForImageClassification,
    plan: ComparisonPlan,
    validation: LabelledImages,
    outputs: tuple[PathOutputs, AllOutputs],
    output: Path,
    key: str,
) -> dict[str, list[Sweep]]:
    known, test = outputs
    names = list(dict.fromkeys([OWN, *plan.methods]))
    sweeps: dict[str, list[Sweep]] = {name: [] for name in names}
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
                sweeps[name].append(_sweep(path, f"{key} {name} {seed}", run))
                bar.update()
    return sweeps
