"""Tests of the gradients that weigh errors, against plain loops with autograd."""

import pytest
import torch
from tests.tiny import VARIANTS, Variant, every_variant, images, wrap
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from quee_hf.ptq import gradients
from quee_hf.ptq.gradients import (
    GRADIENT_SOURCES,
    perturbed_gradients,
    rounding_noise_gradients,
    sampled_label_gradients,
)
from quee_hf.ptq.observation import observe_block

NUM_BLOCKS = 3


class Network:
    """A tiny float network, its blocks' inputs on some images, and its classifier."""

    def __init__(self, num_images=6, variant=VARIANTS["vit"], dtype=torch.float32):
        self.model = wrap(variant.build(NUM_BLOCKS), exit_blocks=[NUM_BLOCKS]).to(dtype)
        self.trunk = self.model.trunk
        self.hidden = [self.trunk.embed(images(num_images, variant.image_size).to(dtype))]
        for index in range(NUM_BLOCKS - 1):
            self.hidden.append(self.trunk.run_blocks(self.hidden[-1], index, index + 1, "fp32"))

    def classify(self, hidden):
        return self.model.read_exit(0, hidden).logits

    def outputs(self, image):
        """Outputs of all blocks on one image, in one graph, and its logits."""
        state, outputs = image.clone().requires_grad_(), []
        for block in self.trunk.blocks:
            state = block(state, "fp32")
            outputs.append(state)
        return outputs, self.classify(state)

    def find(self, source, seed=0):
        return GRADIENT_SOURCES[source](self.trunk, self.classify, self.hidden, seed)


class TestFisher:
    @every_variant
    def test_equals_autograd_image_by_image(self, variant: Variant):
        network = Network(variant=variant)
        found = network.find("fisher", seed=3)
        with torch.no_grad():
            logits = torch.cat([network.outputs(image)[1] for image in network.hidden[0].split(1)])
        random = torch.Generator().manual_seed(3)
        labels = torch.multinomial(logits.softmax(dim=-1), 1, generator=random)[:, 0]
        assert len(labels.unique()) > 1
        for i, image in enumerate(network.hidden[0].split(1)):
            outputs, logits = network.outputs(image)
            expected = torch.autograd.grad(functional.cross_entropy(logits, labels[i : i + 1]), outputs)
            for block in range(NUM_BLOCKS):
                # The same sums in other batches.
                torch.testing.assert_close(found[block][i : i + 1], expected[block], rtol=1e-3, atol=1e-6)

    def test_labels_are_repeatable_and_follow_the_seed(self):
        network = Network()
        first, again, other = (network.find("fisher", seed) for seed in (1, 1, 2))
        assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
        assert not all(torch.equal(a, b) for a, b in zip(first, other, strict=True))

    def test_batches_change_nothing_but_labels(self, monkeypatch):
        network = Network()
        whole = network.find("fisher")
        monkeypatch.setattr(gradients, "_BATCH_SIZE", 6)
        assert all(torch.equal(a, b) for a, b in zip(whole, network.find("fisher"), strict=True))


class TestAsCoded:
    def test_it_is_rounding_noise(self):
        network = Network(num_images=10)
        noise, exact = network.find("as_coded"), network.find("fisher")
        for block in range(NUM_BLOCKS):
            assert noise[block].shape == exact[block].shape
            assert noise[block].isfinite().all()
            # Logits are good to 1e-6 or so; gradients of the cross entropy are of the order of the probabilities.
            assert noise[block].abs().max() < 1e-4 * exact[block].abs().max()

    def test_in_exact_arithmetic_it_would_vanish(self):
        single, double = (Network(dtype=dtype).find("as_coded") for dtype in (torch.float32, torch.float64))
        # Class logits are float32 whatever the network computes in, so not all of the noise goes.
        assert all(b.abs().max() <= 1e-6 + a.abs().max() for a, b in zip(single, double, strict=True))


class TestPerturbed:
    @pytest.fixture
    def doubles(self, monkeypatch):
        """A network in float64, logits included, so that differences of differences mean something."""
        network = Network(num_images=3, dtype=torch.float64)
        head = network.model.heads[0]

        def classify(hidden):
            return head(head.select(network.trunk.norm(hidden)))

        network.classify = classify
        return network

    def test_equals_the_second_derivative(self, doubles):
        """The difference of gradients is twice the Hessian times the move, to first order."""
        network, seed = doubles, 5
        found = network.find("perturbed", seed)
        random = torch.Generator().manual_seed(seed)
        for number in range(1, NUM_BLOCKS + 1):
            with torch.no_grad():
                output = network.trunk.run_blocks(network.hidden[0], 0, number, "fp32")
            signs = torch.randint(0, 2, output.shape, generator=random).to(output) * 2 - 1
            move = 1e-3 * output.square().mean().sqrt() * signs

            def divergence(moved, start=number, at=output):
                logits, still = (
                    network.classify(network.trunk.run_blocks(x, start, NUM_BLOCKS, "fp32")) / 20
                    for x in (moved, at)
                )
                target = still.detach().softmax(dim=-1)
                return functional.kl_div(logits.log_softmax(dim=-1), target, reduction="sum")

            with sdpa_kernel(SDPBackend.MATH):  # the fused kernel has no second derivative
                _, product = torch.autograd.functional.hvp(divergence, output, 2 * move)
            # Third derivatives of the two sides cancel; those left are of the move's size squared.
            scale = product.abs().max().item()
            torch.testing.assert_close(found[number - 1], product, rtol=1e-2, atol=1e-2 * scale)

    def test_is_repeatable_and_follows_the_seed(self):
        network = Network(num_images=2)
        first, again, other = (network.find("perturbed", seed) for seed in (1, 1, 2))
        assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
        assert not any(torch.equal(a, b) for a, b in zip(first, other, strict=True))


@pytest.mark.parametrize("source", GRADIENT_SOURCES)
def test_all_give_one_gradient_for_each_block_and_leave_no_trace(source):
    network = Network(num_images=2)
    before = [state.clone() for state in network.hidden]
    for gradient, state in zip(network.find(source), network.hidden, strict=True):
        assert gradient.shape == state.shape
        assert not gradient.requires_grad
    for state, copy in zip(network.hidden, before, strict=True):
        assert torch.equal(state, copy)
        assert not state.requires_grad
    assert all(parameter.grad is None for parameter in network.model.parameters())


def test_the_names_are_those_of_the_functions():
    assert {
        "as_coded": rounding_noise_gradients,
        "fisher": sampled_label_gradients,
        "perturbed": perturbed_gradients,
    } == GRADIENT_SOURCES


@every_variant
def test_local_gradients_equal_those_of_the_whole_network(variant: Variant):
    """A block's gradients from its output's alone equal those of one graph over all blocks."""
    network = Network(variant=variant)
    cotangents = network.find("fisher", seed=3)
    logits = network.classify(network.trunk.run_blocks(network.hidden[0], 0, NUM_BLOCKS, "fp32"))
    random = torch.Generator().manual_seed(3)
    labels = torch.multinomial(logits.softmax(dim=-1), 1, generator=random)[:, 0]
    made, handles = {}, []
    for index, block in enumerate(network.trunk.blocks):
        block.attention.is_observed = True
        for name, product in block.products.items():
            handles.append(
                product.register_forward_hook(
                    lambda _m, _i, output, key=(index, name): made.setdefault(
                        key, output if output.requires_grad else output.requires_grad_()
                    )
                )
            )
    logits = network.classify(network.trunk.run_blocks(network.hidden[0], 0, NUM_BLOCKS, "fp32"))
    loss = functional.cross_entropy(logits, labels, reduction="sum")
    whole = dict(zip(made, torch.autograd.grad(loss, list(made.values())), strict=True))
    for handle in handles:
        handle.remove()
    for index, block in enumerate(network.trunk.blocks):
        block.attention.is_observed = False
        seen, _ = observe_block(block, index + 1, network.hidden[index], cotangents[index])
        for name, each in seen.items():
            # The same derivatives, computed in two steps, of attention that is fused in one and not in the other.
            scale = whole[index, name].abs().max().item()
            torch.testing.assert_close(each.gradient, whole[index, name], rtol=1e-3, atol=1e-5 * scale)
