"""Hand a model's weights over to an engine: what routing may choose is prepared, and nothing else is kept."""

from collections.abc import Iterable
from itertools import chain
from typing import cast

import torch
from torch import Tensor, nn

from quee_hf.blueprint import image_size
from quee_hf.errors import NotReadyError
from quee_hf.execution.engines.engine import Engine, Source
from quee_hf.levels import Level


def choosable_levels(source: Source) -> list[list[Level]]:
    """Return the levels that routing may choose for each segment, most exact first.

    They are those of the router's choices. Of a model without trained gates, it is the most exact one: that
    of the path which images then take.
    """
    levels, config = source.level_list, source.config
    if "gates" not in config.trained_parts:
        return [levels[:1] for _ in range(config.num_exits)]
    router = source.router
    chosen: list[set[int]] = [set() for _ in range(config.num_exits)]
    for path, is_choice in zip(router.tree.paths, router.choices, strict=True):
        if is_choice:  # and so are its prefixes
            chosen[len(path) - 1].add(path[-1])
    return [[levels[level] for level in sorted(each)] for each in chosen]


def hand_over(engine: Engine) -> None:
    """Prepare an engine for all that routing may choose, and drop the weights of blocks from its model.

    One segment after the other, so that there are never two copies of the whole. What else the model has,
    exits, gates and embedding, stays, in memory of its own rather than in that of a file.

    Raises:
        ValueError: If the engine cannot compute something of it. The model is then what it was.
        NotReadyError: If the model is not quantized yet, is elsewhere than the engine, or in training mode.
    """
    source = engine.source
    model, trunk = cast(nn.Module, source), source.trunk
    if model.training:
        raise NotReadyError("In training mode a model needs its weights: call `model.eval()` first.")
    levels = choosable_levels(source)
    # Tensors of one mode cannot take the place of those of the other.
    with torch.inference_mode(trunk.norm.weight.is_inference()), torch.no_grad():
        hidden, seen = engine.embed(_image(source)), None
        for segment, found in enumerate(levels):
            for level in found:
                engine.check(segment, level)
        engine.prepared = levels
        inside = {id(tensor) for tensor in _tensors(trunk.blocks)}
        _own(tensor for tensor in _tensors(model) if id(tensor) not in inside)
        for segment, (start, stop) in enumerate(source.config.segments):
            for block in trunk.blocks[start:stop]:
                _own(_tensors(block))
            for level in levels[segment]:
                step = engine.advance(segment, level, hidden, seen)  # compiles, and packs
            trunk.drop_blocks(start, stop, engine.name)
            hidden, seen = cast(Tensor, step.hidden), step.reached.seen


def _image(source: Source) -> Tensor:
    """Return an image of zeros, as a batch."""
    config, weight = source.config, source.trunk.norm.weight
    return torch.zeros(1, config.backbone.num_channels, *image_size(config)).to(weight)


def _tensors(module: nn.Module) -> Iterable[Tensor]:
    return chain(module.parameters(), module.buffers())


def _own(tensors: Iterable[Tensor]) -> None:
    """Copy tensors: each that is left in a file's memory would keep all of it."""
    for tensor in tensors:
        tensor.data = tensor.data.clone()
