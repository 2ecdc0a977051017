"""How much the outputs of blocks matter: gradients that weigh quantization errors in PTQ4ViT."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional
from tqdm.auto import tqdm

from quee_hf.backbones.trunk import Trunk

_AS_CODED_BATCH = 4  # of the public code's backward passes
_BATCH_SIZE = 32
_PERTURBATION = 1e-3  # relative to the root mean square of a block's output
_TEMPERATURE = 20.0  # of the perturbed source's softmax

Classify = Callable[[Tensor], Tensor]  # from the trunk's output, (images, tokens, width), to logits


def sampled_label_gradients(
    trunk: Trunk, classify: Classify, hidden: Sequence[Tensor], seed: int
) -> list[Tensor]:
    """Gradients of the cross entropy with labels drawn from the model's own predictions ("fisher").

    The mean of their squares is the diagonal of the Fisher information, which is the Gauss-Newton matrix of
    the cross entropy: what a small error costs. No quantized forward pass and no labels are needed.
    """
    random = torch.Generator().manual_seed(seed)

    def loss(logits: Tensor, _first: int) -> Tensor:
        probabilities = logits.detach().float().softmax(dim=-1).cpu()
        labels = torch.multinomial(probabilities, 1, generator=random)[:, 0].to(logits.device)
        return functional.cross_entropy(logits, labels, reduction="sum")

    return _block_gradients(trunk, classify, hidden[0], loss, _BATCH_SIZE)


def rounding_noise_gradients(
    trunk: Trunk, classify: Classify, hidden: Sequence[Tensor], seed: int
) -> list[Tensor]:
    """Gradients of the divergence of predictions from themselves, as the public code has it ("as_coded").

    The target is computed with all images at once, the prediction in batches of four. Both are the same
    full-precision network, so the exact gradient is zero, and what is left is rounding noise that has
    been carried back. It depends on the machine.
    """
    with torch.no_grad():
        logits = classify(trunk.run_blocks(hidden[0], 0, len(trunk.blocks), "fp32"))
        target = logits.softmax(dim=-1)

    def loss(logits: Tensor, first: int) -> Tensor:
        same = target[first : first + len(logits)]
        return functional.kl_div(logits.log_softmax(dim=-1), same, reduction="batchmean")

    return _block_gradients(trunk, classify, hidden[0], loss, _AS_CODED_BATCH)


def perturbed_gradients(
    trunk: Trunk, classify: Classify, hidden: Sequence[Tensor], seed: int
) -> list[Tensor]:
    """Differences of gradients after adding and after subtracting a small perturbation ("perturbed").

    For each block its output is moved by random signs, and the divergence from the unmoved prediction, at
    temperature 20, is differentiated with respect to it.

    Source:
        Wu et al. 2025 (APHQ-ViT, arXiv:2504.02508), average perturbation Hessian; there all signs are equal.
    """
    random = torch.Generator().manual_seed(seed)
    num_blocks = len(trunk.blocks)
    with torch.no_grad():
        last = [
            trunk.run_blocks(part, num_blocks - 1, num_blocks, "fp32")
            for part in hidden[-1].split(_BATCH_SIZE)
        ]

    def differences(number: int, output: Tensor) -> Tensor:
        """Perturb the output of a block on some images."""

        def predict(moved: Tensor) -> Tensor:
            return classify(trunk.run_blocks(moved, number, num_blocks, "fp32")) / _TEMPERATURE

        signs = torch.randint(0, 2, output.shape, generator=random).to(output) * 2 - 1
        move = _PERTURBATION * output.square().mean().sqrt() * signs
        with torch.no_grad():
            target = predict(output).softmax(dim=-1)

        def gradient(moved: Tensor) -> Tensor:
            with torch.enable_grad():
                moved.requires_grad_()
                prediction = predict(moved).log_softmax(dim=-1)
                divergence = functional.kl_div(prediction, target, reduction="sum")
            return torch.autograd.grad(divergence, moved)[0]

        return gradient(output + move) - gradient(output - move)

    outputs = [*hidden[1:], torch.cat(last)]
    numbered = enumerate(tqdm(outputs, desc="Differentiating", unit="block", leave=False), start=1)
    return [
        torch.cat([differences(number, part) for part in output.split(_BATCH_SIZE)])
        for number, output in numbered
    ]


GRADIENT_SOURCES: dict[str, Callable[[Trunk, Classify, Sequence[Tensor], int], list[Tensor]]] = {
    "as_coded": rounding_noise_gradients,
    "fisher": sampled_label_gradients,
    "perturbed": perturbed_gradients,
}


def _block_gradients(
    trunk: Trunk,
    classify: Classify,
    hidden: Tensor,
    loss: Callable[[Tensor, int], Tensor],
    batch_size: int,
) -> list[Tensor]:
    """Return the gradient of a loss with respect to each block's output, `(images, tokens, width)` each."""
    pieces: list[list[Tensor]] = [[] for _ in trunk.blocks]
    for first in tqdm(range(0, len(hidden), batch_size), desc="Differentiating", unit="batch", leave=False):
        outputs = []
        with torch.enable_grad():
            # Weights are frozen; the input starts the graph.
            state = hidden[first : first + batch_size].clone().requires_grad_()
            for index in range(len(trunk.blocks)):
                state = trunk.run_blocks(state, index, index + 1, "fp32")
                outputs.append(state)
            value = loss(classify(state), first)
        for kept, gradient in zip(pieces, torch.autograd.grad(value, outputs), strict=True):
            kept.append(gradient)
    return [torch.cat(parts) for parts in pieces]
