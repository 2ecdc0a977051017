"""What a config implies before any weight exists: paths, head shapes, costs. Pure functions."""

from collections.abc import Sequence
from statistics import fmean
from typing import cast

from quee_hf.backbones import get_family
from quee_hf.configuration import QuEEConfig
from quee_hf.errors import NotReadyError
from quee_hf.exits.heads import HeadSpec
from quee_hf.gates.spec import GateSpec
from quee_hf.levels import Level, is_integer_level, level_bits
from quee_hf.paths import Path, PathRules, PathTree
from quee_hf.routing.costs import bitops_table, flops_table


def check_runnable(config: QuEEConfig, level: Level) -> None:
    """Raise `NotReadyError` if a level needs quantized weights and there are none yet."""
    if config.quantization is None and is_integer_level(level):
        raise NotReadyError(f"Level {level} needs quantized weights; call `quee_hf.quantize` first.")


def check_logit_scale(config: QuEEConfig) -> None:
    """Raise `ValueError` unless there is a logit scale where there are class embeddings, and only there."""
    kind, scale = config.backbone.model_type, config.logit_scale
    if get_family(config.backbone).is_contrastive and scale is None:
        raise ValueError(
            f"A {kind!r} model compares images with classes: it needs a `logit_scale`, got None."
        )
    if not get_family(config.backbone).is_contrastive and scale is not None:
        raise ValueError(f"A {kind!r} model has a classifier: its `logit_scale` must be None, got {scale}.")


def path_tree(config: QuEEConfig) -> PathTree:
    """Return the paths that the model's gates score."""
    is_first_highest = config.first_level == "highest"
    rules = PathRules(config.num_exits, len(config.levels), config.monotone_levels, is_first_highest)
    return PathTree(tuple(rules.select(config.max_paths, config.path_seed)))


def uniform_paths(config: QuEEConfig) -> list[Path]:
    """Return, for each level, the path that runs the whole network at it; gates may not know all of them."""
    return [(level,) * config.num_exits for level in range(len(config.levels))]


def head_spec(config: QuEEConfig) -> HeadSpec:
    """Return what the model's heads are built from."""
    backbone = config.backbone
    family = get_family(backbone)
    return HeadSpec(
        hidden_size=family.shape(backbone).hidden_size,
        num_outputs=backbone.projection_dim if family.is_contrastive else config.num_classes,
        own_pooling=family.pooling,
        num_prefix_tokens=family.num_prefix_tokens(backbone),
        has_bias=not family.is_contrastive,
        head_hidden_size=config.head_hidden_size,
    )


def gate_spec(config: QuEEConfig, tree: PathTree) -> GateSpec:
    """Return what the model's gates are built from."""
    return GateSpec(
        tree=tree,
        levels=config.level_list,
        num_labels=config.num_classes,
        features=str(config.gate_features),
        hidden_size=config.gate_hidden_size,
        path_embedding_size=config.path_embedding_size,
    )


def segment_costs(config: QuEEConfig, cost_model: str | None = None) -> list[list[float]]:
    """Return the cost of each segment at each level under a cost model, in that model's unit.

    Args:
        config: Of the model.
        cost_model: One of `COST_MODELS`; the config's own if not given.
    """
    cost_model = cost_model or config.cost_model
    if cost_model == "latency":
        return cast(list[list[float]], config.cost_table)
    shape = get_family(config.backbone).shape(config.backbone)
    block_flops = 2 * shape.num_macs(num_tokens(config))
    segment_flops = [(stop - start) * block_flops for start, stop in config.segments]
    if cost_model == "flops":
        return flops_table(segment_flops, config.level_list)
    return bitops_table(segment_flops, _segment_bits(config))


def path_latencies(config: QuEEConfig, paths: Sequence[Path]) -> list[float] | None:
    """Return how long an image takes along each path, in ms; `None` if that was not measured.

    It is the time of the embedding, and that of the segments by the cost table.
    """
    profile, table = config.profile, config.cost_table
    if profile is None or table is None:
        return None
    embedding = profile["embedding"][profile["batch_sizes"].index(profile["batch_size"])][0]
    return [embedding + sum(row[level] for row, level in zip(table, path, strict=False)) for path in paths]


def _segment_bits(config: QuEEConfig) -> list[list[float]]:
    """Return the mean bits per operation of each segment at each level; exceptions count as what they are."""
    scheme = config.scheme
    if scheme is None:
        return [[level_bits(level) for level in config.level_list]] * config.num_exits
    products = get_family(config.backbone).shape(config.backbone).product_macs(num_tokens(config))
    block_macs = sum(products.values())

    def block_bits(block: int, level: Level) -> float:
        bits = {name: level_bits(scheme.computed_at(level, block, name)) for name in products}
        return sum(products[name] * bits[name] for name in products) / block_macs

    return [
        [fmean(block_bits(block + 1, level) for block in range(start, stop)) for level in config.level_list]
        for start, stop in config.segments
    ]


def num_tokens(config: QuEEConfig) -> int:
    """Return the number of tokens of one image: patches, and the tokens before them."""
    backbone = config.backbone
    family = get_family(backbone)
    return family.num_patches(backbone, *image_size(config)) + family.num_prefix_tokens(backbone)


def image_size(config: QuEEConfig) -> tuple[int, int]:
    """Return height and width of an image, in pixels."""
    size = cast(int | list[int], config.image_size)
    return (size, size) if isinstance(size, int) else (size[0], size[1])
