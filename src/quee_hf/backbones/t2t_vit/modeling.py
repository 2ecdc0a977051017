"""`T2TViTModel` and `T2TViTForImageClassification`, in the manner of transformers."""

from typing import cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, ViTConfig
from transformers import initialization as init
from transformers.modeling_outputs import BaseModelOutputWithPooling, ImageClassifierOutput
from transformers.models.vit.modeling_vit import ViTAttention, ViTLayer
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs
from transformers.utils.generic import can_return_tuple, merge_with_config_defaults
from transformers.utils.output_capturing import capture_outputs

from quee_hf.backbones.t2t_vit.attention import PerformerAttention
from quee_hf.backbones.t2t_vit.configuration import T2TViTConfig
from quee_hf.backbones.t2t_vit.embeddings import T2TViTEmbeddings, sinusoids


class T2TViTPreTrainedModel(PreTrainedModel):
    """Loading, saving and initialisation of T2T-ViT models."""

    config: T2TViTConfig
    config_class = T2TViTConfig
    base_model_prefix = "t2t_vit"
    main_input_name = "pixel_values"
    input_modalities = ["image"]  # noqa: RUF012 - the type transformers declares
    supports_gradient_checkpointing = True
    _no_split_modules = ["T2TViTEmbeddings", "ViTLayer"]  # noqa: RUF012 - as above
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _can_record_outputs = {"hidden_states": ViTLayer, "attentions": ViTAttention}  # noqa: RUF012 - as above
    _input_embed_layer = "projection"

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)  # type: ignore[no-untyped-call]
        if isinstance(module, T2TViTEmbeddings):
            init.trunc_normal_(module.cls_token, std=self.config.initializer_range)
            positions = cast(Tensor, module.position_embeddings)
            init.copy_(positions, sinusoids(*positions.shape[1:]))
        elif isinstance(module, PerformerAttention):
            init.orthogonal_(cast(Tensor, module.random_features), gain=module.num_features**0.5)


class T2TViTModel(T2TViTPreTrainedModel):
    """A T2T-ViT without a head: the T2T module, blocks like those of ViT, and a norm.

    Args:
        config: Of the model.

    Example:
        >>> model = T2TViTModel(T2TViTConfig(image_size=64)).eval()
        >>> model(torch.zeros(1, 3, 64, 64)).last_hidden_state.shape
        torch.Size([1, 17, 256])

    Source:
        Yuan et al. 2021 (arXiv:2101.11986). Differs: no stochastic depth in training.
    """

    def __init__(self, config: T2TViTConfig) -> None:
        super().__init__(config)
        self.embeddings = T2TViTEmbeddings(config)
        # T2T-ViT's blocks are those of ViT: norm first, queries scaled by the root of a head's width.
        alike = cast(ViTConfig, config)
        self.layers = nn.ModuleList(ViTLayer(alike) for _ in range(config.num_hidden_layers))
        self.layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.post_init()

    @merge_with_config_defaults  # type: ignore[untyped-decorator]
    @capture_outputs(tie_last_hidden_states=False)  # type: ignore[untyped-decorator]
    def forward(
        self, pixel_values: Tensor, **kwargs: Unpack[TransformersKwargs]
    ) -> BaseModelOutputWithPooling:
        """Map `(batch, channels, height, width)` to tokens `(batch, 1 + patches, hidden)`, class first."""
        hidden = self.embeddings(pixel_values.to(self.layernorm.weight.dtype))
        for layer in self.layers:
            hidden = layer(hidden, None, **kwargs)
        hidden = self.layernorm(hidden)
        return BaseModelOutputWithPooling(last_hidden_state=hidden, pooler_output=hidden[:, 0])


class T2TViTForImageClassification(T2TViTPreTrainedModel):
    """A T2T-ViT with a linear head on its class token.

    Args:
        config: Of the model; `num_labels` is the number of classes.

    Example:
        >>> model = T2TViTForImageClassification(T2TViTConfig(image_size=64, num_labels=10)).eval()
        >>> model(torch.zeros(1, 3, 64, 64)).logits.shape
        torch.Size([1, 10])
    """

    def __init__(self, config: T2TViTConfig) -> None:
        super().__init__(config)
        self.num_labels = config.num_labels
        self.t2t_vit = T2TViTModel(config)
        size, count = config.hidden_size, config.num_labels
        self.classifier = nn.Linear(size, count) if count else nn.Identity()
        self.post_init()

    @can_return_tuple  # type: ignore[untyped-decorator]
    def forward(
        self, pixel_values: Tensor, labels: Tensor | None = None, **kwargs: Unpack[TransformersKwargs]
    ) -> ImageClassifierOutput:
        """Map `(batch, channels, height, width)` to logits `(batch, labels)`; `labels` give a loss."""
        outputs = self.t2t_vit(pixel_values, **kwargs)
        logits = self.classifier(outputs.pooler_output)
        loss = None if labels is None else self.loss_function(labels, logits, self.config, **kwargs)
        return ImageClassifierOutput(
            loss=loss, logits=logits, hidden_states=outputs.hidden_states, attentions=outputs.attentions
        )
