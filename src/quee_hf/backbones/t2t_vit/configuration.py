"""`T2TViTConfig`: everything needed to rebuild a T2T-ViT from its weights."""

from typing import Any, Self

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig

from quee_hf.backbones.t2t_vit.soft_split import SMALLEST_IMAGE, token_grids

TOKEN_ATTENTIONS = ("performer", "softmax")


def _size(hidden_size: int, num_blocks: int, mlp_ratio: int, token_attention: str) -> dict[str, Any]:
    return {
        "hidden_size": hidden_size,
        "num_hidden_layers": num_blocks,
        "num_attention_heads": hidden_size // 64,
        "intermediate_size": mlp_ratio * hidden_size,
        "token_attention": token_attention,
    }


# By the names that the authors' code gives them; `_t` stands for the transformer, here "softmax", T2T module.
T2T_VIT_SIZES = {
    "t2t_vit_7": _size(256, 7, 2, "performer"),
    "t2t_vit_10": _size(256, 10, 2, "performer"),
    "t2t_vit_12": _size(256, 12, 2, "performer"),
    "t2t_vit_14": _size(384, 14, 3, "performer"),
    "t2t_vit_19": _size(448, 19, 3, "performer"),
    "t2t_vit_24": _size(512, 24, 3, "performer"),
    "t2t_vit_t_14": _size(384, 14, 3, "softmax"),
    "t2t_vit_t_19": _size(448, 19, 3, "softmax"),
    "t2t_vit_t_24": _size(512, 24, 3, "softmax"),
}


@strict
class T2TViTConfig(PreTrainedConfig):
    """Describe a T2T-ViT; the defaults are those of T2T-ViT-7.

    Args:
        hidden_size: Width of a token in the blocks.
        num_hidden_layers: Number of blocks.
        num_attention_heads: Of a block; must divide `hidden_size`.
        intermediate_size: Width between the two linear layers of a block's MLP.
        token_size: Width of a token inside the T2T module, between the soft splits.
        token_attention: Attention inside the T2T module: "performer" (random features; time grows with the
            number of tokens) or "softmax" (with its square).
        num_random_features: Of "performer"; half of `token_size` in the published models.
        hidden_act: Activation of all MLPs.
        hidden_dropout_prob: Dropout in the blocks and after the positions.
        attention_probs_dropout_prob: Dropout of attention in the blocks.
        token_dropout_prob: Dropout inside the T2T module; the authors train "performer" with 0.1.
        initializer_range: Standard deviation of new weights.
        layer_norm_eps: Added to the variance in every norm.
        image_size: Side of the square input in pixels, or height and width.
        num_channels: Of an image.
        qkv_bias: Whether queries, keys and values of blocks have a bias.

    Raises:
        StrictDataclassError: If a field has the wrong type or the fields contradict each other.

    Example:
        >>> T2TViTConfig(image_size=64).num_patches
        16

    Source:
        Yuan et al. 2021 (arXiv:2101.11986).
    """

    model_type = "t2t_vit"

    hidden_size: int = 256
    num_hidden_layers: int = 7
    num_attention_heads: int = 4
    intermediate_size: int = 512
    token_size: int = 64
    token_attention: str = "performer"
    num_random_features: int = 32
    hidden_act: str = "gelu"
    hidden_dropout_prob: float | int = 0.0
    attention_probs_dropout_prob: float | int = 0.0
    token_dropout_prob: float | int = 0.1
    initializer_range: float = 0.02
    layer_norm_eps: float = 1e-5
    image_size: int | list[int] | tuple[int, ...] = 224
    num_channels: int = 3
    qkv_bias: bool = False

    @classmethod
    def of_size(cls, name: str, **fields: Any) -> Self:
        """Return the config of a published size.

        Args:
            name: One of `T2T_VIT_SIZES`: "t2t_vit_7", ..., "t2t_vit_24", "t2t_vit_t_14", ...
            **fields: Other fields, or ones to change.

        Raises:
            ValueError: If there is no such size.

        Example:
            >>> T2TViTConfig.of_size("t2t_vit_14", num_labels=10).hidden_size
            384
        """
        if name not in T2T_VIT_SIZES:
            raise ValueError(f"`name` must be one of {list(T2T_VIT_SIZES)}, got {name!r}.")
        return cls(**{**T2T_VIT_SIZES[name], **fields})

    @property
    def image_sides(self) -> tuple[int, int]:
        """Height and width of an image, in pixels."""
        size = self.image_size
        return (size, size) if isinstance(size, int) else (size[0], size[1])

    @property
    def num_patches(self) -> int:
        """Number of tokens that the T2T module makes of an image."""
        rows, columns = token_grids(*self.image_sides)[-1]
        return rows * columns

    def validate_choices(self) -> None:
        """The attention of the T2T module is one of those there are."""
        if self.token_attention not in TOKEN_ATTENTIONS:
            raise ValueError(
                f"`token_attention` must be one of {list(TOKEN_ATTENTIONS)}, got {self.token_attention!r}."
            )

    def validate_sizes(self) -> None:
        """Sizes are positive and fit each other."""
        for name in ("num_hidden_layers", "intermediate_size", "token_size", "num_random_features"):
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}` must be at least 1, got {getattr(self, name)}.")
        heads = self.num_attention_heads
        if heads < 1 or self.hidden_size < 1 or self.hidden_size % heads:
            raise ValueError(f"`num_attention_heads` must divide {self.hidden_size}, got {heads}.")
        size = self.image_size
        if (not isinstance(size, int) and len(size) != 2) or min(self.image_sides) < SMALLEST_IMAGE:
            raise ValueError(
                f"`image_size` must be a side, or height and width, of at least {SMALLEST_IMAGE} pixels,"
                f" got {size}."
            )
