"""Tests of `quee_hf.diagnostics.pathological_exits`, with profiles made by hand."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quee_hf.diagnostics.pathological_exits import noise_jumps, objections, pathological_exits


def profile(noise, inr=None):
    """Return a profile of blocks 1, 2, ... with these noise ratios; INRs are high if not given."""
    inr = [100.0] * len(noise) if inr is None else inr
    return {
        "blocks": [
            {"block": number, "noise_ratio": ratio, "inr": information}
            for number, (ratio, information) in enumerate(zip(noise, inr, strict=True), start=1)
        ]
    }


NINTH = [0.02, 0.02, 0.03, 0.03, 0.04, 0.05, 0.06, 0.08, 0.40, 0.20, 0.30, 0.40]
"""As LRA-EE tells of CLIP: noise grows, and the ninth block stands out."""


class TestNoiseJumps:
    def test_by_hand(self):
        # Neighbours of the third are 1, 2, 8 and 16: their median is 5.
        assert noise_jumps([1, 2, 10, 8, 16])[2] == 2.0
        # Of the first only the next two, of the second three.
        assert noise_jumps([9, 2, 4, 50])[:2] == [3.0, 2 / 9]

    def test_of_steady_growth_are_at_most_the_growth_of_a_block(self):
        *inside, last_but_one, last = noise_jumps([1.8**block for block in range(12)])
        assert max(inside) <= 1
        assert last_but_one == pytest.approx(1.8)
        assert last == pytest.approx(1.8**1.5, rel=0.05)

    def test_two_spikes_side_by_side_are_both_seen(self):
        jumps = noise_jumps([1, 1, 1, 9, 9, 1, 1, 1])
        assert jumps[3] == jumps[4] == 9

    @pytest.mark.parametrize(
        ("noise", "jumps"),
        [
            ([0.5], [1.0]),
            ([0.0, 0.0, 0.0], [1.0, 1.0, 1.0]),
            ([0.0, 0.1, 0.0], [0.0, math.inf, 0.0]),
            ([0.1, None, 0.1], [0.0, math.inf, 0.0]),
            ([None, None], [1.0, 1.0]),
        ],
    )
    def test_of_nothing_and_of_infinity(self, noise, jumps):
        assert noise_jumps(noise) == jumps

    @given(st.lists(st.floats(1e-6, 1e3), min_size=1, max_size=12), st.floats(0.01, 100))
    def test_do_not_depend_on_the_unit(self, noise, factor):
        assert noise_jumps([factor * ratio for ratio in noise]) == pytest.approx(noise_jumps(noise), rel=1e-9)

    @given(st.lists(st.floats(1e-6, 1e3), min_size=1, max_size=12))
    def test_do_not_depend_on_the_direction(self, noise):
        assert noise_jumps(noise[::-1]) == noise_jumps(noise)[::-1]


class TestPathologicalExits:
    def test_a_spike_is_left_out(self):
        assert pathological_exits(profile(NINTH), [4, 8, 9, 10, 12]) == [9]
        assert pathological_exits(profile(NINTH), [4, 8, 10, 12]) == []

    def test_how_large_a_spike_is_decided_by_the_limit(self):
        # 0.40 over the median of 0.06, 0.08, 0.20 and 0.30, which is 0.14.
        assert pathological_exits(profile(NINTH), [9, 12], largest_jump=0.40 / 0.14 - 0.01) == [9]
        assert pathological_exits(profile(NINTH), [9, 12], largest_jump=0.40 / 0.14 + 0.01) == []

    def test_the_limit_itself_is_allowed(self):
        assert pathological_exits(profile([1, 2, 1, 1]), [2, 4], largest_jump=2) == []
        assert pathological_exits(profile([1, 1, 1], [1.0] * 3), [2, 3], least_inr=1) == []

    def test_a_block_that_adds_less_than_the_noise_is_left_out(self):
        inr = [9.0, 0.99, 1.0, 0.5]
        assert pathological_exits(profile([0.1] * 4, inr), [1, 2, 3, 4]) == [2]
        assert pathological_exits(profile([0.1] * 4, inr), [1, 2, 3, 4], least_inr=1.01) == [2, 3]

    def test_without_noise_inr_is_infinite_and_no_objection(self):
        assert pathological_exits(profile([0.0] * 3, [None] * 3), [1, 2, 3], least_inr=1e9) == []

    def test_the_last_exit_stays_whatever_it_is_like(self):
        bad = profile([0.1, 0.1, 0.1, 0.9], [0.1] * 4)
        assert pathological_exits(bad, [4]) == []
        assert pathological_exits(bad, [2, 4]) == [2]
        assert objections(bad)[4] == ["noise", "inr"]

    def test_limits_can_be_turned_off(self):
        bad = profile([0.1, 0.9, 0.1], [0.1] * 3)
        assert pathological_exits(bad, [1, 2, 3], largest_jump=math.inf, least_inr=0) == []

    @given(
        st.lists(st.tuples(st.floats(1e-6, 10), st.floats(1e-3, 1e3)), min_size=1, max_size=12),
        st.floats(1, 5),
        st.floats(0, 10),
    )
    def test_stricter_limits_leave_out_more(self, drawn, largest_jump, least_inr):
        noise, inr = zip(*drawn, strict=True)
        exits = list(range(1, len(noise) + 1))
        loose = pathological_exits(profile(noise, inr), exits, largest_jump=largest_jump, least_inr=least_inr)
        strict = pathological_exits(
            profile(noise, inr), exits, largest_jump=(1 + largest_jump) / 2, least_inr=2 * least_inr
        )
        assert set(loose) <= set(strict) <= set(exits[:-1])

    @pytest.mark.parametrize("exits", [[9, 8, 12], [8, 8, 12], [0, 12], [8, 13]])
    def test_exits_that_cannot_be_are_refused(self, exits):
        with pytest.raises(ValueError, match=r"Exits must ascend, after blocks of \[1, 2"):
            pathological_exits(profile(NINTH), exits)

    @pytest.mark.parametrize(
        ("limits", "message"),
        [
            ({"largest_jump": 0.9}, "`largest_jump` must be at least 1, got 0.9"),
            ({"largest_jump": math.nan}, "`largest_jump` must be at least 1, got nan"),
            ({"least_inr": -1}, "`least_inr` must be at least 0, got -1"),
        ],
    )
    def test_limits_that_make_no_sense_are_refused(self, limits, message):
        with pytest.raises(ValueError, match=message):
            pathological_exits(profile(NINTH), [12], **limits)
