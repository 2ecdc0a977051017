"""What goes into every product of a block on the calibration images, and how much errors of it matter."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from quee_hf.backbones.block import Block
from quee_hf.quantization.linear import MultiLevelLinear

_BATCH_SIZE = 32  # images per forward pass; changes nothing but memory


@dataclass(frozen=True)
class Seen:
    """One product on all calibration images.

    Args:
        inputs: One tensor of a linear layer, two of a matrix product; the first dimension counts images.
        gradient: Of the loss with respect to the product's output; `None` unless asked for.
    """

    inputs: tuple[Tensor, ...]
    gradient: Tensor | None = None

    @property
    def rows(self) -> Tensor:
        """The input of a linear layer, `(images * tokens, in)`."""
        return self.inputs[0].flatten(0, -2)


def observe_block(
    block: Block, number: int, hidden: Tensor, cotangent: Tensor | None = None
) -> tuple[dict[str, Seen], Tensor]:
    """Run a block in full precision and keep what its products see.

    Args:
        block: With float weights.
        number: Of the block, counted from 1; for error messages.
        hidden: `(images, tokens, width)`, its input.
        cotangent: Gradient of the loss with respect to its output, if the products' gradients are wanted.

    Returns:
        What each product saw, by its name, and the block's output.

    Raises:
        ValueError: If an activation is not finite; the message names the module.
    """
    parts: dict[str, list[list[Tensor]]] = {name: [] for name in block.products}
    gradients: dict[str, list[Tensor]] = {name: [] for name in block.products}
    outputs = []
    cotangents = [None] * len(hidden) if cotangent is None else cotangent.split(_BATCH_SIZE)
    for batch, gradient in zip(hidden.split(_BATCH_SIZE), cotangents, strict=False):
        with _recorded(block, parts) as made, torch.set_grad_enabled(gradient is not None):
            output = block(batch.requires_grad_(False), "fp32")
        if gradient is not None:
            for name, found in zip(
                made, torch.autograd.grad(output, list(made.values()), gradient), strict=True
            ):
                gradients[name].append(found)
        outputs.append(output.detach())
    seen = {}
    for name, pieces in parts.items():
        inputs = tuple(torch.cat(operand) for operand in zip(*pieces, strict=True))
        _check_finite(block, number, name, inputs)
        seen[name] = Seen(inputs, torch.cat(gradients[name]) if gradients[name] else None)
    output = torch.cat(outputs)
    if not output.isfinite().all():
        raise ValueError(
            f"The output of blocks.{number - 1} holds NaN or infinity on the calibration images."
        )
    return seen, output


@contextmanager
def _recorded(block: Block, parts: dict[str, list[list[Tensor]]]) -> Iterator[dict[str, Tensor]]:
    """Record the products' inputs for as long as the block lasts, and yield their outputs, by name."""
    made: dict[str, Tensor] = {}

    def record(name: str, num_operands: int) -> Any:
        def hook(_module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> Tensor:
            parts[name].append([operand.detach().clone() for operand in inputs[:num_operands]])
            # Weights are frozen: without this nothing would be differentiated.
            made[name] = (
                output if output.requires_grad or not torch.is_grad_enabled() else output.requires_grad_()
            )
            return made[name]

        return hook

    with ExitStack() as stack:
        block.attention.is_observed = True
        stack.callback(setattr, block.attention, "is_observed", False)
        for name, product in block.products.items():
            count = 1 if isinstance(product, MultiLevelLinear) else 2
            stack.callback(product.register_forward_hook(record(name, count)).remove)
        yield made


def _check_finite(block: Block, number: int, product: str, inputs: tuple[Tensor, ...]) -> None:
    for operand, tensor in zip(("input",) if len(inputs) == 1 else ("left", "right"), inputs, strict=True):
        if not tensor.isfinite().all():
            path = next(path for path, module in block.named_modules() if module is block.products[product])
            raise ValueError(
                f"The activations at blocks.{number - 1}.{path}.{operand} hold NaN or infinity on the"
                " calibration images."
            )
