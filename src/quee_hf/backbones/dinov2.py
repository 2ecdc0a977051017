"""DINOv2, with and without registers."""

from typing import Any, cast

from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.models.dinov2.modeling_dinov2 import Dinov2Embeddings, Dinov2ForImageClassification
from transformers.models.dinov2_with_registers.modeling_dinov2_with_registers import (
    Dinov2WithRegistersEmbeddings,
    Dinov2WithRegistersForImageClassification,
)

from quee_hf.backbones.block import BlockShape
from quee_hf.backbones.family import BackboneFamily, SourceBlock, SourceModel
from quee_hf.errors import UnsupportedBackboneError


def _shape(config: PreTrainedConfig) -> BlockShape:
    mlp_size = int(config.hidden_size * config.mlp_ratio)
    if config.use_swiglu_ffn:
        # SwiGLU keeps two thirds of the width, rounded up to a multiple of 8 (DINOv2's own rule).
        mlp_size = (int(mlp_size * 2 / 3) + 7) // 8 * 8
    return BlockShape(
        hidden_size=config.hidden_size,
        num_heads=config.num_attention_heads,
        mlp_size=mlp_size,
        activation="silu" if config.use_swiglu_ffn else config.hidden_act,
        layer_norm_eps=config.layer_norm_eps,
        has_qkv_bias=config.qkv_bias,
        has_layer_scale=True,
        is_mlp_gated=config.use_swiglu_ffn,
    )


def _locate(model: PreTrainedModel) -> SourceModel:
    if isinstance(model, Dinov2ForImageClassification):
        base: Any = model.dinov2
    elif isinstance(model, Dinov2WithRegistersForImageClassification):
        base = model.dinov2_with_registers
    else:
        raise UnsupportedBackboneError(
            f"{type(model).__name__} is not supported: DINOv2 needs a ForImageClassification model."
        )
    blocks = []
    for layer in base.encoder.layer:
        mlp = layer.mlp
        fc1 = (mlp.gate_proj, mlp.up_proj) if hasattr(mlp, "gate_proj") else (mlp.fc1,)
        blocks.append(
            SourceBlock(
                norm1=layer.norm1,
                query=layer.attention.q_proj,
                key=layer.attention.k_proj,
                value=layer.attention.v_proj,
                output=layer.attention.o_proj,
                norm2=layer.norm2,
                fc1=fc1,
                fc2=mlp.down_proj if len(fc1) == 2 else mlp.fc2,
                scale1=layer.layer_scale1.lambda1,
                scale2=layer.layer_scale2.lambda1,
            )
        )
    return SourceModel(base.embeddings, None, blocks, base.layernorm, cast(nn.Linear, model.classifier))


DINOV2 = BackboneFamily(
    shape=_shape,
    make_embeddings=Dinov2Embeddings,
    num_prefix_tokens=lambda _: 1,
    pooling="cls_and_mean",
    locate=_locate,
)
DINOV2_WITH_REGISTERS = BackboneFamily(
    shape=_shape,
    make_embeddings=Dinov2WithRegistersEmbeddings,
    num_prefix_tokens=lambda config: 1 + config.num_register_tokens,
    pooling="cls_and_mean",
    locate=_locate,
)
