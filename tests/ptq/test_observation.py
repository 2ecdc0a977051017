"""Tests of observing a block: complete, exact, and without a trace."""

import pytest
import torch
from tests.tiny import VARIANTS, Variant, every_variant, generator, images, wrap
from torch.nn import functional

from quee_hf.ptq import observation
from quee_hf.ptq.observation import observe_block
from quee_hf.quantization.linear import MultiLevelLinear

NAMES = ["qkv", "scores", "mix", "output", "fc1", "fc2"]


def block_and_input(variant=VARIANTS["vit"], num_images=4):
    trunk = wrap(variant.build(num_blocks=1)).trunk
    return trunk.blocks[0], trunk.embed(images(num_images, variant.image_size))


def by_hand(block, hidden):
    """What goes into each product, and what comes out of the block, written out."""
    attention, mlp = block.attention, block.mlp
    normed = block.norm1(hidden)
    batch, tokens, width = hidden.shape
    qkv = functional.linear(normed, attention.qkv.weight, attention.qkv.bias)
    heads = (
        part.view(batch, tokens, attention.num_heads, -1).transpose(1, 2) for part in qkv.chunk(3, dim=-1)
    )
    query, key, value = heads
    probabilities = (query @ key.mT / attention.head_size**0.5).softmax(dim=-1)
    mixed = (probabilities @ value).transpose(1, 2).reshape(batch, tokens, width)
    branch = functional.linear(mixed, attention.output.weight, attention.output.bias)
    hidden = hidden + (branch if block.scale1 is None else branch * block.scale1)
    again = block.norm2(hidden)
    inner = functional.linear(again, mlp.fc1.weight, mlp.fc1.bias)
    if mlp.is_gated:
        gate, inner = inner.chunk(2, dim=-1)
        inner = mlp.activation(gate) * inner
    else:
        inner = mlp.activation(inner)
    branch = functional.linear(inner, mlp.fc2.weight, mlp.fc2.bias)
    hidden = hidden + (branch if block.scale2 is None else branch * block.scale2)
    inputs = [(normed,), (query, key.mT), (probabilities, value), (mixed,), (again,), (inner,)]
    return dict(zip(NAMES, inputs, strict=True)), hidden


@every_variant
def test_every_product_of_every_backbone_is_seen(variant: Variant):
    block, hidden = block_and_input(variant)
    seen, output = observe_block(block, 1, hidden)
    expected, expected_output = by_hand(block, hidden)
    assert list(seen) == NAMES
    for name in NAMES:
        assert seen[name].gradient is None
        for found, wanted in zip(seen[name].inputs, expected[name], strict=True):
            # The same sums, perhaps in another order.
            torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(output, expected_output, rtol=1e-5, atol=1e-5)
    assert seen["fc1"].rows.shape == (hidden.shape[0] * hidden.shape[1], hidden.shape[2])


def test_batches_change_nothing_but_memory(monkeypatch):
    block, hidden = block_and_input(num_images=5)
    cotangent = torch.randn(hidden.shape, generator=generator(1))
    whole, output = observe_block(block, 1, hidden, cotangent)
    monkeypatch.setattr(observation, "_BATCH_SIZE", 2)
    split, split_output = observe_block(block, 1, hidden, cotangent)
    torch.testing.assert_close(split_output, output, rtol=1e-5, atol=1e-5)
    for name in NAMES:
        torch.testing.assert_close(split[name].gradient, whole[name].gradient, rtol=1e-4, atol=1e-5)
        for found, wanted in zip(split[name].inputs, whole[name].inputs, strict=True):
            torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)


@every_variant
def test_gradients_are_those_of_the_products_outputs(variant: Variant):
    """Moving a product's output moves the loss by the gradient; checked in float64, by differences."""
    block, hidden = block_and_input(variant, num_images=2)
    block, hidden = block.double(), hidden.double()
    cotangent = torch.randn(hidden.shape, generator=generator(1), dtype=torch.float64)
    seen, _ = observe_block(block, 1, hidden, cotangent)
    for name, product in block.products.items():
        gradient = seen[name].gradient
        move = torch.randn(gradient.shape, generator=generator(2), dtype=torch.float64)
        losses = []
        for step in (1e-5, -1e-5):
            handle = product.register_forward_hook(lambda _m, _i, output, s=step: output + s * move)  # noqa: B023
            block.attention.is_observed = True
            losses.append((block(hidden, "fp32") * cotangent).sum())
            block.attention.is_observed = False
            handle.remove()
        slope = (losses[0] - losses[1]) / 2e-5
        # A central difference of a smooth function is off by the step squared; ReLU's kinks matter a little more.
        assert slope.item() == pytest.approx((gradient * move).sum().item(), rel=1e-4, abs=1e-4), name


class TestLeavesNoTrace:
    def assert_untouched(self, block):
        assert not any(module._forward_hooks for module in block.modules())
        assert not block.attention.is_observed
        assert not any(parameter.requires_grad for parameter in block.parameters())

    @pytest.mark.parametrize("with_gradients", [False, True])
    def test_after_success(self, with_gradients):
        block, hidden = block_and_input()
        before, state = block(hidden, "fp32"), hidden.clone()
        seen, _ = observe_block(block, 1, hidden, torch.ones_like(hidden) if with_gradients else None)
        self.assert_untouched(block)
        assert torch.equal(block(hidden, "fp32"), before)
        assert torch.equal(hidden, state)
        assert not hidden.requires_grad
        assert not any(x.requires_grad for each in seen.values() for x in each.inputs)

    def test_after_failure(self):
        block, hidden = block_and_input()
        with pytest.raises(ValueError, match="hold NaN or infinity"):
            observe_block(block, 1, torch.full_like(hidden, torch.nan))
        self.assert_untouched(block)


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_the_first_module_that_sees_a_bad_number_is_named(value):
    block, hidden = block_and_input()
    with torch.no_grad():
        block.mlp.fc1.bias[3] = value
    # -inf becomes 0 after GELU; it shows as NaN (0 * inf) there.
    message = r"The activations at blocks\.6\.mlp\.fc2\.input hold NaN or infinity on the calibration images"
    with pytest.raises(ValueError, match=message):
        observe_block(block, 7, hidden)


def test_a_bad_operand_is_named():
    block, hidden = block_and_input()
    with torch.no_grad():
        block.attention.qkv.bias[-1] = torch.inf  # of a value
    message = r"The activations at blocks\.0\.attention\.mix\.right hold NaN or infinity"
    with pytest.raises(ValueError, match=message):
        observe_block(block, 1, hidden)


def test_a_bad_output_is_named():
    block, hidden = block_and_input()
    with torch.no_grad():
        block.mlp.fc2.bias[0] = torch.inf
    with pytest.raises(ValueError, match=r"The output of blocks\.2 holds NaN or infinity"):
        observe_block(block, 3, hidden)


def test_products_are_named_by_their_place():
    block, _ = block_and_input()
    assert [isinstance(product, MultiLevelLinear) for product in block.products.values()] == [
        name not in ("scores", "mix") for name in NAMES
    ]
