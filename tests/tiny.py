"""Tiny random classifiers, and QuEE models made of them: 2 to 4 blocks, 32 wide, images of 28 to 32 pixels."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import (
    CLIPConfig,
    CLIPModel,
    CLIPTextConfig,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
    DeiTConfig,
    DeiTForImageClassification,
    Dinov2Config,
    Dinov2ForImageClassification,
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersForImageClassification,
    PreTrainedModel,
    ViTConfig,
    ViTForImageClassification,
)

from quee_hf import QuEEForImageClassification, T2TViTConfig, T2TViTForImageClassification, quantize
from quee_hf.execution.prefix_tree import tree_forward
from quee_hf.exits.reading import ExitReading
from quee_hf.gates import LRAGates
from quee_hf.gates.features import GATE_FEATURES, seen_at_depth

NUM_LABELS = 5
PROJECTION_SIZE = 16
NUM_BLOCKS = 4
LOGIT_SCALE = 3.0  # natural logarithm, as CLIP stores it

_SIZES: dict[str, Any] = {"hidden_size": 32, "num_attention_heads": 2, "num_hidden_layers": NUM_BLOCKS}
_VIT: dict[str, Any] = {**_SIZES, "intermediate_size": 48, "image_size": 32, "patch_size": 8}
_DINOV2: dict[str, Any] = {**_SIZES, "mlp_ratio": 2, "image_size": 28, "patch_size": 14}
_T2T: dict[str, Any] = {
    **_SIZES,
    "intermediate_size": 64,
    "image_size": 32,
    "token_size": 8,
    "num_random_features": 4,
}


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def images(count: int, size: int = 32, seed: int = 0) -> Tensor:
    """Return `(count, 3, size, size)`, normal."""
    return torch.randn(count, 3, size, size, generator=generator(seed))


@torch.no_grad()
def randomize(module: nn.Module, seed: int = 0, gain: float = 1.5) -> None:
    """Give every parameter a value that matters: the default initialisation leaves most of them without effect."""
    random = generator(seed)
    for name, parameter in module.named_parameters():
        noise = torch.randn(parameter.shape, generator=random).to(parameter.dtype)
        is_factor = "norm" in name or "lambda1" in name or name.endswith("logit_scale")
        if parameter.ndim >= 2:
            parameter.copy_(gain * noise / parameter.shape[1:].numel() ** 0.5)
        else:
            parameter.copy_(0.3 * noise + float(is_factor and not name.endswith("bias")))


def _vision(**overrides: Any) -> CLIPVisionConfig:
    fields = {**_VIT, "image_size": 30, "patch_size": 10, "projection_dim": PROJECTION_SIZE, **overrides}
    return CLIPVisionConfig(**fields)


def _clip(**overrides: Any) -> CLIPModel:
    text = CLIPTextConfig(
        hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=1, vocab_size=8
    )
    # The tower's own `projection_dim` is misleading on purpose: the full model uses its own.
    vision = _vision(projection_dim=2 * PROJECTION_SIZE, **overrides)
    model = CLIPModel(
        CLIPConfig(text_config=text.to_dict(), vision_config=vision.to_dict(), projection_dim=PROJECTION_SIZE)
    )
    return model


@dataclass(frozen=True)
class Variant:
    """One kind of HF classifier that can be wrapped.

    Args:
        model_type: The entry of `BACKBONES` that it exercises.
        make: Builds the HF model, given fields of its config to change; its weights are randomised afterwards.
        image_size: In pixels.
    """

    model_type: str
    make: Callable[..., PreTrainedModel]
    image_size: int

    @property
    def is_clip(self) -> bool:
        return self.model_type == "clip_vision_model"

    def build(self, num_blocks: int = NUM_BLOCKS) -> PreTrainedModel:
        model = self.make(num_hidden_layers=num_blocks).eval()
        randomize(model)
        if isinstance(model, CLIPModel):
            with torch.no_grad():
                model.logit_scale.fill_(LOGIT_SCALE)
        return model


def _classifier(
    model_class: Any, config_class: Any, fields: dict[str, Any], **overrides: Any
) -> PreTrainedModel:
    return model_class(config_class(**{**fields, "num_labels": NUM_LABELS, **overrides}))


def _t2t(**fields: Any) -> PreTrainedModel:
    """Build a T2T-ViT whose random features, which are no parameters, are always the same."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        return _classifier(T2TViTForImageClassification, T2TViTConfig, _T2T, **fields)


_DINOV2_CLASSES = (Dinov2ForImageClassification, Dinov2Config)
VARIANTS = {
    "vit": Variant("vit", partial(_classifier, ViTForImageClassification, ViTConfig, _VIT), 32),
    "vit-no-qkv-bias": Variant(
        "vit",
        partial(
            _classifier,
            ViTForImageClassification,
            ViTConfig,
            {**_VIT, "qkv_bias": False, "hidden_act": "relu", "layer_norm_eps": 1e-3},
        ),
        32,
    ),
    "deit": Variant("deit", partial(_classifier, DeiTForImageClassification, DeiTConfig, _VIT), 32),
    "dinov2": Variant("dinov2", partial(_classifier, *_DINOV2_CLASSES, _DINOV2), 28),
    "dinov2-swiglu": Variant(
        "dinov2", partial(_classifier, *_DINOV2_CLASSES, {**_DINOV2, "use_swiglu_ffn": True}), 28
    ),
    "dinov2-with-registers": Variant(
        "dinov2_with_registers",
        partial(_classifier, Dinov2WithRegistersForImageClassification, Dinov2WithRegistersConfig, _DINOV2),
        28,
    ),
    "t2t-vit": Variant("t2t_vit", _t2t, 32),
    "t2t-vit-softmax": Variant("t2t_vit", partial(_t2t, token_attention="softmax"), 32),
    "clip-vision": Variant(
        "clip_vision_model", lambda **fields: CLIPVisionModelWithProjection(_vision(**fields)), 30
    ),
    "clip": Variant("clip_vision_model", _clip, 30),
}
every_variant = pytest.mark.parametrize("variant", VARIANTS.values(), ids=VARIANTS)


def class_embeddings(count: int = NUM_LABELS) -> Tensor:
    """Return `(count, PROJECTION_SIZE)`, deliberately not of length 1."""
    return torch.randn(count, PROJECTION_SIZE, generator=generator(7)) + 0.5


def wrap(backbone: PreTrainedModel, **fields: Any) -> QuEEForImageClassification:
    """Make a QuEE model with exits after blocks 1, 2 and 4, as far as they exist; its new heads and gates are random,
    but always the same, and of the papers' kind: simple enough to be written out."""
    num_blocks = (getattr(backbone.config, "vision_config", None) or backbone.config).num_hidden_layers
    exits = [block for block in (1, 2, NUM_BLOCKS) if block <= num_blocks]
    simple = {"head_type": "linear", "gate_hidden_size": 32}
    if "gate_type" not in fields:
        simple["gate_features"] = "confidence"
    fields = {"exit_blocks": exits, "levels": ["fp32"], **simple, **fields}
    if "CLIP" in type(backbone).__name__:
        fields = {"class_embeddings": class_embeddings(), "logit_scale": LOGIT_SCALE, **fields}
    model = QuEEForImageClassification.from_backbone(backbone, **fields)
    randomize(model.heads[:-1], seed=1)
    randomize(model.gates, seed=2)
    return model


def stock_logits(backbone: PreTrainedModel, pixel_values: Tensor) -> Tensor:
    """Return the logits of the HF model itself, computed by its own code."""
    if isinstance(backbone, CLIPModel):
        features = backbone.get_image_features(pixel_values).pooler_output
    elif isinstance(backbone, CLIPVisionModelWithProjection):
        features = backbone(pixel_values).image_embeds
    else:
        return backbone(pixel_values).logits
    classes = functional.normalize(class_embeddings().to(features), dim=-1)
    scale = torch.tensor(LOGIT_SCALE, dtype=features.dtype).exp()
    return scale * functional.normalize(features, dim=-1) @ classes.T


def quantize_fast(model: QuEEForImageClassification, pixel_values: Tensor | None = None) -> None:
    """Quantize a tiny model at the full range of a few images."""
    pixel_values = images(4, model.config.image_size) if pixel_values is None else pixel_values
    quantize(model, pixel_values, method="min_max")


@torch.no_grad()
def untrained_gates(model: QuEEForImageClassification, seed: int = 4) -> None:
    """Give gates random weights that send different images different ways, and call them trained."""
    randomize(model.gates, seed=seed)
    kind, tree = GATE_FEATURES[model.config.gate_features], model.router.tree
    summaries = model.summarize(tree_forward(model, images(16, model.config.image_size, seed=9)))
    for number in (number for number in model.gates.numbers if number):
        seen = kind.features(seen_at_depth(tree, number, summaries), NUM_LABELS).flatten(0, 1)
        is_linear = isinstance(model.gates, LRAGates)
        layer = model.gates.layers[str(number)] if is_linear else model.gates[str(number)].features
        # Centred and scaled, so that every feature differs between images.
        spread = seen.std(dim=0)
        layer.weight.mul_(2 / torch.where(spread == 0, 1, spread.clamp_min(1e-3)))
        layer.bias.sub_(layer.weight @ seen.mean(dim=0))
    if isinstance(model.gates, LRAGates):
        steps = torch.linspace(0.9, 0.1, len(mixed_lambdas(7)))
        lambdas = mixed_lambdas(7)
        model.gates.set_thresholds(lambdas, steps[:, None].expand(-1, len(model.gates.numbers)))
    model.config.trained_parts = ["gates", "heads"]


def predict_errors(model: QuEEForImageClassification, gate: int, current: Tensor, previous: Tensor) -> Tensor:
    """Return what a gate that looks at the last two exits' probabilities predicts of paths, `(..., paths)`."""
    passed = [previous] * (gate - 1) + [current] if gate else [current]
    readings = [ExitReading(rows.log(), torch.zeros(rows.shape[:-1])) for rows in passed]
    seen = torch.stack([model.summarize(reading) for reading in readings], dim=-2)
    return model.gates.logits(gate, seen[..., :gate, :]).sigmoid()


def mixed_lambdas(count: int) -> Tensor:
    """Return `(count,)`: values from 0 to infinity, so that images of one batch go far apart."""
    values = torch.tensor([0.0, 0.03, 0.06, 0.1, 0.15, 0.2, 0.4, torch.inf])
    return values.repeat(count // len(values) + 1)[:count]


def routable(variant: Variant | None = None, **fields: Any) -> QuEEForImageClassification:
    """Make a model that can route: integer levels with codes, and gates."""
    fields = {"levels": [8, 6, 4], **fields}
    model = wrap((variant or VARIANTS["vit"]).build(), **fields)
    if any(not isinstance(level, str) for level in model.config.levels):
        quantize_fast(model)
    untrained_gates(model)
    return model
