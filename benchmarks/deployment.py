"""Exported models beside PyTorch: decisions, logits, images per second; and handlers under many clients.

Run: `python benchmarks/deployment.py --model runs/dinov2-cifar10/model`, on a quiet machine. Exports the
model, and its twin in full precision with the same heads and gates; makes an environment that holds only what
the export asks for, and routes real test images there; routes them with PyTorch; times both in turn in one
run; and sends requests from many clients at once to both handlers. Needs a package index, or pip's cache.
Writes `benchmarks/results/deployment.json` and `docs/results/deployment.md`.
"""

import argparse
import base64
import importlib
import io
import json
import os
import subprocess
import sys
import time
import venv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _deployment_report import write_page
from _serving import ask_at_once, serving
from _speed_tables import quartiles
from _timing import RESULTS, interleaved_ms, write_result
from torch import Tensor
from tqdm import tqdm
from transformers import AutoImageProcessor

from quee_hf import QuEEForImageClassification
from quee_hf.data import load_image_dataset
from quee_hf.deployment import export_onnx
from quee_hf.deployment.endpoint import EndpointHandler
from quee_hf.deployment.graph_files import GraphFiles
from quee_hf.deployment.host import HostRouter
from quee_hf.execution.answers import answer
from quee_hf.execution.network import Assessment, Network, NetworkWrapper, Step
from quee_hf.levels import Level

ROOT = Path(__file__).parents[1]
ASSETS = Path(os.environ.get("QUEE_ASSETS", ROOT.parent / "shared" / "assets"))
TOLERANCE = 1e-3  # of logits
CHANGE = 1e-6  # of pixels: what follows is how far the reference differs from itself
BATCH_SIZE = 32
SPEED_SIZES = (1, 8, 32)
LAMBDAS_OF_CLIENTS = (0.0, 0.02, 0.05, 0.1, 0.125, 0.2, 0.4, 1.0)
Found = dict[str, tuple[Tensor, Tensor]]  # lambda -> logits and paths


class DeployedDecisions(NetworkWrapper):
    """Tokens by PyTorch; exits, gates and what follows from them by exported graphs."""

    def __init__(self, network: Network, graphs: GraphFiles, num_exits: int) -> None:
        super().__init__(network)
        self._graphs, self._num_exits = graphs, num_exits

    def advance(self, segment: int, level: Level, hidden: Tensor, seen: Tensor | None) -> Step:
        """Run a segment, read the exit after it, and ask the gate there."""
        hidden = self._network.run_segment(segment, level, hidden)
        logits, variance = self._graphs.read_exit(segment, hidden.numpy())
        if segment == self._num_exits - 1:
            return Step(hidden, Assessment(torch.from_numpy(logits), seen, None))
        given = None if seen is None else seen.numpy()
        known, scores = self._graphs.ask_gate(segment + 1, logits, variance, given)
        return Step(hidden, Assessment(*(torch.from_numpy(x) for x in (logits, known, scores))))


def float_twin(model: QuEEForImageClassification, backbone: Path) -> QuEEForImageClassification:
    """Return the model that a quantized one was made of, with its heads and gates, in full precision."""
    fields = ("exit_blocks", "head_type", "head_hidden_size", "gate_type", "gate_features")
    fields += ("gate_hidden_size", "path_embedding_size", "id2label", "image_size")
    kept = {name: getattr(model.config, name) for name in fields}
    twin = QuEEForImageClassification.from_backbone(backbone, levels=["fp32"], **kept)
    twin.heads.load_state_dict(model.heads.state_dict())
    twin.gates.load_state_dict(model.gates.state_dict())
    twin.config.trained_parts = list(model.config.trained_parts)
    return twin.eval()


@torch.inference_mode()
def route(forward: Callable[..., Any], pixels: Tensor, lambdas: list[float]) -> Found:
    """Route all images at each lambda."""
    found = {}
    for value in tqdm(lambdas, desc="Routing", unit="lambda"):
        outputs = [forward(batch, value) for batch in pixels.split(BATCH_SIZE)]
        found[f"{value:g}"] = (torch.cat([o.logits for o in outputs]), torch.cat([o.path for o in outputs]))
    return found


def compare(found: Found, expected: Found) -> dict[str, dict[str, float]]:
    """Compare routes with what is right, lambda by lambda."""
    rows = {}
    for name, (logits, paths) in found.items():
        reference, right = expected[name]
        same = paths == right
        # A decision is to go on at some level, or to leave, where both stand at the same node.
        together = torch.cat([torch.ones(len(paths), 1), same.cumprod(dim=1)[:, :-1]], dim=1).bool()
        taken = together & torch.cat([torch.ones(len(paths), 1, dtype=torch.bool), right[:, :-1] >= 0], dim=1)
        same_path = same.all(dim=1)
        differences = (logits - reference)[same_path].abs().amax(dim=1)
        rows[name] = {
            "same_decision": float(same[taken].float().mean()),
            "num_decisions": int(taken.sum()),
            "same_path": float(same_path.float().mean()),
            "same_class": float((logits.argmax(1) == reference.argmax(1)).float().mean()),
            "logits_within": float((differences <= TOLERANCE).float().mean()),
            "median_difference": float(differences.median()),
            "largest_difference": float(differences.max()),
        }
    return rows


def agreement(
    model: QuEEForImageClassification, deployed: Found, folder: Path, pixels: Tensor, lambdas: list[float]
) -> dict[str, Any]:
    """Compare what an exported model found with PyTorch, and PyTorch with itself."""
    expected = route(lambda batch, value: model(batch, cost_lambda=value), pixels, lambdas)
    decisions = DeployedDecisions(
        model, HostRouter(folder, num_threads=torch.get_num_threads()).graphs, model.config.num_exits
    )
    change = CHANGE * torch.randn(pixels.shape, generator=torch.Generator().manual_seed(0))
    rows = {
        "exported, beside `torch`": compare(deployed, expected),
        "exported heads, gates and decisions on tokens of `torch`": compare(
            route(lambda batch, value: answer(decisions, batch, value), pixels, lambdas), expected
        ),
        f"`torch`, images changed by {CHANGE:g}": compare(
            route(lambda batch, value: model(batch, cost_lambda=value), pixels + change, lambdas), expected
        ),
    }
    model.set_engine("onnxruntime")
    same_kernels = route(lambda batch, value: model(batch, cost_lambda=value), pixels, lambdas)
    model.set_engine("torch")
    return {"exported, beside `onnxruntime`": compare(deployed, same_kernels), **rows}


def make_environment(folder: Path, requirements: Path) -> tuple[Path, list[str]]:
    """Make an environment of what an export asks for, and return its Python and the packages in it."""
    venv.create(folder, clear=True, with_pip=True)
    python = folder / "bin" / "python"
    command = [python, "-m", "pip", "--disable-pip-version-check"]
    subprocess.run([*command, "install", "-q", "-r", requirements], env=_environment(), check=True)
    listed = subprocess.run(
        [*command, "list", "--format=freeze"], env=_environment(), check=True, capture_output=True, text=True
    )
    return python, listed.stdout.split()


def _environment() -> dict[str, str]:
    """Return the environment variables, but for those by which packages from elsewhere would be found."""
    return {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}


def run_deployed(python: Path, exported: Path, images: Path, lambdas: list[float]) -> tuple[Tensor, Found]:
    """Route images where there is no PyTorch; return the pixel values made there, and what was found."""
    result = exported.with_suffix(".npz")
    names = [f"{value:g}" for value in lambdas]
    script = Path(__file__).with_name("_deployment_run.py")
    command = [python, script, exported, images, result, BATCH_SIZE, *names]
    subprocess.run([str(part) for part in command], env=_environment(), check=True)
    arrays = {name: torch.from_numpy(array) for name, array in np.load(result).items()}
    return arrays["pixels"], {name: (arrays[f"logits {name}"], arrays[f"path {name}"]) for name in names}


@torch.inference_mode()
def speed(model: QuEEForImageClassification, folder: Path, pixels: Tensor, rounds: int) -> dict[str, Any]:
    """Time the engines and the exported model in turn, on all images, at the model's own lambda."""
    copies = {}
    for engine in ("torch", "onnxruntime"):
        copies[engine] = QuEEForImageClassification.from_pretrained(model.name_or_path).eval()
        copies[engine].set_engine(engine)
    host = HostRouter(folder, num_threads=torch.get_num_threads())
    found = {}
    for size in tqdm(SPEED_SIZES, desc="Timing", unit="batch size"):
        batches = pixels.split(size)

        def run(name: str, batches: Any = batches) -> None:
            for batch in batches:
                copies[name](batch)

        def run_host(batches: Any = batches) -> None:
            for batch in batches:
                host(batch.numpy())

        functions = {name: (lambda name=name, run=run: run(name)) for name in copies}
        times = interleaved_ms({**functions, "exported": run_host}, repeats=rounds)
        count = sum(len(batch) for batch in batches)
        found[str(size)] = {
            "images_per_second": {
                name: quartiles([1e3 * count / ms for ms in each]) for name, each in times.items()
            },
            "exported_over": {
                name: quartiles([ms / own for ms, own in zip(times[name], times["exported"], strict=True)])
                for name in copies
            },
        }
    return found


def serve(handler: Any, requests: list[Any], num_clients: int) -> dict[str, Any]:
    """Ask a handler one request after the other, then all at once from many clients through HTTP."""
    expected = [(200, json.loads(json.dumps(handler(request)))) for request in requests]
    start = time.perf_counter()
    with serving(handler) as url:
        found = ask_at_once(url, requests, num_clients)
    seconds = time.perf_counter() - start
    return {
        "clients": num_clients,
        "requests": len(requests),
        "answered": sum(code == 200 for code, _ in found),
        "equal": sum(one == other for one, other in zip(found, expected, strict=True)),
        "different_answers": len({json.dumps(answer) for _, answer in expected}),
        "requests_per_second": len(requests) / seconds,
    }


def requests_of_clients(images: Path, count: int) -> list[dict[str, Any]]:
    """Make requests of real images, with many lambdas."""
    files = sorted(images.glob("*.png"))
    return [
        {
            "inputs": base64.b64encode(files[number % len(files)].read_bytes()).decode(),
            "parameters": {
                "cost_lambda": LAMBDAS_OF_CLIENTS[number % len(LAMBDAS_OF_CLIENTS)],
                "return_routing": True,
                "top_k": 1 + number % 3,
            },
        }
        for number in range(count)
    ]


def load_handler(folder: Path) -> Any:
    """Return the handler of an exported folder, as Inference Endpoints load it."""
    sys.path.insert(0, str(folder))
    return importlib.import_module("handler").EndpointHandler(str(folder))


def write_images(dataset: Any, folder: Path) -> None:
    """Write images as PNG, which loses nothing."""
    folder.mkdir(parents=True, exist_ok=True)
    for position in range(len(dataset)):
        file = io.BytesIO()
        dataset[position]["image"].save(file, "PNG")
        (folder / f"{position:05}.png").write_bytes(file.getvalue())


def read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, default=ROOT / "runs" / "dinov2-cifar10" / "model")
    parser.add_argument("--backbone", type=Path, default=ASSETS / "models" / "dinov2-small-cifar10-70px")
    parser.add_argument("--run", type=Path, default=ROOT / "runs" / "deployment")
    parser.add_argument("--num-images", type=int, default=1000)
    parser.add_argument("--cost-lambda", type=float, nargs="+", default=[0.05, 0.125, 0.2])
    parser.add_argument("--num-timed", type=int, default=128, help="images to time")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--requests", type=int, default=50, help="of each client")
    return parser.parse_args()


def main() -> None:
    arguments = read_arguments()
    torch.set_num_threads(arguments.threads)
    model = QuEEForImageClassification.from_pretrained(arguments.model).eval()
    processor = AutoImageProcessor.from_pretrained(arguments.model, backend="pil")
    dataset = load_image_dataset(str(ASSETS / "cifar10" / "test.parquet")).spread(arguments.num_images)
    images = arguments.run / f"images-{arguments.num_images}"
    write_images(dataset, images)
    prepared = dataset.with_processor(processor)
    pixels = torch.stack([prepared[position]["pixel_values"] for position in range(len(prepared))])

    models = {"integer": model, "float": float_twin(model, arguments.backbone)}
    folders = {name: arguments.run / name for name in models}
    for name, each in models.items():
        export_onnx(each, folders[name], processor, overwrite=True)
    python, packages = make_environment(arguments.run / "venv", folders["integer"] / "requirements.txt")
    found = {}
    for name, each in models.items():
        made, deployed = run_deployed(python, folders[name], images, arguments.cost_lambda)
        found[name] = agreement(each, deployed, folders[name], pixels, arguments.cost_lambda)
    timed = pixels[: arguments.num_timed]
    requests = requests_of_clients(images, arguments.clients * arguments.requests)
    result = {
        "num_images": len(pixels),
        "levels": model.level_list,
        "packages": packages,
        "largest_pixel_difference": float((made - pixels).abs().max()),
        "agreement": found,
        "cost_lambda": model.config.cost_lambda,
        "rounds": arguments.rounds,
        "num_timed": len(timed),
        "speed": speed(model, folders["integer"], timed, arguments.rounds),
        "handlers": {
            "with PyTorch": serve(EndpointHandler(str(arguments.model)), requests, arguments.clients),
            "exported": serve(load_handler(folders["integer"]), requests, arguments.clients),
        },
    }
    write_result("deployment", result)
    result = json.loads((RESULTS / "deployment.json").read_text())
    write_page(result, ROOT / "docs" / "results" / "deployment.md")


if __name__ == "__main__":
    main()
