"""Tests of `QuantizationScheme`: what it takes, and which level a product is computed at."""

import dataclasses
import json

import pytest

from quee_hf.schemes import PRODUCTS, WEIGHT_SHARING, QuantizationScheme, check_kept


def scheme(**fields):
    return QuantizationScheme(**{"method": "mse", "num_images": 4, **fields})


class TestRoundTrip:
    @pytest.mark.parametrize(
        "fields",
        [
            {},
            {"weight_sharing": "nested", "weights": "asymmetric", "per_head": True},
            {"activations": "dynamic", "kept": {"*.scores": "fp32", "2.fc2": 8}},
            {"softmax": "twin", "gelu": "log", "options": {"ridge": 0.01, "smoothing": {"1.qkv": 0.5}}},
        ],
    )
    def test_what_is_written_is_read(self, fields):
        written = json.loads(json.dumps(scheme(**fields).to_dict()))
        assert QuantizationScheme.from_dict(written) == scheme(**fields)

    def test_a_method_and_images_alone_are_the_plain_layout(self):
        read = QuantizationScheme.from_dict({"method": "mse", "num_images": 128})
        assert read == QuantizationScheme(method="mse", num_images=128)
        assert (read.weight_sharing, read.weights, read.activations) == ("independent", "symmetric", "static")
        assert (read.softmax, read.gelu, read.per_head, read.kept) == ("uniform", "uniform", False, {})

    def test_methods_of_others_may_be_named(self):
        assert QuantizationScheme.from_dict({"method": "of-tomorrow"}).num_images == 0


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"method": None}, "`quantization` must name its 'method', got None"),
        (
            {"weight_sharing": "shared"},
            r"`weight_sharing` must be one of \['independent', 'nested'\], got 'shared'",
        ),
        ({"weights": "odd"}, "`weights` must be one of .*got 'odd'"),
        ({"activations": "frozen"}, "`activations` must be one of .*got 'frozen'"),
        ({"softmax": "cubic"}, "`softmax` must be one of .*got 'cubic'"),
        ({"gelu": "cubic"}, "`gelu` must be one of .*got 'cubic'"),
        ({"kept": {"fc2": 8}}, "named '<block>.<product>'.*got 'fc2'"),
        ({"kept": {"2.fc2": "int8"}}, "bit-width 2 to 8, 'bf16' or 'fp32', got 'int8'"),
    ],
)
def test_other_values_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        scheme(**fields)
    with pytest.raises(ValueError, match=message):
        QuantizationScheme.from_dict({"method": "mse", "num_images": 4, **fields})


def test_unknown_and_missing_fields_are_refused():
    with pytest.raises(ValueError, match=r"has no field \['bits'\]; its fields are \['method'"):
        QuantizationScheme.from_dict({"method": "mse", "bits": 3})
    with pytest.raises(ValueError, match="must name its 'method'"):
        QuantizationScheme.from_dict({"num_images": 3})


def test_it_does_not_change():
    with pytest.raises(dataclasses.FrozenInstanceError):
        scheme().method = "other"


class TestKept:
    @pytest.mark.parametrize(
        "name", [f"{block}.{product}" for block in ("*", "1", "12") for product in PRODUCTS]
    )
    def test_every_product_can_be_named(self, name):
        check_kept({name: 8}, num_blocks=12)

    @pytest.mark.parametrize(
        "name",
        [
            "0.fc2",
            "-1.fc2",
            "01.fc2",
            "1.fc3",
            "1.",
            ".fc2",
            "fc2",
            "1.fc2.weight",
            "**.fc2",
            "1 .fc2",
            "",
            3,
            "1.FC2",
        ],
    )
    def test_nothing_else_can(self, name):
        with pytest.raises(ValueError, match=r"Exceptions are named '<block>\.<product>'"):
            check_kept({name: 8})

    def test_blocks_must_exist_if_their_number_is_known(self):
        check_kept({"13.fc2": 8})
        with pytest.raises(ValueError, match=r"There are 12 blocks, but an exception names '13\.fc2'"):
            check_kept({"13.fc2": 8}, num_blocks=12)

    @pytest.mark.parametrize("level", [1, 9, "int8", None, True, 8.0])
    def test_levels_must_be_levels(self, level):
        with pytest.raises(ValueError, match="A level is a bit-width"):
            check_kept({"1.fc2": level})

    def test_a_block_goes_before_the_star(self):
        made = scheme(kept={"*.fc2": "fp32", "2.fc2": 8})
        assert [made.kept_level(block, "fc2") for block in (1, 2, 3)] == ["fp32", 8, "fp32"]
        assert made.kept_level(2, "fc1") is None

    @pytest.mark.parametrize("kept", [8, 3, "bf16", "fp32"])
    def test_only_integer_levels_are_replaced(self, kept):
        made = scheme(kept={"2.fc2": kept})
        for level in ("fp32", "bf16", 8, 4):
            assert made.computed_at(level, 2, "fc2") == (level if isinstance(level, str) else kept)
            assert made.computed_at(level, 3, "fc2") == level
            assert made.computed_at(level, 2, "fc1") == level


def test_the_ways_of_sharing():
    assert WEIGHT_SHARING == ("independent", "nested")
