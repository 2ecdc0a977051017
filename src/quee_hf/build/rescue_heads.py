"""Heads of a rescue experiment: after every block with an exit, the last included, all of one size."""

import tempfile
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import set_seed

from quee_hf.build.rescue_features import READS, BlockFeatures
from quee_hf.build.training import Schedule, fit_heads
from quee_hf.configuration import QuEEConfig
from quee_hf.modeling import QuEEForImageClassification
from quee_hf.training.exit_heads import HEAD_ARGUMENTS, ExitFeatures

SUPERVISIONS = ("hard", "distilled")
_HEADS = "heads."


class HeadKind(NamedTuple):
    """What heads read, and what they learn from."""

    head: str  # of `READS`
    supervision: str  # "hard": labels; "distilled": the full-precision network's last outputs, too

    @property
    def name(self) -> str:
        """What they are called in results and file names."""
        return f"{self.head}-{self.supervision}"


KINDS = tuple(HeadKind(head, supervision) for head, supervision in product(READS, SUPERVISIONS))


def stand_in(network: QuEEForImageClassification, exit_blocks: list[int], **fields: Any) -> Any:
    """Return a model of the same classes and sizes, without blocks: it works on what networks have shown.

    Args:
        network: What it stands in for.
        exit_blocks: Its exits; the last of them is its number of blocks.
        **fields: Others of its config.
    """
    described = network.config.to_dict()
    backbone = {**described["backbone_config"], "num_hidden_layers": exit_blocks[-1]}
    changed = {
        "backbone_config": backbone,
        "exit_blocks": exit_blocks,
        "levels": ["fp32"],
        "quantization": None,
    }
    config = QuEEConfig.from_dict({**described, **changed, **fields})
    model = QuEEForImageClassification(config)
    model.trunk.blocks = nn.ModuleList()
    for name, buffer in network.named_buffers(recurse=False):
        model.get_buffer(name).copy_(buffer)
    model.train(False)
    return model


def head_slots(network: QuEEForImageClassification, kind: HeadKind) -> Any:
    """Return a stand-in with an untrained head for each exit of a network, the last included.

    Its own last exit, which stands after one block more, is never used.
    """
    count = network.config.num_exits
    blocks = list(range(1, count + 2))
    return stand_in(network, blocks, head_type=kind.head, max_paths=max(50, count + 1))


def train_heads(
    network: QuEEForImageClassification,
    features: tuple[BlockFeatures, BlockFeatures],
    teachers: tuple[Tensor, Tensor],
    kind: HeadKind,
    schedule: Schedule,
) -> dict[str, Tensor]:
    """Train heads for all exits of a network.

    Args:
        network: Only what its config and class embeddings say matters.
        features: To learn from, and for early stopping.
        teachers: `(images, outputs)`, what the full-precision network's last head returns for the same.
        kind: Of heads.
        schedule: How long, and with which seed.

    Returns:
        The heads' tensors, as `head_logits` takes them.
    """
    with torch.random.fork_rng(devices=[]), tempfile.TemporaryDirectory() as folder:
        set_seed(schedule.seed)
        model = head_slots(network, kind)
        learning, stopping = (
            ExitFeatures(
                part.read_by(kind.head), part.labels, teacher if kind.supervision == "distilled" else None
            )
            for part, teacher in zip(features, teachers, strict=True)
        )
        fit_heads(model, learning, stopping, schedule, Path(folder) / "checkpoints")
    own_last = f"{_HEADS}{network.config.num_exits}."
    return {
        name: tensor
        for name, tensor in model.state_dict().items()
        if name.startswith(_HEADS) and not name.startswith(own_last)
    }


def head_schedule(num_epochs: int, seed: int) -> Schedule:
    """Return how heads are trained."""
    return Schedule(num_epochs, HEAD_ARGUMENTS["learning_rate"], seed, "cosine")


@torch.inference_mode()
def head_logits(
    network: QuEEForImageClassification, kind: HeadKind, tensors: dict[str, Tensor], read: Tensor
) -> Tensor:
    """Return the logits of trained heads, `(images, exits, labels)` float32.

    Args:
        network: As `train_heads` takes it.
        kind: Of heads.
        tensors: As `train_heads` returns them.
        read: `(images, exits, hidden)`, what the heads read.
    """
    model = head_slots(network, kind)
    model.load_state_dict(tensors, strict=False)
    heads = model.heads[: read.shape[1]]
    return torch.stack([model.as_logits(head(read[:, i])) for i, head in enumerate(heads)], dim=1)
