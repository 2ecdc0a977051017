"""Every path's output on a data set, collected once; routing can then be replayed without the network."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from quee_hf.execution.network import Assessment, Network, assess
from quee_hf.execution.prefix_tree import tree_forward
from quee_hf.execution.rows import on_host
from quee_hf.execution.shared_batches import run_batches
from quee_hf.execution.walk import Routes, walk
from quee_hf.exits.reading import ExitReading
from quee_hf.routing.policy import Indices, cost_lambda_per_sample


@dataclass(frozen=True)
class PathOutputs:
    """What the exit of every path says of a set of images."""

    logits: Tensor  # (images, paths, labels), float32
    variance: Tensor  # (images, paths), float32, as `quee_hf.exits.reading.spatial_variance` gives it
    labels: Tensor  # (images,), int64
    # Where baselines that train heads need it: what the trainable heads read, (images, exits - 1, size), and
    # the normalised class tokens there, (images, exits - 1, hidden).
    pooled: Tensor | None = None
    class_tokens: Tensor | None = None

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def probabilities(self) -> Tensor:
        """`(images, paths, labels)`, float32."""
        return self.logits.softmax(dim=-1)

    @property
    def is_wrong(self) -> Tensor:
        """`(images, paths)`, bool: whether the path's class differs from the label."""
        return self.logits.argmax(dim=-1) != self.labels[:, None]

    def select(self, indices: Tensor) -> "PathOutputs":
        """Return the outputs of some of the images."""
        parts = (self.logits, self.variance, self.labels, self.pooled, self.class_tokens)
        return PathOutputs(*(None if part is None else part[indices] for part in parts))  # type: ignore[arg-type]

    def of_paths(self, nodes: list[int]) -> "PathOutputs":
        """Return the outputs of some of the paths."""
        return PathOutputs(self.logits[:, nodes], self.variance[:, nodes], self.labels)

    def readings(self) -> ExitReading:
        """Return what the exits say: logits `(images, paths, labels)`, variances `(images, paths)`."""
        return ExitReading(self.logits, self.variance)


def collect_path_outputs(
    network: Network,
    dataset: Dataset[Any],
    *,
    batch_size: int = 64,
    device: torch.device | None = None,
    labelled: bool = True,
) -> PathOutputs:
    """Run the prefix tree over a data set, with a progress bar.

    Several processes share the work, and each of them gets the outputs of all images.

    Args:
        network: The model.
        dataset: Items `{"pixel_values": (channels, height, width), "labels": int}`.
        batch_size: Images per batch.
        device: Where the model is; CPU if not given. Outputs are kept on the CPU.
        labelled: Whether labels are read; all are -1 without, and items need none.

    Raises:
        ValueError: If the data set is empty, an item has no label, or an image holds NaN or infinity.
    """
    device = device or torch.device("cpu")

    def run(batch: dict[str, Any]) -> tuple[Tensor, ...]:
        with torch.inference_mode():
            reading = tree_forward(network, batch["pixel_values"].to(device))
        return reading.logits.cpu(), reading.variance.cpu(), _labels(batch, labelled)

    parts = list(run_batches(dataset, run, batch_size=batch_size, device=device, title="Running all paths"))
    if not parts:
        raise ValueError("The data set is empty.")
    logits, variance, labels = (torch.cat(columns) for columns in zip(*parts, strict=True))
    return PathOutputs(logits, variance, labels.long())


def _labels(batch: dict[str, Any], labelled: bool) -> Tensor:
    if not labelled:
        return torch.full((len(batch["pixel_values"]),), -1)
    if "labels" not in batch:
        raise ValueError(f"Items of the data set must have 'labels', these have {sorted(batch)}.")
    labels = torch.as_tensor(batch["labels"])
    if labels.is_floating_point():
        raise ValueError(f"Labels must be whole numbers, got {labels.dtype}.")
    return labels


class _OutputReader:
    """Looks up what the network would have computed."""

    def __init__(self, network: Network, outputs: PathOutputs) -> None:
        self._network = network
        self._outputs = outputs
        self._active = torch.arange(len(outputs))
        self._seen: Tensor | None = None
        self._exit = 0

    def __call__(self, kept: Indices | None, nodes: Indices) -> Assessment:
        seen = self._seen
        if kept is not None:
            self._active = self._active[torch.from_numpy(kept)]
            seen = None if seen is None else seen[torch.from_numpy(kept)]
        where = self._active, torch.from_numpy(nodes)
        reading = ExitReading(*(part[where] for part in self._outputs.readings()))
        reached = assess(self._network, self._exit, reading, seen)
        self._seen = reached.seen
        self._exit += 1
        return reached


@torch.inference_mode()
def replay(network: Network, outputs: PathOutputs, cost_lambda: float | Tensor) -> Routes:
    """Route images whose outputs are known: decisions as in `routed_forward`, without running a segment.

    Args:
        network: The model whose gates decide.
        outputs: Collected with the same model.
        cost_lambda: At least 0; one number, or one per image, `(images,)`.

    Raises:
        ValueError: If `cost_lambda` is none of these.
    """
    lambdas = cost_lambda_per_sample(on_host(cost_lambda), len(outputs))
    return walk(network, _OutputReader(network, outputs), lambdas)
