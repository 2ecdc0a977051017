"""`AttentionPooling`: learned queries that look for what an exit's tokens hold."""

import torch
from torch import Tensor, nn

from quee_hf.exits.dropout import SharedDropout


class AttentionPooling(nn.Module):
    """Join the class token, the mean patch token, and what a few learned queries attend to.

        attended(q) = sum over tokens t of softmax_t(key(t) . q / sqrt(key size)) value(t)

    After an early block the class token knows little and the mean forgets where things are; single tokens
    know more than either. Keys and values are narrow: this costs a few hundredths of a block.

    Args:
        hidden_size: Width of a token.
        num_queries: How many vectors are attended to.
        key_size: Width of keys and queries.
        value_size: Width of values.
        dropout: Share of a token's channels that are left out in training.

    Source:
        Lee et al. 2019 (Set Transformer, arXiv:1810.00825), §3.2. Differs: one head, no layer after it, class
        and mean token beside it.
    """

    def __init__(
        self,
        hidden_size: int,
        *,
        num_queries: int = 4,
        key_size: int = 32,
        value_size: int = 64,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        self.size = 2 * hidden_size + num_queries * value_size
        self.queries = nn.Parameter(torch.randn(key_size, num_queries) / key_size**0.5)
        self.keys = nn.Linear(hidden_size, key_size, bias=False)  # a bias would add the same to all tokens
        self.values = nn.Linear(hidden_size, value_size)
        self.dropout = SharedDropout(dropout)

    @property
    def lenses(self) -> Tensor:
        """What tokens are multiplied with to be compared with queries, `(hidden, queries)`."""
        return self.keys.weight.T @ self.queries

    def forward(self, tokens: Tensor) -> Tensor:
        """Map `(batch, tokens, hidden)`, the class token first, to `(batch, size)`."""
        kept = self.dropout(tokens)
        weights = (kept @ self.lenses).softmax(dim=1)  # (batch, tokens, queries)
        # Weights add up to 1: values of what is attended to are what is attended to of values.
        attended = self.values(weights.mT @ kept).flatten(1)
        return torch.cat([tokens[:, 0], tokens[:, 1:].mean(dim=1), attended], dim=1)
