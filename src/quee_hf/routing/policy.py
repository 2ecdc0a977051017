"""Choose a path per image from predicted errors and known costs. Pure functions."""

import torch
from torch import Tensor

# A lambda at which errors of at most 1 are lost in the rounding of float32, even beside a small cost.
_COST_ALONE = 1e12


def cost_lambda_per_sample(cost_lambda: float | Tensor, num_samples: int, device: torch.device) -> Tensor:
    """Return lambda as one float32 per image.

    Raises:
        ValueError: If it is negative or not a number, or a tensor of another shape than `(num_samples,)`.
    """
    values = torch.as_tensor(cost_lambda, dtype=torch.float32, device=device)
    if values.ndim == 0:
        values = values.expand(num_samples)
    if values.shape != (num_samples,):
        raise ValueError(
            f"`cost_lambda` must be one number or one per image, ({num_samples},), got shape"
            f" {tuple(values.shape)}."
        )
    if not bool((values >= 0).all()):
        raise ValueError(f"`cost_lambda` must be at least 0, got {float(values.min())}.")
    return values


def choose_paths(errors: Tensor, costs: Tensor, cost_lambda: Tensor, reachable: Tensor) -> Tensor:
    """Pick, for every image, the reachable path with the lowest expected loss.

        loss = error + cost_lambda * cost

    Ties go to the cheaper path, then to the lower index, so routing is reproducible. An infinite lambda looks
    at cost alone.

    Args:
        errors: `(batch, paths)`, predicted probability that the path is wrong.
        costs: `(paths,)`, in (0, 1].
        cost_lambda: `(batch,)`, error probability worth paying to save the full cost, at least 0.
        reachable: `(batch, paths)`, bool.

    Returns:
        `(batch,)`, int64 index of the chosen path.

    Example:
        >>> errors = torch.tensor([[0.30, 0.10], [0.11, 0.10]])
        >>> costs, reachable = torch.tensor([0.2, 1.0]), torch.ones(2, 2, dtype=torch.bool)
        >>> choose_paths(errors, costs, torch.tensor([0.1, 0.1]), reachable)
        tensor([1, 0])

    Source:
        Regol et al. 2024 (arXiv:2406.14404), Eq. (18).
    """
    cheapest_first = costs.argsort(stable=True)
    losses = torch.addcmul(errors, cost_lambda.clamp(max=_COST_ALONE)[:, None], costs)
    losses = losses.masked_fill(~reachable, torch.inf)
    return cheapest_first[losses[:, cheapest_first].argmin(dim=1)]  # argmin takes the first of equals
