"""What exits can read of images after each of some blocks: collected once, then heads train on it."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from tqdm.auto import tqdm

from quee_hf.exits.reading import spatial_variance
from quee_hf.modeling import QuEEForImageClassification
from quee_hf.pooling import Pooling, pool

# What each type of head reads.
READS: Mapping[str, str] = {"ssa": "mean_patch", "cls": "class_token"}
_POOLINGS: dict[str, Pooling] = {"class_token": "cls", "mean_patch": "mean"}


class BlockFeatures(NamedTuple):
    """What a network, at one level, shows of images after each block with an exit, the last included."""

    class_token: Tensor  # (images, exits, hidden), float32, after the backbone's final norm
    mean_patch: Tensor  # (images, exits, hidden), float32, the same of the mean patch token
    variance: Tensor  # (images, exits), float32, as `quee_hf.exits.reading.spatial_variance` gives it
    outputs: Tensor  # (images, outputs), float32: the last head's logits or embeddings
    labels: Tensor  # (images,), int64

    def read_by(self, head: str) -> Tensor:
        """Return what heads of a type read, `(images, exits, hidden)`."""
        read: Tensor = getattr(self, READS[head])
        return read


@torch.inference_mode()
def collect_block_features(
    model: QuEEForImageClassification, dataset: Dataset[Any], *, batch_size: int, title: str
) -> BlockFeatures:
    """Run a network at its most exact level over a data set once, with a progress bar.

    Args:
        model: With an exit after each block that matters.
        dataset: Items `{"pixel_values": (channels, height, width), "labels": int}`.
        batch_size: Images per batch.
        title: Of the progress bar.
    """
    found = []
    for batch in tqdm(DataLoader(dataset, batch_size=batch_size), desc=title, unit="batch"):
        labels = torch.as_tensor(batch["labels"]).long()
        pixel_values = batch["pixel_values"].to(model.device)
        found.append(_read_blocks(model, pixel_values)._replace(labels=labels))
    return BlockFeatures(*(torch.cat(parts) for parts in zip(*found, strict=True)))


def _read_blocks(model: QuEEForImageClassification, pixel_values: Tensor) -> BlockFeatures:
    """Return the features of a batch; labels are yet to be filled in."""
    hidden, last, prefix = (
        model.embed(pixel_values),
        model.config.num_exits - 1,
        model.trunk.num_prefix_tokens,
    )
    read: dict[str, list[Tensor]] = {name: [] for name in (*_POOLINGS, "variance")}
    for segment in range(last + 1):
        hidden = model.run_segment(segment, model.exact_level, hidden)
        tokens = model.trunk.norm(hidden)
        for name, pooling in _POOLINGS.items():
            read[name].append(pool(tokens, pooling, prefix))
        read["variance"].append(spatial_variance(tokens, prefix))
    outputs = model.heads[last](model.select_exit(last, hidden))
    stacked = {name: torch.stack(parts, dim=1).float().cpu() for name, parts in read.items()}
    return BlockFeatures(**stacked, outputs=outputs.float().cpu(), labels=torch.empty(0))
