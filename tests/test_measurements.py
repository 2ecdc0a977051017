"""Tests of what a config keeps of measurements: what is refused, and what a path takes."""

import pytest
from tests.profiles import make_profile

from quee_hf.measurements import check_points, check_profile, path_milliseconds
from quee_hf.values import without


class TestPathMilliseconds:
    def test_by_hand(self):
        profile = make_profile(3, 2)
        # Embedding 1; segments 1 and 2 / 2; two exits of 0.5, two decisions of 0.25.
        assert path_milliseconds(profile, (0, 1), 4) == 1 + 1 + 1 + 2 * 0.5 + 2 * 0.25
        assert path_milliseconds(profile, (0, 1), 1) == 2 * path_milliseconds(profile, (0, 1), 4)

    def test_after_the_last_exit_nothing_is_decided(self):
        assert path_milliseconds(make_profile(3, 1), (0, 0, 0), 4) == 1 + 1 + 2 + 3 + 3 * 0.5 + 2 * 0.25


class TestCheckProfile:
    def test_a_profile_of_other_segments_or_levels_is_refused(self):
        check_profile(make_profile(3, 2), 3, 2)
        for shape in ((2, 2), (3, 1)):
            with pytest.raises(ValueError, match=r"`record\['profile'\]` must have 'segments' of shape"):
                check_profile(make_profile(3, 2), *shape)

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"machine": {}}, "must name its 'machine'"),
            ({"batch_size": 8}, r"must have its `batch_size`, 8, among \[1, 4\]"),
            ({"batch_sizes": []}, "must have its `batch_size`"),
            ({"embedding": [[1.0, 1.0, 1.0]]}, r"'embedding' of shape \(2, 3\)"),
            ({"embedding": [[1.0, 1.0, 1.0], [1.0, float("nan"), 1.0]]}, "all positive"),
            ({"exits": "no"}, "'exits' of shape"),
            ({"colour": "red"}, "must have the fields"),
        ],
        ids=str,
    )
    def test_what_is_wrong_is_named(self, changes, message):
        with pytest.raises(ValueError, match=message):
            check_profile(make_profile(3, 2, **changes), 3, 2)

    @pytest.mark.parametrize("profile", [3, {}, {"engine": "torch"}])
    def test_something_else_is_refused(self, profile):
        with pytest.raises(ValueError, match="must have the fields"):
            check_profile(profile, 3, 2)


class TestCheckPoints:
    POINT = {"cost_lambda": 0.1, "cost": 0.5, "accuracy": 0.9}  # noqa: RUF012

    def test_points_are_valid_at_the_costs_they_were_measured_with(self):
        check_points([{**self.POINT, "cost_model": "latency"}], "latency")
        check_points([self.POINT], "flops")  # of an earlier version, which did not say
        check_points(None, "bitops")

    def test_and_at_no_others(self):
        points = [{**self.POINT, "cost_model": "bitops"}]
        with pytest.raises(ValueError, match=r"in 'bitops', but `cost_model` is 'latency'.*set_cost_model"):
            check_points(points, "latency")


def test_without():
    assert without({"a": 1, "b": 2}, "b") == {"a": 1}
    assert without(None, "b") == {}
