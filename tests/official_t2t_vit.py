"""Checkpoints laid out as those of the authors of T2T-ViT, with random weights."""

import argparse
from pathlib import Path

import torch
from tests.reference.t2t_vit import positions
from torch import Tensor


class _RandomWeights:
    """Tensors by their names, made one after the other."""

    def __init__(self, seed: int) -> None:
        self.random = torch.Generator().manual_seed(seed)
        self.tensors: dict[str, Tensor] = {}

    def add(self, name: str, *shape: int, gain: float = 1.0, mean: float = 0.0) -> None:
        self.tensors[name] = mean + gain * torch.randn(shape, generator=self.random)

    def add_linear(self, name: str, out: int, size: int, *, gain: float = 1.0, has_bias: bool = True) -> None:
        self.add(f"{name}.weight", out, size, gain=gain * size**-0.5)
        if has_bias:
            self.add(f"{name}.bias", out, gain=0.1)

    def add_norm(self, name: str, size: int) -> None:
        self.add(f"{name}.weight", size, gain=0.2, mean=1.0)
        self.add(f"{name}.bias", size, gain=0.2)

    def add_stage(self, name: str, size: int, token_size: int, attention: str) -> None:
        self.add_norm(f"{name}.norm1", size)
        self.add_norm(f"{name}.norm2", token_size)
        if attention == "performer":
            # So small that features do not underflow, as in trained models.
            self.add_linear(f"{name}.kqv", 3 * token_size, size, gain=2 * token_size**-0.5)
            rows = torch.empty(token_size // 2, token_size)
            torch.nn.init.orthogonal_(rows, gain=len(rows) ** 0.5, generator=self.random)
            self.tensors[f"{name}.w"] = rows
        else:
            self.add_linear(f"{name}.attn.qkv", 3 * token_size, size, gain=2, has_bias=False)
        names = {"performer": ("proj", "mlp.0", "mlp.2"), "transformer": ("attn.proj", "mlp.fc1", "mlp.fc2")}
        for part in names[attention]:
            self.add_linear(f"{name}.{part}", token_size, token_size)

    def add_block(self, name: str, size: int, mlp_size: int) -> None:
        self.add_norm(f"{name}.norm1", size)
        self.add_norm(f"{name}.norm2", size)
        self.add_linear(f"{name}.attn.qkv", 3 * size, size, gain=1.5, has_bias=False)
        self.add_linear(f"{name}.attn.proj", size, size)
        self.add_linear(f"{name}.mlp.fc1", mlp_size, size)
        self.add_linear(f"{name}.mlp.fc2", size, mlp_size)


def official_weights(
    *,
    attention: str = "performer",
    hidden_size: int = 32,
    num_blocks: int = 2,
    token_size: int = 8,
    grid: int = 2,
    num_labels: int = 5,
) -> dict[str, Tensor]:
    """Return tensors by their names; the image's side is 16 times the grid's."""
    weights = _RandomWeights(seed=0)
    for number, size in ((1, 3 * 7 * 7), (2, token_size * 3 * 3)):
        weights.add_stage(f"tokens_to_token.attention{number}", size, token_size, attention)
    weights.add_linear("tokens_to_token.project", hidden_size, token_size * 3 * 3)
    weights.add("cls_token", 1, 1, hidden_size)
    table = torch.from_numpy(positions(grid**2 + 1, hidden_size)).float()
    weights.tensors["pos_embed"] = table[None]
    for number in range(num_blocks):
        weights.add_block(f"blocks.{number}", hidden_size, 2 * hidden_size)
    weights.add_norm("norm", hidden_size)
    weights.add_linear("head", num_labels, hidden_size)
    return weights.tensors


def write_checkpoint(path: Path, weights: dict[str, Tensor]) -> Path:
    """Write weights as the authors' training does: averaged ones beside others, and the command line."""
    averaged = {f"module.{name}": tensor for name, tensor in weights.items()}
    others = {name: torch.zeros_like(tensor) for name, tensor in weights.items()}
    command = argparse.Namespace(model="t2t_vit_7", lr=5e-4)
    torch.save({"epoch": 3, "args": command, "state_dict": others, "state_dict_ema": averaged}, path)
    return path
