"""Data sets whose rows are in tensors already: batches are picked at once."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset
from transformers import default_data_collator


class TensorRows(Dataset[dict[str, Tensor]]):
    """Rows of some tensors, by name.

    Args:
        tensors: `(rows, ...)` each; half precision is for keeping only, and is given out as float32.
    """

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self._tensors = tensors

    def __len__(self) -> int:
        return len(next(iter(self._tensors.values())))

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return self._pick(index)

    def __getitems__(self, indices: Sequence[int]) -> dict[str, Tensor]:
        """Return a batch; `DataLoader` asks for it where a data set can give it."""
        return self._pick(torch.tensor(indices))

    def _pick(self, index: int | Tensor) -> dict[str, Tensor]:
        picked = {name: tensor[index] for name, tensor in self._tensors.items()}
        return {name: part.float() if part.dtype == torch.float16 else part for name, part in picked.items()}


def collate(rows: Any) -> dict[str, Any]:
    """Return a batch of rows, which `TensorRows` gives as one."""
    if isinstance(rows, dict):
        return rows
    batch: dict[str, Any] = default_data_collator(rows)
    return batch
