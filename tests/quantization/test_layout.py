"""Tests of `ProductLayout`: what a product stores, by hand."""

import pytest

from quee_hf.quantization.layout import ProductLayout
from quee_hf.schemes import QuantizationScheme

LEVELS = ["fp32", "bf16", 8, 6, 3]


def layout(levels=LEVELS, block=2, product="fc2", **fields):
    return ProductLayout(levels, QuantizationScheme(method="mse", num_images=1, **fields), block, product)


def test_before_quantization_there_are_float_weights_and_no_codes():
    plain = ProductLayout([8, 4])
    assert plain.bit_widths == []
    assert plain.needs_float
    assert (plain.is_nested, plain.has_offsets, plain.is_per_head) == (False, False, False)
    assert (plain.input_kind, plain.gelu_kind, plain.softmax_kind) == ("uniform",) * 3
    assert plain.computed_at(8) == 8


@pytest.mark.parametrize(
    ("levels", "kept", "bit_widths", "needs_float"),
    [
        (LEVELS, {}, [8, 6, 3], True),
        ([8, 4], {}, [8, 4], False),
        ([8, 4], {"2.fc2": 8}, [8], False),
        ([6, 4], {"2.fc2": 8}, [8], False),
        ([6, 4], {"2.fc1": 8, "3.fc2": 8}, [6, 4], False),
        ([8, 4], {"*.fc2": "fp32"}, [], True),
        ([8, 4], {"*.fc2": "bf16", "2.fc2": 5}, [5], False),
        (["bf16", 8, 4], {"2.fc2": 8}, [8], True),
    ],
)
def test_exceptions_take_the_place_of_integer_levels(levels, kept, bit_widths, needs_float):
    made = layout(levels, kept=kept)
    assert made.bit_widths == bit_widths
    assert made.needs_float == needs_float
    for level in levels:
        if isinstance(level, str):
            assert made.computed_at(level) == level


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, (False, False, False)),
        ({"weights": "asymmetric"}, (False, True, False)),
        ({"weight_sharing": "nested"}, (True, True, False)),
        ({"per_head": True}, (False, False, True)),
    ],
)
def test_what_is_stored(fields, expected):
    made = layout(**fields)
    assert (made.is_nested, made.has_offsets, made.is_per_head) == expected


@pytest.mark.parametrize(
    ("fields", "kinds"),
    [
        ({"activations": "dynamic"}, ("dynamic", "dynamic", "uniform")),
        ({"softmax": "twin", "gelu": "twin"}, ("uniform", "twin_gelu", "twin_softmax")),
        ({"softmax": "log"}, ("uniform", "uniform", "log")),
        ({"gelu": "log", "activations": "dynamic"}, ("dynamic", "log", "uniform")),
    ],
)
def test_kinds_of_quantizers(fields, kinds):
    made = layout(**fields)
    assert (made.input_kind, made.gelu_kind, made.softmax_kind) == kinds
