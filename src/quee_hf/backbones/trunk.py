"""The trunk: embeddings, blocks and final norm of a backbone, under names of our own."""

from typing import cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig

from quee_hf.backbones import get_family
from quee_hf.backbones.block import Block, LevelSet
from quee_hf.backbones.family import SourceBlock, SourceModel
from quee_hf.errors import NotReadyError
from quee_hf.levels import Level
from quee_hf.quantization.linear import MultiLevelLinear


class Trunk(nn.Module):
    """A frozen backbone without its head.

    It stays in evaluation mode: its dropout and the like belong to a training that is over.

    Args:
        config: The HF backbone's config.
        level_set: Levels its blocks are built for.
    """

    def __init__(self, config: PreTrainedConfig, level_set: LevelSet) -> None:
        super().__init__()
        family = get_family(config)
        shape = family.shape(config)
        self.embeddings = family.make_embeddings(config)
        eps = shape.layer_norm_eps
        self.pre_norm = nn.LayerNorm(shape.hidden_size, eps=eps) if family.has_pre_norm else nn.Identity()
        self.blocks = nn.ModuleList(
            Block(shape, level_set, number) for number in range(1, config.num_hidden_layers + 1)
        )
        self.norm = nn.LayerNorm(shape.hidden_size, eps=eps)
        self.num_prefix_tokens = family.num_prefix_tokens(config)
        self.weights_at: str | None = None  # the engine that alone has weights of blocks
        self.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> "Trunk":
        """Do nothing: a frozen trunk has no training mode."""
        return super().train(False)

    def embed(self, pixel_values: Tensor) -> Tensor:
        """Map `(batch, channels, height, width)` to tokens `(batch, tokens, hidden)`."""
        return cast(Tensor, self.pre_norm(self.embeddings(pixel_values)))

    def run_blocks(self, hidden: Tensor, start: int, stop: int, level: Level) -> Tensor:
        """Run blocks `start` to `stop - 1`, counted from 0, at a level."""
        self.check_weights()
        for index in range(start, stop):
            hidden = self.blocks[index](hidden, level)
        return hidden

    def drop_blocks(self, start: int, stop: int, engine: str) -> None:
        """Give up the weights of blocks `start` to `stop - 1`, which an engine has."""
        if self.weights_at is None:
            self.register_state_dict_pre_hook(_check_weights)
            self.register_load_state_dict_pre_hook(_check_weights)
        self.weights_at = engine
        self.blocks[start:stop].to("meta")

    def check_weights(self) -> None:
        """Raise `NotReadyError` if weights of blocks were given up."""
        if self.weights_at is not None:
            raise NotReadyError(
                f"The weights are with the engine {self.weights_at!r} alone"
                " (`set_engine(..., keep_weights=False)`): the model can classify images, but nothing else."
                " Load it again for that."
            )

    @torch.no_grad()
    def copy_from(self, source: SourceModel) -> None:
        """Take over the weights of an HF model."""
        self.embeddings.load_state_dict(source.embeddings.state_dict())
        if source.pre_norm is not None:
            self.pre_norm.load_state_dict(source.pre_norm.state_dict())
        self.norm.load_state_dict(source.norm.state_dict())
        for block, source_block in zip(self.blocks, source.blocks, strict=True):
            _copy_block(cast(Block, block), source_block)

    @torch.no_grad()
    def copy_float_parts(self, source: "Trunk") -> None:
        """Take over everything from a float trunk but codes and ranges.

        Args:
            source: Of the same config, with all float weights.
        """
        exact = source.state_dict()
        kept = {name: exact[name] for name in self.state_dict() if name in exact}
        self.load_state_dict(kept, strict=False)

    @torch.no_grad()
    def copy_levels(self, source: "Trunk") -> None:
        """Take over, at the levels that both have, codes and ranges of a trunk quantized in the same way."""
        for block, other in zip(self.blocks, source.blocks, strict=True):
            others = cast(Block, other).products
            for name, product in cast(Block, block).products.items():
                product.copy_levels(others[name])


def _check_weights(trunk: nn.Module, *_: object) -> None:
    cast(Trunk, trunk).check_weights()


def _copy_block(block: Block, source: SourceBlock) -> None:
    block.norm1.load_state_dict(source.norm1.state_dict())
    block.norm2.load_state_dict(source.norm2.state_dict())
    _copy_linear(block.attention.qkv, source.query, source.key, source.value)
    _copy_linear(block.attention.output, source.output)
    _copy_linear(block.mlp.fc1, *source.fc1)
    _copy_linear(block.mlp.fc2, source.fc2)
    for ours, theirs in ((block.scale1, source.scale1), (block.scale2, source.scale2)):
        if ours is not None and theirs is not None:
            ours.copy_(theirs)


def _copy_linear(target: MultiLevelLinear, *sources: nn.Linear) -> None:
    """Stack the outputs of several linear layers in one."""
    target.float_weight.copy_(torch.cat([source.weight for source in sources]))
    if target.bias is not None:
        target.bias.copy_(torch.cat([source.bias for source in sources]))
