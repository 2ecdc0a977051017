"""The vision tower of CLIP, with its projection into the joint embedding."""

from typing import Any

from transformers import CLIPModel, CLIPVisionModelWithProjection, PreTrainedConfig, PreTrainedModel
from transformers.models.clip.modeling_clip import CLIPVisionEmbeddings

from quee_hf.backbones.block import BlockShape
from quee_hf.backbones.family import BackboneFamily, SourceBlock, SourceModel
from quee_hf.errors import UnsupportedBackboneError


def _shape(config: PreTrainedConfig) -> BlockShape:
    return BlockShape(
        hidden_size=config.hidden_size,
        num_heads=config.num_attention_heads,
        mlp_size=config.intermediate_size,
        activation=config.hidden_act,
        layer_norm_eps=config.layer_norm_eps,
    )


def _locate(model: PreTrainedModel) -> SourceModel:
    if not isinstance(model, CLIPVisionModelWithProjection | CLIPModel):
        raise UnsupportedBackboneError(
            f"{type(model).__name__} is not supported: CLIP needs a CLIPVisionModelWithProjection or a"
            " CLIPModel."
        )
    tower: Any = model.vision_model
    blocks = [
        SourceBlock(
            norm1=layer.layer_norm1,
            query=layer.self_attn.q_proj,
            key=layer.self_attn.k_proj,
            value=layer.self_attn.v_proj,
            output=layer.self_attn.out_proj,
            norm2=layer.layer_norm2,
            fc1=(layer.mlp.fc1,),
            fc2=layer.mlp.fc2,
        )
        for layer in tower.encoder.layers
    ]
    return SourceModel(
        tower.embeddings, tower.pre_layrnorm, blocks, tower.post_layernorm, model.visual_projection
    )


CLIP_VISION = BackboneFamily(
    shape=_shape,
    make_embeddings=CLIPVisionEmbeddings,
    num_prefix_tokens=lambda _: 1,
    pooling="cls",
    locate=_locate,
    has_pre_norm=True,
    is_contrastive=True,
)
