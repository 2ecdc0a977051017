"""ViT and DeiT, and what other backbones with blocks like theirs share with them."""

from typing import Any, cast

from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.models.deit.modeling_deit import DeiTEmbeddings, DeiTForImageClassification
from transformers.models.vit.modeling_vit import ViTEmbeddings, ViTForImageClassification

from quee_hf.backbones.block import BlockShape
from quee_hf.backbones.family import BackboneFamily, SourceBlock, SourceModel
from quee_hf.errors import UnsupportedBackboneError


def vit_shape(config: PreTrainedConfig) -> BlockShape:
    """Return the sizes of blocks that are like those of ViT."""
    return BlockShape(
        hidden_size=config.hidden_size,
        num_heads=config.num_attention_heads,
        mlp_size=config.intermediate_size,
        activation=config.hidden_act,
        layer_norm_eps=config.layer_norm_eps,
        has_qkv_bias=config.qkv_bias,
    )


def vit_modules(base: Any, classifier: nn.Module) -> SourceModel:
    """Return the modules of a classifier that is built like ViT.

    Args:
        base: What has its `embeddings`, `layers` and `layernorm`.
        classifier: Its head.
    """
    blocks = [
        SourceBlock(
            norm1=layer.layernorm_before,
            query=layer.attention.q_proj,
            key=layer.attention.k_proj,
            value=layer.attention.v_proj,
            output=layer.attention.o_proj,
            norm2=layer.layernorm_after,
            fc1=(layer.mlp.fc1,),
            fc2=layer.mlp.fc2,
        )
        for layer in base.layers
    ]
    return SourceModel(base.embeddings, None, blocks, base.layernorm, cast(nn.Linear, classifier))


def _locate(model: PreTrainedModel) -> SourceModel:
    if isinstance(model, ViTForImageClassification):
        return vit_modules(model.vit, model.classifier)
    if isinstance(model, DeiTForImageClassification):
        return vit_modules(model.deit, model.classifier)
    raise UnsupportedBackboneError(
        f"{type(model).__name__} is not supported: ViT and DeiT need a ForImageClassification model (for"
        " DeiT, the one without a distillation head)."
    )


VIT = BackboneFamily(
    shape=vit_shape,
    make_embeddings=ViTEmbeddings,
    num_prefix_tokens=lambda _: 1,
    pooling="cls",
    locate=_locate,
)
DEIT = BackboneFamily(
    shape=vit_shape,
    make_embeddings=DeiTEmbeddings,
    num_prefix_tokens=lambda _: 2,
    pooling="cls",
    locate=_locate,
)
