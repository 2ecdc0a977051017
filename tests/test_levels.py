"""Tests of `quee_hf.levels`."""

import pytest

from quee_hf.levels import FLOAT_LEVEL_BITS, check_level, is_integer_level, level_bits, parse_level

VALID = [*range(2, 9), "bf16", "fp32"]


@pytest.mark.parametrize("level", VALID)
def test_a_valid_level_is_read_back_from_its_text(level):
    check_level(level)
    assert parse_level(f" {level} ") == level
    assert is_integer_level(level) is isinstance(level, int)


def test_bits_by_hand():
    assert [level_bits(level) for level in VALID] == [2, 3, 4, 5, 6, 7, 8, 16, 32]
    assert set(FLOAT_LEVEL_BITS) == {"bf16", "fp32"}


@pytest.mark.parametrize("level", [1, 9, 0, -8, 32, 8.0, True, None, "8", "fp16", "", [8]])
def test_anything_else_is_refused_with_what_is_allowed(level):
    for function in (check_level, level_bits):
        with pytest.raises(ValueError, match=r"bit-width 2 to 8, 'bf16' or 'fp32', got"):
            function(level)


@pytest.mark.parametrize("text", ["1", "-8", "8.0", "fp16", "", "INT8", "8 bits"])
def test_text_that_is_no_level_is_refused(text):
    with pytest.raises(ValueError, match="A level is a bit-width"):
        parse_level(text)
