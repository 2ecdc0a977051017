"""Tests of `quee_hf.diagnostics.rescue`, by hand, by symmetry, and against loops."""

import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from quee_hf.diagnostics.rescue import (
    QUADRANTS,
    compare_with_control,
    describe_margins,
    describe_rescue,
    describe_rescue_by_class,
    describe_selectivity,
    mcnemar_p_value,
)

ROUNDED = 2e-6  # six decimals each


def outcomes(both_right, rescue, loss, both_wrong):
    """Return `early` and `full` with so many images in each quadrant."""
    counts = (both_right, rescue, loss, both_wrong)
    pairs = [(True, True), (True, False), (False, True), (False, False)]
    rows = [pair for pair, count in zip(pairs, counts, strict=True) for _ in range(count)]
    return tuple(torch.tensor(column, dtype=torch.bool) for column in zip(*rows, strict=True))


def random_pair(num_images, seed, rescue=0.1, loss=0.07):
    chance = torch.rand(num_images, generator=torch.Generator().manual_seed(seed))
    full = chance > 0.4
    early = torch.where(full, chance > 0.4 + loss, chance < rescue)
    return early, full


some_images = st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=80)


def as_tensors(drawn):
    return tuple(torch.tensor(column) for column in zip(*drawn, strict=True))


class TestQuadrants:
    def test_the_papers_table(self):
        described = describe_rescue(*outcomes(5162, 947, 710, 3181))
        assert [described[name]["count"] for name in QUADRANTS] == [5162, 947, 710, 3181]
        assert [described[name]["share"] for name in QUADRANTS] == [0.5162, 0.0947, 0.0710, 0.3181]
        assert described["net"]["value"] == 0.0237
        assert (described["accuracy_early"], described["accuracy_full"]) == (0.6109, 0.5872)
        # The normal approximation; for the test, so far out, within a tenth.
        reach = 1.96 * math.sqrt(1657) / 10_000
        assert described["net"]["interval"] == pytest.approx([0.0237 - reach, 0.0237 + reach], abs=1e-4)
        expected = math.erfc((237 - 1) / math.sqrt(1657) / math.sqrt(2))
        assert described["p_value"] == pytest.approx(expected, rel=0.1)

    @given(some_images)
    def test_hold_every_image_once(self, drawn):
        early, full = as_tensors(drawn)
        described = describe_rescue(early, full)
        assert sum(described[name]["count"] for name in QUADRANTS) == described["num_images"] == len(drawn)
        gain = described["accuracy_early"] - described["accuracy_full"]
        assert described["net"]["value"] == pytest.approx(gain, abs=ROUNDED)
        low, high = described["net"]["interval"]
        assert -1 <= low <= described["net"]["value"] <= high <= 1
        for name in QUADRANTS:
            low, high = described[name]["interval"]
            assert low <= described[name]["share"] <= high

    @given(some_images)
    def test_swapping_turns_rescue_into_loss(self, drawn):
        early, full = as_tensors(drawn)
        there, back = describe_rescue(early, full), describe_rescue(full, early)
        assert (there["rescue"], there["loss"]) == (back["loss"], back["rescue"])
        assert there["p_value"] == back["p_value"]
        low, high = there["net"]["interval"]
        assert back["net"]["interval"] == pytest.approx([-high, -low], abs=ROUNDED)

    def test_what_changes_nothing_rescues_nothing(self):
        early, _ = random_pair(50, seed=0)
        described = describe_rescue(early, early)
        assert (described["rescue"]["count"], described["loss"]["count"], described["p_value"]) == (0, 0, 1.0)
        low, high = described["net"]["interval"]
        assert -high == low < 0 < high  # 50 images do not prove that there is no effect

    def test_is_fit_for_json(self):
        described = describe_rescue(*outcomes(3, 400, 1, 0))
        assert json.loads(json.dumps(described, allow_nan=False)) == described
        assert 0 < described["p_value"] < 1e-100  # six decimals would be 0

    @pytest.mark.parametrize(
        ("early", "full", "message"),
        [
            (torch.ones(2, dtype=torch.bool), torch.ones(3, dtype=torch.bool), r"shapes \[\(2,\), \(3,\)\]"),
            (torch.ones(0, dtype=torch.bool), torch.ones(0, dtype=torch.bool), r"shapes \[\(0,\), \(0,\)\]"),
            (torch.ones(2, 2, dtype=torch.bool), torch.ones(2, 2, dtype=torch.bool), "one value for each"),
            (
                torch.ones(2),
                torch.ones(2, dtype=torch.bool),
                r"Expected bool tensors, got \['torch.float32'\]",
            ),
            (torch.ones(2, dtype=torch.bool), torch.ones(2, dtype=torch.int64), "torch.int64"),
        ],
    )
    def test_other_tensors_are_refused(self, early, full, message):
        with pytest.raises(ValueError, match=message):
            describe_rescue(early, full)


class TestMcNemar:
    @pytest.mark.parametrize(("rescued", "lost"), [(8, 1), (0, 5), (3, 4), (20, 9), (0, 0), (1, 0), (7, 7)])
    def test_equals_the_sum_of_the_binomial_tails(self, rescued, lost):
        total, fewer = rescued + lost, min(rescued, lost)
        tail = sum(math.comb(total, k) for k in range(fewer + 1)) / 2**total
        assert mcnemar_p_value(rescued, lost) == pytest.approx(min(1.0, 2 * tail), rel=1e-12)

    def test_known_value(self):
        # (1 + 9) outcomes of 512 are as lopsided to either side.
        assert mcnemar_p_value(8, 1) == pytest.approx(20 / 512, rel=1e-12)


class TestClasses:
    EARLY, FULL = outcomes(2, 4, 3, 1)
    LABELS = torch.tensor([0, 3, 0, 0, 1, 3, 1, 3, 3, 0])
    NAMES = ("ant", "bee", "cat", "dog")

    def test_by_hand(self):
        # Rescued are images 2 to 5, lost 6 to 8.
        rows = describe_rescue_by_class(self.EARLY, self.FULL, self.LABELS, self.NAMES)
        assert rows == [
            {"class": "ant", "num_images": 4, "rescued": 2, "lost": 0, "net": 2},
            {"class": "bee", "num_images": 2, "rescued": 1, "lost": 1, "net": 0},
            {"class": "dog", "num_images": 4, "rescued": 1, "lost": 2, "net": -1},
        ]

    def test_sum_up_to_the_whole(self):
        early, full = random_pair(300, seed=1)
        labels = torch.randint(20, (300,), generator=torch.Generator().manual_seed(2))
        rows = describe_rescue_by_class(early, full, labels, [str(number) for number in range(20)])
        described = describe_rescue(early, full)
        assert sum(row["rescued"] for row in rows) == described["rescue"]["count"]
        assert sum(row["lost"] for row in rows) == described["loss"]["count"]
        assert [row["rescued"] for row in rows] == sorted((row["rescued"] for row in rows), reverse=True)

    @pytest.mark.parametrize("labels", [LABELS[:9], LABELS + 1, LABELS - 1], ids=["few", "high", "low"])
    def test_labels_that_do_not_fit_are_refused(self, labels):
        with pytest.raises(ValueError, match="Expected 10 labels from 0 to 3"):
            describe_rescue_by_class(self.EARLY, self.FULL, labels, self.NAMES)


class TestMargins:
    def test_by_hand(self):
        early, full = outcomes(1, 3, 0, 1)
        probabilities = torch.tensor(
            [[0.7, 0.2, 0.1], [0.5, 0.4, 0.1], [0.1, 0.6, 0.3], [0.25, 0.5, 0.25], [0.2, 0.2, 0.6]]
        )
        found = describe_margins(early, full, probabilities, cosines=10 * probabilities.roll(1, dims=1))
        assert found["rescue"]["count"] == 3
        # 0.1, 0.3 and 0.25; float32 probabilities have 7 digits.
        assert found["rescue"]["probability"] == pytest.approx({"mean": 0.65 / 3, "median": 0.25}, abs=1e-6)
        assert found["rescue"]["cosine"] == pytest.approx({"mean": 6.5 / 3, "median": 2.5}, abs=1e-5)
        assert found["both_right"]["probability"] == pytest.approx({"mean": 0.5, "median": 0.5}, abs=1e-6)
        assert found["loss"] == {
            "count": 0,
            "probability": {"mean": None, "median": None},
            "cosine": {"mean": None, "median": None},
        }

    def test_without_cosines_there_are_none(self):
        found = describe_margins(*outcomes(1, 1, 1, 1), torch.eye(4))
        assert all(set(quadrant) == {"count", "probability"} for quadrant in found.values())

    @pytest.mark.parametrize("shape", [(3, 5), (4, 1), (4,)])
    def test_other_shapes_are_refused(self, shape):
        early, full = outcomes(1, 1, 1, 1)
        with pytest.raises(ValueError, match="Expected probability of 4 images x 2 classes or more"):
            describe_margins(early, full, torch.ones(shape))
        with pytest.raises(ValueError, match="Expected cosine of 4 images"):
            describe_margins(early, full, torch.eye(4), torch.ones(shape))


class TestSelectivity:
    def test_by_hand(self):
        early, full = outcomes(4, 2, 1, 3)
        has_left = torch.tensor([True] * 6 + [False] * 4)
        found = describe_selectivity(early, full, has_left)
        left, stayed = found["left_early"], found["whole_network"]
        assert (left["num_images"], left["share"], stayed["num_images"]) == (6, 0.6, 4)
        assert (left["early"]["accuracy"], left["full"]["accuracy"]) == (1.0, 0.666667)
        assert (stayed["early"]["accuracy"], stayed["full"]["accuracy"]) == (0.0, 0.25)
        assert left["early"]["accuracy_interval"][1] == 1.0

    def test_groups_weigh_up_to_the_whole(self):
        early, full = random_pair(200, seed=3)
        has_left = torch.rand(200, generator=torch.Generator().manual_seed(4)) < 0.3
        found, described = describe_selectivity(early, full, has_left), describe_rescue(early, full)
        for name in ("early", "full"):
            mean = sum(group["share"] * group[name]["accuracy"] for group in found.values())
            assert mean == pytest.approx(described[f"accuracy_{name}"], abs=ROUNDED)

    def test_nobody_left(self):
        early, full = outcomes(2, 0, 0, 1)
        found = describe_selectivity(early, full, torch.zeros(3, dtype=torch.bool))
        assert found["left_early"] == {"num_images": 0, "share": 0.0, "early": None, "full": None}
        json.dumps(found, allow_nan=False)


class TestControl:
    def test_equals_a_loop_over_resamples(self):
        quantized, control = random_pair(120, seed=5), random_pair(120, seed=6, rescue=0.05)
        found = compare_with_control(quantized, control, num_resamples=60, seed=7)
        draws = np.random.default_rng(7).integers(120, size=(60, 120))
        (early, full), (other_early, other_full) = (
            tuple(part.numpy() for part in pair) for pair in (quantized, control)
        )
        nets = [
            early[drawn].mean() - full[drawn].mean() - other_early[drawn].mean() + other_full[drawn].mean()
            for drawn in draws
        ]
        assert found["difference"]["net"]["interval"] == pytest.approx(
            np.quantile(nets, [0.025, 0.975]), abs=ROUNDED
        )
        rescued = [
            (early & ~full)[drawn].mean() - (other_early & ~other_full)[drawn].mean() for drawn in draws
        ]
        assert found["difference"]["rescue"]["interval"] == pytest.approx(
            np.quantile(rescued, [0.025, 0.975]), abs=ROUNDED
        )

    def test_difference_is_that_of_the_sides(self):
        quantized, control = random_pair(200, seed=8), random_pair(200, seed=9)
        found = compare_with_control(quantized, control, num_resamples=10)
        assert found["quantized"] == describe_rescue(*quantized)
        assert found["control"] == describe_rescue(*control)
        for name in ("rescue", "loss"):
            expected = found["quantized"][name]["share"] - found["control"][name]["share"]
            assert found["difference"][name]["value"] == pytest.approx(expected, abs=ROUNDED)
        nets = [found[side]["net"]["value"] for side in ("quantized", "control")]
        assert found["difference"]["net"]["value"] == pytest.approx(nets[0] - nets[1], abs=ROUNDED)

    def test_a_model_does_not_differ_from_itself(self):
        pair = random_pair(100, seed=10)
        found = compare_with_control(pair, pair, num_resamples=20)
        assert found["difference"] == {
            name: {"value": 0.0, "interval": [0.0, 0.0]} for name in ("rescue", "loss", "net")
        }

    def test_swapping_mirrors(self):
        pairs = random_pair(100, seed=11), random_pair(100, seed=12, rescue=0.3)
        there, back = (
            compare_with_control(*order, num_resamples=50, seed=1)["difference"]
            for order in (pairs, pairs[::-1])
        )
        for name in there:
            low, high = there[name]["interval"]
            assert back[name]["interval"] == pytest.approx([-high, -low], abs=ROUNDED)

    def test_interval_covers_the_truth_as_often_as_promised(self):
        """Of the net rescue of a model whose images are rescued and lost by chance, beside a control that is not."""
        hits = 0
        for seed in range(200):
            chance = torch.rand(300, generator=torch.Generator().manual_seed(seed))
            full = chance < 0.6
            early = (chance > 0.05) & (chance < 0.7)  # 10 % rescued, 5 % lost
            found = compare_with_control((early, full), (full, full), num_resamples=200, seed=seed)
            low, high = found["difference"]["net"]["interval"]
            hits += low <= 0.05 <= high
        # 3 sigma of 200 trials at 0.94 (a percentile interval of 300 images is slightly short) is 0.05.
        assert 0.89 <= hits / 200 <= 0.99

    def test_what_does_not_fit_is_refused(self):
        pair = random_pair(10, seed=13)
        with pytest.raises(ValueError, match=r"shapes \[\(10,\), \(10,\), \(9,\), \(9,\)\]"):
            compare_with_control(pair, random_pair(9, seed=13))
        with pytest.raises(ValueError, match="`num_resamples` must be at least 1, got 0"):
            compare_with_control(pair, pair, num_resamples=0)
