"""Exit heads: from pooled tokens to class logits, or to an embedding to compare with class embeddings."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional

from quee_hf.exits.attention import AttentionPooling
from quee_hf.pooling import Pooling, pool, pooled_size


class ExitHead(nn.Module):
    """Select from the tokens what to read, pool it, and apply a small network.

    Args:
        network: Maps `(batch, pooled size)` to `(batch, outputs)`.
        pooling: Which tokens are selected.
        num_prefix_tokens: Tokens before the first patch.
        attention: Maps what was selected to one vector for each image, if it is not one already.
    """

    def __init__(
        self, network: nn.Module, pooling: Pooling, num_prefix_tokens: int, attention: nn.Module | None = None
    ) -> None:
        super().__init__()
        self.attention = attention or nn.Identity()
        self.network = network
        self.pooling = pooling
        self.num_prefix_tokens = num_prefix_tokens

    def select(self, tokens: Tensor) -> Tensor:
        """Map normalised tokens `(batch, tokens, hidden)` to what is read of them; this is not trained."""
        return pool(tokens, self.pooling, self.num_prefix_tokens)

    def pool(self, selected: Tensor) -> Tensor:
        """Map what was selected to one vector for each image, `(batch, pooled size)`."""
        pooled: Tensor = self.attention(selected)
        return pooled

    def forward(self, selected: Tensor) -> Tensor:
        """Map what was selected to class logits or an embedding, `(batch, outputs)`."""
        outputs: Tensor = self.network(self.pool(selected))
        return outputs


@dataclass(frozen=True)
class HeadSpec:
    """Everything a head is built from, whatever its type.

    Args:
        hidden_size: Width of a token.
        num_outputs: Classes, or size of the joint embedding.
        own_pooling: Which tokens the backbone's own head reads.
        num_prefix_tokens: Tokens before the first patch.
        has_bias: Whether the backbone's own head has a bias.
        head_hidden_size: Width of the hidden layer, of heads that have one.
    """

    hidden_size: int
    num_outputs: int
    own_pooling: Pooling
    num_prefix_tokens: int
    has_bias: bool
    head_hidden_size: int


def linear_head(spec: HeadSpec) -> ExitHead:
    """Build a head of the backbone's own kind: one linear layer on the tokens its own head reads."""
    size = pooled_size(spec.hidden_size, spec.own_pooling)
    network = nn.Linear(size, spec.num_outputs, bias=spec.has_bias)
    return ExitHead(network, spec.own_pooling, spec.num_prefix_tokens)


def mlp_head(spec: HeadSpec) -> ExitHead:
    """Build a head of two layers on the tokens that the backbone's own head reads.

    Source:
        none: our choice. Features of early blocks are further from linearly separable than the last's.
    """
    return ExitHead(
        _two_layers(pooled_size(spec.hidden_size, spec.own_pooling), spec),
        spec.own_pooling,
        spec.num_prefix_tokens,
    )


def attention_head(spec: HeadSpec) -> ExitHead:
    """Build a head of two layers on what learned queries find among the tokens.

    Source:
        none: our choice. After early blocks it is far more often right than heads on pooled tokens.
    """
    attention = AttentionPooling(spec.hidden_size)
    return ExitHead(_two_layers(attention.size, spec), "none", spec.num_prefix_tokens, attention)


def ssa_head(spec: HeadSpec) -> ExitHead:
    """Build a spatio-semantic aggregation head: mean patch token, Linear, GELU, Linear.

    Source:
        LRA-EE (arXiv:2605.26415), §4.2. Differs: the hidden width is ours, the paper's is not legible.
    """
    return ExitHead(_two_layers(spec.hidden_size, spec), "mean", spec.num_prefix_tokens)


def cls_head(spec: HeadSpec) -> ExitHead:
    """Build a head of two layers on the class token: what an SSA head is compared with.

    Source:
        The [CLS] head of LRA-EE (arXiv:2605.26415), §6.2. Differs: the hidden width is ours.
    """
    return ExitHead(_two_layers(spec.hidden_size, spec), "cls", spec.num_prefix_tokens)


def _two_layers(size: int, spec: HeadSpec) -> nn.Module:
    return nn.Sequential(
        nn.Linear(size, spec.head_hidden_size), nn.GELU(), nn.Linear(spec.head_hidden_size, spec.num_outputs)
    )


HEADS: dict[str, Callable[[HeadSpec], ExitHead]] = {
    "linear": linear_head,
    "mlp": mlp_head,
    "attention": attention_head,
    "ssa": ssa_head,
    "cls": cls_head,
}


def cosine_logits(embedding: Tensor, class_embeddings: Tensor, logit_scale: float) -> Tensor:
    """Compare image embeddings with class embeddings.

        logits = logit_scale * cos(embedding, class_embedding)

    Args:
        embedding: `(batch, size)`, any length.
        class_embeddings: `(classes, size)`, of length 1.
        logit_scale: Multiplier, the exponential of what CLIP stores.

    Returns:
        `(batch, classes)`, float32.
    """
    return logit_scale * functional.normalize(embedding.float(), dim=-1) @ class_embeddings.float().T
