"""Tests of `quee_hf.levels`."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quee_hf.levels import (
    FLOAT_LEVEL_BITS,
    check_level,
    choose_levels,
    is_integer_level,
    level_bits,
    parse_level,
)

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


class TestChooseLevels:
    FALLING = {8: 0.95, 7: 0.949, 6: 0.94, 5: 0.925, 4: 0.6, 3: 0.1}  # noqa: RUF012

    def test_first_is_the_lowest_that_keeps_the_accuracy(self):
        assert choose_levels(self.FALLING, 0.95) == [7, 6]
        assert choose_levels(self.FALLING, 0.95, keep_within=0) == [8, 7, 6]
        assert choose_levels(self.FALLING, 0.95, keep_within=0.01) == [6]

    def test_others_end_where_too_much_is_lost(self):
        assert choose_levels(self.FALLING, 0.95, max_drop=0.03) == [7, 6, 5]
        assert choose_levels(self.FALLING, 0.95, max_drop=0.0) == [7]
        assert choose_levels(self.FALLING, 0.95, max_drop=1) == [7, 6, 5, 4, 3]

    def test_none_is_skipped(self):
        assert choose_levels({8: 0.95, 6: 0.9, 5: 0.94}, 0.95) == [8]

    def test_widest_if_none_keeps_the_accuracy(self):
        assert choose_levels({8: 0.5, 7: 0.4}, 0.95) == [8]
        assert choose_levels({8: 0.94, 7: 0.935}, 0.95) == [8, 7]

    def test_ends_count_despite_rounding(self):
        assert choose_levels({8: 0.3, 7: 0.1}, 0.3, keep_within=0.2, max_drop=0.2) == [7]  # 0.3 - 0.2 < 0.1

    def test_order_of_widths_does_not_matter(self):
        assert choose_levels(dict(sorted(self.FALLING.items())), 0.95) == [7, 6]

    @given(
        st.dictionaries(st.integers(2, 8), st.floats(0, 1), min_size=1),
        st.floats(0, 1),
        st.floats(0, 0.1),
        st.floats(0, 0.3),
    )
    def test_properties(self, accuracy_at, exact, keep_within, max_drop):
        chosen = choose_levels(accuracy_at, exact, keep_within=keep_within, max_drop=max_drop)
        assert chosen
        assert chosen == sorted(chosen, reverse=True)
        assert set(chosen) <= set(accuracy_at)
        between = [bits for bits in accuracy_at if chosen[-1] <= bits <= chosen[0]]
        assert len(between) == len(chosen)
        assert all(accuracy_at[bits] >= exact - max_drop - 1e-8 for bits in chosen[1:])

    @pytest.mark.parametrize(
        ("accuracy_at", "options", "message"),
        [
            ({}, {}, "no bit-widths"),
            ({9: 1.0}, {}, "bit-width 2 to 8"),
            ({8: 1.0}, {"keep_within": -0.1}, "`keep_within` must be from 0 to 1, got -0.1"),
            ({8: 1.0}, {"max_drop": float("nan")}, "`max_drop` must be from 0 to 1, got nan"),
        ],
    )
    def test_impossible_arguments_are_refused(self, accuracy_at, options, message):
        with pytest.raises(ValueError, match=message):
            choose_levels(accuracy_at, 1.0, **options)
