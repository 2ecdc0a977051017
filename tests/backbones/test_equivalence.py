"""Every backbone, wrapped, computes what the HF model itself computes."""

import pytest
import torch
from tests.tiny import LOGIT_SCALE, NUM_BLOCKS, VARIANTS, Variant, every_variant, images, stock_logits, wrap
from torch.utils.flop_counter import FlopCounterMode

from quee_hf.backbones import BACKBONES, get_family
from quee_hf.blueprint import num_tokens
from quee_hf.exits.heads import HEADS


def test_every_backbone_has_a_tiny_variant():
    assert {variant.model_type for variant in VARIANTS.values()} == set(BACKBONES)


@every_variant
class TestFullPrecision:
    def test_last_exit_equals_the_hf_model(self, variant: Variant):
        """Compared in float64, where the order of sums is not visible in what is left: float32 logits."""
        backbone = variant.build().double()
        pixel_values = images(5, variant.image_size).double()
        logits = wrap(variant.build()).double()(pixel_values).logits
        expected = stock_logits(backbone, pixel_values)
        assert logits.dtype == torch.float32
        assert expected.std() > 0.5  # a comparison of constants would prove nothing
        assert (expected.std(dim=0) > 0.1).all()
        # One rounding to float32; cosines are sums of 16 products in float32, of length 1, times the scale.
        atol = 20 * 2**-24 * torch.tensor(LOGIT_SCALE).exp().item() if variant.is_clip else 0.0
        torch.testing.assert_close(logits.double(), expected, rtol=2**-23, atol=atol)

    def test_last_exit_equals_the_hf_model_in_float32(self, variant: Variant):
        pixel_values = images(5, variant.image_size)
        logits = wrap(variant.build())(pixel_values).logits
        # Some 40 layers of sums of about 50 terms, each off by a few 2**-24 of its size: 1e-5 of the logits' range.
        expected = stock_logits(variant.build(), pixel_values)
        torch.testing.assert_close(logits, expected, rtol=0, atol=1e-5 * expected.abs().max().item())

    def test_each_exit_is_the_backbone_cut_there(self, variant: Variant):
        """A backbone whose later blocks add nothing ends at the exit before them."""
        model = wrap(variant.build(), exit_blocks=[1, 2, NUM_BLOCKS]).double()
        for block in model.trunk.blocks[2:]:
            for linear in (block.attention.output, block.mlp.fc2):
                linear.weight.zero_()
                linear.bias.zero_()
        pixel_values = images(3, variant.image_size).double()
        model.heads[1] = model.heads[2]
        assert torch.equal(model(pixel_values, path=("fp32", "fp32")).logits, model(pixel_values).logits)

    def test_the_hf_model_is_not_changed_and_nothing_is_shared(self, variant: Variant):
        backbone = variant.build()
        before = {name: tensor.clone() for name, tensor in backbone.state_dict().items()}
        model = wrap(backbone)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(1)
        assert all(torch.equal(tensor, before[name]) for name, tensor in backbone.state_dict().items())
        assert all(parameter.requires_grad for parameter in backbone.parameters())


@every_variant
def test_macs_of_a_block_are_what_torch_counts(variant: Variant):
    model = wrap(variant.build())
    tokens = num_tokens(model.config)
    hidden = model.embed(images(1, variant.image_size))
    assert hidden.shape[1] == tokens
    model.trunk.blocks[0].attention.is_observed = True  # both products as plain matmuls
    with FlopCounterMode(display=False) as counter:
        model.trunk.run_blocks(hidden, 0, 1, "fp32")
    family = get_family(model.config.backbone_config)
    assert counter.get_total_flops() == 2 * family.shape(model.config.backbone_config).num_macs(tokens)


@every_variant
def test_observed_attention_computes_the_same(variant: Variant):
    model = wrap(variant.build()).double()
    pixel_values = images(3, variant.image_size).double()
    expected = model(pixel_values).logits
    for block in model.trunk.blocks:
        block.attention.is_observed = True
    torch.testing.assert_close(model(pixel_values).logits, expected, rtol=2**-22, atol=2**-20)


@every_variant
@pytest.mark.parametrize("head_type", HEADS)
def test_every_head_works_on_every_backbone(variant: Variant, head_type: str):
    model = wrap(variant.build(), head_type=head_type, head_hidden_size=8)
    for length in (1, 2, 3):
        output = model(images(2, variant.image_size), path=("fp32",) * length)
        assert output.logits.shape == (2, 5)
        assert output.logits.isfinite().all()
    trainable = sum(parameter.numel() for parameter in model.heads[:-1].parameters())
    assert trainable > 0


@every_variant
def test_prefix_tokens_are_those_before_the_patches(variant: Variant):
    model = wrap(variant.build())
    family, config = get_family(model.config.backbone_config), model.config.backbone_config
    # The soft splits of T2T-ViT go in steps of 4, 2 and 2.
    step = 16 if variant.model_type == "t2t_vit" else config.patch_size
    patches = (variant.image_size // step) ** 2
    assert num_tokens(model.config) == patches + family.num_prefix_tokens(config)
    assert model.trunk.num_prefix_tokens == family.num_prefix_tokens(config)
