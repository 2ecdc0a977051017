"""What an exit says of an image: its logits, and how much its patch tokens differ."""

from typing import NamedTuple

from torch import Tensor


class ExitReading(NamedTuple):
    """What is read at an exit."""

    logits: Tensor  # (batch, labels), float32
    variance: Tensor  # (batch,), float32, as `spatial_variance` gives it


def spatial_variance(tokens: Tensor, num_prefix_tokens: int) -> Tensor:
    """Return the variance of patch tokens over the image, averaged over channels: `(batch,)` float32.

    Args:
        tokens: `(batch, tokens, hidden)`, normalised, patches last.
        num_prefix_tokens: Tokens before the first patch.

    Source:
        Spatial-activation variance of LRA-EE (arXiv:2605.26415), §4.3, whose formula is not legible.
    """
    patches = tokens[:, num_prefix_tokens:].float()
    return (patches - patches.mean(dim=1, keepdim=True)).square().mean(dim=(1, 2))
