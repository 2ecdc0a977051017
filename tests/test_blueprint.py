"""Tests of `quee_hf.blueprint`: what a config implies."""

import pytest
from tests.reference.costs import bitops_cost
from tests.tiny import every_variant, wrap
from transformers import ViTConfig

from quee_hf import QuEEConfig
from quee_hf.backbones import get_family
from quee_hf.blueprint import head_spec, num_tokens, path_tree, segment_costs
from quee_hf.paths import PathRules
from quee_hf.routing.costs import path_cost
from quee_hf.schemes import PRODUCTS


def config(**fields):
    backbone = ViTConfig(
        hidden_size=32,
        num_attention_heads=2,
        num_hidden_layers=6,
        intermediate_size=48,
        image_size=32,
        patch_size=8,
        num_labels=3,
    )
    return QuEEConfig(backbone_config=backbone, exit_blocks=[1, 4, 6], levels=["bf16", 8, 4], **fields)


# By hand, for one block and 17 tokens: the four projections, the MLP's two layers, and both attention products.
BLOCK_MACS = 17 * (4 * 32 * 32 + 2 * 32 * 48) + 2 * 17 * 17 * 32


class TestSegmentCosts:
    def test_bitops_by_hand(self):
        assert segment_costs(config()) == [
            [blocks * 2 * BLOCK_MACS * bits for bits in (16, 8, 4)] for blocks in (1, 3, 2)
        ]

    def test_flops_by_hand(self):
        expected = [[blocks * 2.0 * BLOCK_MACS] * 3 for blocks in (1, 3, 2)]
        assert segment_costs(config(cost_model="flops")) == expected

    def test_latency_is_the_table(self):
        table = [[3.0, 2.0, 1.0], [9.0, 5.0, 4.0], [6.0, 5.0, 1.0]]
        assert segment_costs(config(cost_model="latency", cost_table=table)) == table
        assert segment_costs(config(cost_table=table)) == segment_costs(config())

    def test_path_costs_equal_eq_17(self):
        costs = segment_costs(config())
        for path in PathRules(3, 3, is_monotone=False, is_first_highest=False).enumerate():
            expected = bitops_cost([[16, 8, 4][level] for level in path], [1, 3, 2], 1, 16)
            assert path_cost(path, costs) == pytest.approx(float(expected), rel=1e-12)

    @every_variant
    def test_bitops_costs_do_not_depend_on_the_backbone(self, variant):
        # All blocks of a backbone are alike, so their size cancels.
        model = wrap(variant.build(), levels=[8, 4])
        costs = segment_costs(model.config)
        assert path_cost((0, 1), costs) == pytest.approx((1 * 8 + 1 * 4) / (4 * 8), rel=1e-12)


# By hand, of one block: fc2 has 17 * 48 * 32 operations, each attention product 17 * 17 * 32.
FC2_MACS, SCORES_MACS = 17 * 48 * 32, 17 * 17 * 32


class TestExceptions:
    def costs(self, **fields):
        return segment_costs(config(quantization={"method": "mse", "num_images": 4, **fields}))

    def test_without_them_costs_are_those_of_the_levels(self):
        for row, plain in zip(self.costs(), segment_costs(config()), strict=True):
            assert row == pytest.approx(plain, rel=1e-12)

    def test_they_count_where_they_are_at_integer_levels_only(self):
        costs, plain = self.costs(kept={"2.fc2": 8, "5.scores": "fp32"}), segment_costs(config())
        more = [
            [0, 0, 0],
            [0, 0, 2 * FC2_MACS * (8 - 4)],  # block 2 is in the second segment; at 8 bits nothing changes
            [0, 2 * SCORES_MACS * (32 - 8), 2 * SCORES_MACS * (32 - 4)],
        ]
        for row, expected, extra in zip(costs, plain, more, strict=True):
            assert row == pytest.approx([e + x for e, x in zip(expected, extra, strict=True)], rel=1e-12)

    def test_a_star_means_every_block(self):
        costs, plain = self.costs(kept={"*.fc2": 8}), segment_costs(config())
        for row, expected, blocks in zip(costs, plain, (1, 3, 2), strict=True):
            extra = [0, 0, blocks * 2 * FC2_MACS * 4]
            assert row == pytest.approx([e + x for e, x in zip(expected, extra, strict=True)], rel=1e-12)

    def test_a_block_goes_before_the_star(self):
        costs = self.costs(kept={"*.fc2": 8, "1.fc2": 2})
        assert costs[0][2] == pytest.approx(segment_costs(config())[0][2] - 2 * FC2_MACS * 2, rel=1e-12)

    def test_flops_and_latency_do_not_count_bits(self):
        quantization = {"method": "mse", "num_images": 4, "kept": {"*.fc2": 8}}
        table = [[3.0, 2.0, 1.0]] * 3
        for fields in ({"cost_model": "flops"}, {"cost_model": "latency", "cost_table": table}):
            assert segment_costs(config(**fields, quantization=quantization)) == segment_costs(
                config(**fields)
            )

    @every_variant
    def test_products_add_up_to_a_block(self, variant):
        model = wrap(variant.build(num_blocks=1))
        shape = get_family(model.config.backbone).shape(model.config.backbone)
        tokens = num_tokens(model.config)
        macs = shape.product_macs(tokens)
        assert set(macs) == set(PRODUCTS)
        assert sum(macs.values()) == shape.num_macs(tokens)
        for name, product in model.trunk.blocks[0].products.items():
            expected = tokens * tokens * shape.hidden_size
            if name not in ("scores", "mix"):
                expected = tokens * product.in_features * product.out_features
            assert macs[name] == expected


@pytest.mark.parametrize("image_size", [32, (32, 32), [32, 32]])
def test_tokens_are_patches_and_the_class(image_size):
    assert num_tokens(config(image_size=image_size)) == 16 + 1
    assert num_tokens(config(image_size=(16, 32))) == 2 * 4 + 1


class TestPathTree:
    @pytest.mark.parametrize("first_level", ["highest", "any"])
    @pytest.mark.parametrize("monotone_levels", [True, False])
    def test_follows_the_rules(self, first_level, monotone_levels):
        tree = path_tree(config(first_level=first_level, monotone_levels=monotone_levels))
        rules = PathRules(3, 3, is_monotone=monotone_levels, is_first_highest=first_level == "highest")
        assert list(tree.paths) == rules.enumerate()

    def test_is_sampled_by_the_seed(self):
        trees = [path_tree(config(max_paths=5, path_seed=seed)).paths for seed in (0, 0, 1, 2, 3)]
        assert all(len(paths) <= 5 for paths in trees)
        assert trees[0] == trees[1]
        assert len(set(trees)) > 1


def test_heads_are_shaped_by_the_backbone():
    spec = head_spec(config(head_hidden_size=7))
    assert (spec.hidden_size, spec.num_outputs, spec.own_pooling, spec.num_prefix_tokens) == (32, 2, "cls", 1)
    assert (spec.has_bias, spec.head_hidden_size) == (True, 7)
