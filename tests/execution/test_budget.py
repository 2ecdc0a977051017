"""Tests of `BudgetController`: the mean of synthetic streams, of toy and tiny models, and what it says of itself."""

import json
import logging
import math
import threading
from contextlib import suppress
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.faults.jsons import damaged
from tests.profiles import make_profile
from tests.tiny import images, routable

from quee_hf import BudgetController, NotReadyError, OutdatedError, QuEEConfig
from quee_hf.execution.operating_points import DEFAULT_LAMBDAS
from quee_hf.machine import this_machine
from quee_hf.routing.cost_curve import cost_curve
from quee_hf.routing.ledger import HORIZON, TOLERANCE

LEVELS = np.array([0.25, 0.4, 0.55, 0.75, 1.0])
BUDGET = 0.5
BATCH_SIZES = (1, 8, 32, 256)
MIXED, HARD, EASY = 1.0, 0.25, 4.0  # exponents: how hard a kind of images is


def cost_of(hardnesses, cost_lambda: float):
    """Return what images cost: a lambda sends harder ones less deep."""
    depth = 5 * np.asarray(hardnesses) / (1 + 8 * cost_lambda)
    return LEVELS[np.minimum(depth.astype(int), 4)]


def draw(kinds, seed: int = 0):
    random = np.random.default_rng(seed)
    return np.concatenate([hardness(random.random(count), exponent) for exponent, count in kinds])


def hardness(uniform, exponent):
    """Return how hard images are: all cost more than `BUDGET` at lambda 0, and less at 5."""
    return 0.42 + 0.58 * uniform**exponent


POPULATION = draw([(MIXED, 4000)], seed=99)
POINTS = [(value, float(cost_of(POPULATION, value).mean())) for value in DEFAULT_LAMBDAS]


def controller(budget: float = BUDGET, bounds=None, points=POINTS, **options) -> BudgetController:
    return BudgetController(cost_curve(points, bounds), budget, **options)


def run(budgeted: BudgetController, stream, batch_size: int = 1, lag: int = 0, cost=cost_of):
    """Return the cost of each image of a stream whose batches are settled when so many images came after them."""
    waiting, spent = [], []
    for start in range(0, len(stream), batch_size):
        batch = stream[start : start + batch_size]
        cost_lambda = budgeted.next_lambda(len(batch))
        waiting.append((cost_lambda, cost(batch, cost_lambda)))
        spent.append(waiting[-1][1])
        while waiting and sum(len(costs) for _, costs in waiting[1:]) >= lag:
            budgeted.settle(*waiting.pop(0))
    for late in waiting:
        budgeted.settle(*late)
    return np.concatenate(spent)


def deviations(spent, budget: float = BUDGET):
    """Return by how much the mean of the first n images misses the budget, for each n."""
    return np.abs(np.cumsum(spent) / np.arange(1, len(spent) + 1) / budget - 1)


class TestStreams:
    @pytest.mark.parametrize("batch_size", BATCH_SIZES)
    @pytest.mark.parametrize("budget", [0.35, 0.5])
    def test_without_drift(self, batch_size, budget):
        budgeted = controller(budget)
        spent = run(budgeted, draw([(MIXED, 6000)]), batch_size)
        assert deviations(spent, budget)[1000:].max() < TOLERANCE
        assert budgeted.report()["verdict"] == "held"

    @pytest.mark.parametrize("kinds", [(HARD, EASY), (EASY, HARD)], ids=["hard-first", "easy-first"])
    @pytest.mark.parametrize("batch_size", BATCH_SIZES)
    def test_abrupt_shifts(self, kinds, batch_size):
        stream = draw([(MIXED, 2000), (kinds[0], 2000), (kinds[1], 2000), (MIXED, 2000)])
        spent = run(controller(), stream, batch_size)
        deviation = deviations(spent)
        assert deviation[-1] < TOLERANCE / 2
        if batch_size <= 32:
            assert deviation[500:].max() < TOLERANCE
        # A batch is under way before anything is known of it: a shift may cost it a fifth of its images' budget.
        assert deviation[2000:].max() < TOLERANCE + batch_size * 0.5 / 2000

    @pytest.mark.parametrize("batch_size", BATCH_SIZES)
    def test_gradual_shift(self, batch_size):
        exponents = np.geomspace(EASY, HARD, 6000)
        stream = hardness(np.random.default_rng(0).random(6000), exponents)
        deviation = deviations(run(controller(), stream, batch_size))
        assert deviation[1000 if batch_size <= 32 else 3000 :].max() < TOLERANCE

    @pytest.mark.parametrize("batch_size", [1, 8, 32])
    def test_hardest_images_first(self, batch_size):
        stream = np.sort(draw([(MIXED, 6000)]))[::-1]
        deviation = deviations(run(controller(), stream, batch_size))
        assert deviation[1000:].max() < TOLERANCE

    def test_hardest_images_first_in_large_batches_hold_in_the_end(self):
        stream = np.sort(draw([(MIXED, 30_000)]))[::-1]
        assert deviations(run(controller(), stream, 256))[-1] < TOLERANCE

    @pytest.mark.parametrize("lag", [100, 544])
    def test_results_that_come_late(self, lag):
        stream = draw([(MIXED, 6000), (HARD, 20_000)])
        deviation = deviations(run(controller(), stream, 1, lag))
        assert deviation[1000:6000].max() < TOLERANCE
        assert deviation[-1] < TOLERANCE / 2

    def test_lambda_does_not_swing_although_results_come_late(self):
        budgeted, found = controller(), []
        original = budgeted.next_lambda
        budgeted.next_lambda = lambda count=1: found.append(original(count)) or found[-1]
        run(budgeted, draw([(MIXED, 12_000)]), 1, lag=544)
        late = np.array(found[4000:])
        assert late.std() < 0.25 * late.mean()

    @pytest.mark.parametrize("batch_size", [1, 32])
    def test_a_curve_that_knows_nothing_will_do(self, batch_size):
        guess = [(value, 1 - 0.75 * i / 25) for i, value in enumerate(DEFAULT_LAMBDAS)]
        stream = draw([(MIXED, 3000), (HARD, 3000)])
        deviation = deviations(run(controller(points=guess), stream, batch_size))
        assert deviation[1000:].max() < TOLERANCE

    @given(
        kinds=st.lists(st.sampled_from([0.0, 0.3, 0.6, 0.9, 1.0]), min_size=1, max_size=40),
        repeats=st.lists(st.integers(1, 400), min_size=1, max_size=40),
        batch_size=st.sampled_from([1, 5, 64]),
    )
    def test_what_is_owed_is_bounded_whatever_comes(self, kinds, repeats, batch_size):
        """At an end of its bounds, every image costs less, or more, than the budget: 0.25, or at least 0.4."""
        budget, costs = (
            0.3,
            lambda batch, value: np.where(value >= 5, 0.25, np.maximum(0.4, cost_of(batch, value))),
        )
        stream = np.repeat(kinds[: len(repeats)], repeats[: len(kinds)])
        budgeted = controller(budget)
        run(budgeted, stream, batch_size, cost=costs)
        # `dearer` is within 1, the curve within 0.75: beyond so much, lambda is at an end.
        assert abs(budgeted.report()["owed"]) <= 2 * max(HORIZON, 2 * batch_size) + 2 * batch_size


class TestBounds:
    def test_lambda_stays_within(self):
        budgeted = controller(bounds=(0.05, 0.12))
        found = [budgeted.next_lambda() for _ in range(3)]
        for batch in np.split(draw([(HARD, 3000), (EASY, 3000)]), 60):
            cost_lambda = budgeted.next_lambda(len(batch))
            found.append(cost_lambda)
            budgeted.settle(cost_lambda, cost_of(batch, cost_lambda))
        assert min(found) == pytest.approx(0.05)
        assert max(found) == pytest.approx(0.12)

    @pytest.mark.parametrize(
        ("kind", "bounds", "verdict"), [(HARD, (0.0, 0.02), "too dear"), (EASY, (0.5, 5.0), "too cheap")]
    )
    def test_what_cannot_be_held_is_said(self, caplog, kind, bounds, verdict):
        budgeted = controller(bounds=bounds)
        with caplog.at_level(logging.WARNING):
            run(budgeted, draw([(kind, 2000)]), 8)
        report = budgeted.report()
        assert report["verdict"] == verdict
        end = bounds[1] if verdict == "too dear" else bounds[0]
        assert report["cost_lambda"] == pytest.approx(end)
        (record,) = caplog.records
        assert "The budget of 0.5 (cost) cannot be held: at" in record.getMessage()
        assert ("highest" if verdict == "too dear" else "lowest") in record.getMessage()

    def test_what_bounds_hinder_is_made_up_for_later(self):
        budgeted = controller(bounds=(0.0, 0.08))
        stream = draw([(HARD, 1000), (EASY, 4000)])
        deviation = deviations(run(budgeted, stream, 8))
        assert deviation[1000] > 5 * TOLERANCE
        assert deviation[-1] < TOLERANCE
        assert budgeted.report()["verdict"] == "held"

    def test_but_no_more_than_the_window_says(self):
        budgeted = controller(bounds=(0.0, 0.08), window=2000)
        spent = run(budgeted, draw([(HARD, 3000), (EASY, 6000)]), 8)
        report = budgeted.report()
        assert report["written_off"] > 100
        assert report["owed"] + report["written_off"] == pytest.approx((spent - BUDGET).sum())
        late = spent[-2000:]
        assert abs(late.mean() / BUDGET - 1) < TOLERANCE

    def test_catching_up_is_not_held(self):
        budgeted = controller(bounds=(0.0, 0.08))
        run(budgeted, draw([(HARD, 2000), (EASY, 300)]), 8)
        assert budgeted.report()["verdict"] == "catching up"


class TestAccounts:
    def test_images_on_their_way_count_as_expected(self):
        budgeted = controller()
        first = [budgeted.next_lambda() for _ in range(200)]
        assert np.ptp(first) < 1e-6  # as the curve has it, nothing is owed
        budgeted.settle(first[:100], np.full(100, 1.0))
        assert budgeted.next_lambda() > first[0]

    def test_images_that_do_not_run_are_released(self):
        budgeted, other = controller(), controller()
        budgeted.release(budgeted.next_lambda(50), 50)
        assert budgeted.next_lambda() == other.next_lambda()

    def test_nothing_is_settled_by_nothing(self):
        budgeted = controller()
        budgeted.settle(budgeted.next_lambda(0), [])
        assert budgeted.report()["mean"] is None
        assert budgeted.report()["verdict"] == "settling"

    def test_costs_that_are_no_numbers_are_refused(self):
        budgeted = controller()
        before = budgeted.to_dict()
        for wrong in (float("nan"), -0.1, 1e9):
            with pytest.raises(ValueError, match="Costs must be from 0 to 1"):
                budgeted.settle(0.1, [0.5, wrong])
        for wrong in (float("nan"), -0.1, [0.1, float("inf")]):
            with pytest.raises(ValueError, match="Lambdas must be finite, and at least 0"):
                budgeted.settle(wrong, [0.5, 0.5])
        for wrong in (-1, 1.5, "3", True):
            with pytest.raises(ValueError, match="`count` must be a whole number"):
                budgeted.next_lambda(wrong)
        assert budgeted.to_dict() == before

    @pytest.mark.parametrize(
        "options", [{"budget": 0.0}, {"budget": float("nan")}, {"window": 0}, {"window": float("nan")}]
    )
    def test_senseless_arguments_are_refused(self, options):
        with pytest.raises(ValueError, match=f"`{next(iter(options))}` must be"):
            controller(**options)

    def test_threads_lose_nothing(self):
        budgeted = controller()

        def serve(seed):
            for batch in np.split(draw([(MIXED, 400)], seed), 100):
                cost_lambda = budgeted.next_lambda(len(batch))
                budgeted.settle(cost_lambda, cost_of(batch, cost_lambda))

        threads = [threading.Thread(target=serve, args=(seed,)) for seed in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        report = budgeted.report()
        assert report["num_images"] == 1600
        assert abs(report["deviation"]) < TOLERANCE


class TestState:
    def test_goes_on_as_if_it_had_not_been_restarted(self):
        stream = draw([(MIXED, 1000), (HARD, 1000)])
        budgeted = controller()
        run(budgeted, stream[:1500], 8)
        again = BudgetController.from_dict(json.loads(json.dumps(budgeted.to_dict())))
        assert again.report() == budgeted.report()
        assert (run(again, stream[1500:], 8) == run(budgeted, stream[1500:], 8)).all()

    def test_images_on_their_way_are_forgotten(self):
        budgeted = controller()
        budgeted.next_lambda(500)
        assert BudgetController.from_dict(budgeted.to_dict()).to_dict() == controller().to_dict()

    @pytest.mark.parametrize(
        "content", [{}, [], None, "held", {"lambdas": [0, 1], "costs": [1, 0], "unit": {"weight": 1}}]
    )
    def test_other_content_is_refused(self, content):
        with pytest.raises(ValueError, match="`BudgetController.to_dict` has not written this: it must have"):
            BudgetController.from_dict(content)

    @pytest.mark.parametrize(
        ("place", "value", "message"),
        [
            ("lambdas", [], "`lambdas` must be two or more"),
            ("lambdas", [0.0, 0.0], "`lambdas` must be two or more finite numbers from 0 on, ascending"),
            ("costs", [0.5, 0.4], r"`costs` must be \d+ finite numbers, descending, got \[0.5, 0.4\]"),
            ("unit.name", "", "`unit.name` must be a word"),
            ("unit.scale", 0, "`unit.scale` must be finite and above 0, got 0"),
            ("unit.offset", math.inf, "`unit.offset` must be finite and at least 0, got inf"),
            ("unit.cost_model", "euros", "`unit.cost_model` must be one of .*, got 'euros'"),
            ("unit.cost_table", "ab", "`unit.cost_table` must be a SHA-256, got 'ab'"),
            ("ledger.budget", 0, "`ledger.budget` must be finite and above 0, got 0"),
            ("ledger.window", 1.5, "`ledger.window` must be whole, from 1 to .*, got 1.5"),
            ("ledger.num_images", -5, "`ledger.num_images` must be whole, from 0 to .*, got -5"),
            ("ledger.total", math.nan, "`ledger.total` must be finite, .* got nan"),
            ("ledger.total", -1.0, "`ledger.total` must be finite, at least 0, .* got -1.0"),
            ("ledger.owed", 1e9, "`ledger.owed` must be from -500 to 500, got 1000000000.0"),
            ("ledger.dearer", None, "`ledger.dearer` must be finite, .* got None"),
            (
                "ledger.written_off",
                3.0,
                "`ledger.written_off` must be .*, what the other sums leave, got 3.0",
            ),
            ("num_stuck", 10**6, "`num_stuck` must be whole, from -400 to 400, got 1000000"),
            ("verdict", "lol", r"`verdict` must be one of \['settling'.*\], got 'lol'"),
        ],
    )
    def test_each_field_is_checked(self, place, value, message):
        budgeted = controller()
        run(budgeted, draw([(MIXED, 400)]), 8)
        content = json.loads(json.dumps(budgeted.to_dict()))
        *path, name = place.split(".")
        (content[path[0]] if path else content)[name] = value
        with pytest.raises(ValueError, match="`BudgetController.to_dict` has not written this: " + message):
            BudgetController.from_dict(content)

    @settings(max_examples=400, deadline=None)
    @given(data=st.data(), count=st.sampled_from([0, 8, 400]))
    def test_what_is_damaged_is_refused_or_works(self, data, count):
        budgeted = controller()
        if count:
            run(budgeted, draw([(MIXED, count)]), 8)
        content = data.draw(damaged(json.loads(json.dumps(budgeted.to_dict()))))
        again = None
        with suppress(ValueError):
            again = BudgetController.from_dict(content)
        if again is None:
            return
        run(again, draw([(HARD, 40)]), 8)
        report = again.report()
        assert report["num_images"] == content["ledger"]["num_images"] + 40
        assert all(math.isfinite(value) for value in report.values() if isinstance(value, float))
        assert BudgetController.from_dict(json.loads(json.dumps(again.to_dict()))).report() == report

    @given(
        batches=st.lists(st.lists(st.floats(0, 1), max_size=40), max_size=20),
        budget=st.floats(0.01, 2),
        window=st.integers(1, 10**6),
    )
    def test_whatever_is_written_is_read(self, batches, budget, window):
        budgeted = controller(budget, window=window)
        for costs in batches:
            budgeted.settle(budgeted.next_lambda(len(costs)), costs)
        again = BudgetController.from_dict(json.loads(json.dumps(budgeted.to_dict())))
        assert again.report() == budgeted.report()


def priced(**fields):
    """Return what a controller looks at of a model."""
    config = QuEEConfig(levels=[8, 6], **fields)
    table = config.cost_table or [[8.0, 6.0]] * 3
    return SimpleNamespace(
        config=config, cost_table=table, router=SimpleNamespace(costs=torch.tensor([0.3, 0.6, 1.0]))
    )


class TestForModel:
    def test_starts_from_operating_points(self):
        points = [
            {"cost_lambda": value, "cost": cost, "accuracy": 0.9}
            for value, cost in ((0.0, 0.9), (0.2, 0.5), (1.0, 0.3))
        ]
        budgeted = BudgetController.for_model(priced(operating_points=points), target_cost=0.7)
        assert budgeted.next_lambda() == pytest.approx(0.1, abs=0.01)

    def test_or_from_a_guess(self):
        budgeted = BudgetController.for_model(priced(), target_cost=0.6)
        assert 0 < budgeted.next_lambda() < DEFAULT_LAMBDAS[-1]

    def test_what_validation_images_do_not_cost_is_said_at_once(self, caplog):
        points = [
            {"cost_lambda": value, "cost": cost, "accuracy": 0.9} for value, cost in ((0.0, 0.7), (1.0, 0.4))
        ]
        BudgetController.for_model(priced(operating_points=points), target_cost=0.8)
        assert "validation images cost 0.4 to 0.7 at the lambdas allowed" in caplog.text

    @pytest.mark.parametrize("target", [float("nan"), "0.5", True])
    def test_what_is_no_number_is_refused(self, target):
        with pytest.raises(ValueError, match="`target_cost` must be a number, got"):
            BudgetController.for_model(priced(), target_cost=target)

    @pytest.mark.parametrize("target", [0.29, 1.01, 0.0, -1.0])
    def test_what_no_path_costs_is_refused(self, target):
        with pytest.raises(
            ValueError, match=r"`target_cost` must be from 0.3, the cheapest path, to 1, the dearest"
        ):
            BudgetController.for_model(priced(), target_cost=target)

    @pytest.mark.parametrize("target", [0.3, 1.0])
    def test_what_some_path_costs_is_not(self, target):
        assert BudgetController.for_model(priced(), target_cost=target).report()["budget"] == target

    @pytest.mark.parametrize("targets", [{}, {"target_cost": 0.5, "target_latency_ms": 2.0}])
    def test_one_target_is_needed(self, targets):
        with pytest.raises(ValueError, match="Give either"):
            BudgetController.for_model(priced(), **targets)

    def test_milliseconds_include_the_embedding(self):
        table = [[4.0, 2.0], [4.0, 2.0], [4.0, 2.0]]
        timed = priced(cost_model="latency", cost_table=table, record={"profile": make_profile(3, 2)})
        budgeted = BudgetController.for_model(timed, target_latency_ms=7.0)
        # The embedding takes 1 ms, the dearest path 12 more: 7 ms are a relative cost of one half.
        budgeted.settle(budgeted.next_lambda(4), [0.5] * 4)
        report = budgeted.report()
        assert (report["unit"], report["mean"], report["owed"]) == ("ms", 7.0, 0.0)
        with pytest.raises(
            ValueError, match=r"`target_latency_ms` must be from 4.6, the cheapest path, to 13"
        ):
            BudgetController.for_model(timed, target_latency_ms=4.0)

    def test_milliseconds_need_times(self):
        with pytest.raises(NotReadyError, match="run `quee profile"):
            BudgetController.for_model(priced(), target_latency_ms=7.0)


@pytest.fixture(scope="module")
def trained():
    return routable()


class TestModel:
    @pytest.fixture
    def model(self, trained):
        return trained

    @pytest.fixture
    def budget(self, model):
        return 0.5 * (float(model.router.costs.min()) + 1.0)

    @pytest.fixture
    def budgeted(self, model, budget):
        return BudgetController.for_model(model, target_cost=budget, lambda_bounds=(0.0, 5.0))

    @torch.inference_mode()
    def test_forward_takes_its_lambda_and_enters_costs(self, model, budgeted, budget):
        spent = []
        for batch in images(96).split(8):
            output = model(batch, cost_lambda=budgeted)
            assert output.cost_lambda.unique().numel() == 1
            spent.append(output.cost)
            again = model(batch, cost_lambda=output.cost_lambda)
            assert torch.equal(again.path, output.path)
        report = budgeted.report()
        assert report["num_images"] == 96
        assert report["mean"] == pytest.approx(torch.cat(spent).double().mean().item())

    def test_stream_enters_every_image_once(self, model, budgeted):
        outputs = list(model.classify_stream(images(50).split(7), cost_lambda=budgeted, batch_size=4))
        report = budgeted.report()
        assert (report["num_images"], len(outputs)) == (50, 50)
        assert report["mean"] == pytest.approx(np.mean([float(output.cost) for output in outputs]))
        for pixels, output in zip(images(50).split(1), outputs, strict=True):
            with torch.inference_mode():
                alone = model(pixels, cost_lambda=output.cost_lambda)
            assert torch.equal(alone.path, output.path)

    def test_a_stream_that_is_left_or_fails_leaves_nothing_on_its_way(self, model, budgeted):
        def broken():
            yield images(9)
            raise OSError("gone")

        stream = model.classify_stream(images(50).split(7), cost_lambda=budgeted, batch_size=4)
        next(stream)
        stream.close()
        with pytest.raises(OSError, match="gone"):
            list(model.classify_stream(broken(), cost_lambda=budgeted, batch_size=4))
        again = BudgetController.from_dict(budgeted.to_dict())
        assert again.report() == budgeted.report()

    def test_a_forward_that_fails_leaves_nothing_on_its_way(self, model, budgeted):
        before = budgeted.report()
        with pytest.raises(ValueError, match="channel dimension"):
            model(torch.zeros(2, 7, 32, 32), cost_lambda=budgeted)
        assert budgeted.report() == before

    def test_costs_of_another_kind_are_refused(self, model, budgeted):
        other = routable()
        other.set_cost_model("flops")
        with pytest.raises(
            OutdatedError, match="made for costs in 'bitops', but the model's `cost_model` is 'flops'"
        ):
            other(images(2), cost_lambda=budgeted)

    @pytest.mark.parametrize("target", ["target_cost", "target_latency_ms"])
    def test_times_that_were_measured_anew_are_refused(self, target):
        model = timed()
        budgeted = BudgetController.for_model(model, **{target: 0.9 if target == "target_cost" else 12.0})
        again = BudgetController.from_dict(json.loads(json.dumps(budgeted.to_dict())))
        for each in (budgeted, again):
            model(images(2), cost_lambda=each)
        model.config.cost_table[0][0] += 1  # in place
        before = budgeted.report()
        for each in (budgeted, again):
            with pytest.raises(OutdatedError, match="costs in 'latency' are others than when the controller"):
                model(images(2), cost_lambda=each)
        assert budgeted.report() == before

    def test_an_embedding_that_was_measured_anew_is_refused_only_by_a_budget_in_milliseconds(self):
        model = timed()
        relative = BudgetController.for_model(model, target_cost=0.9)
        absolute = BudgetController.for_model(model, target_latency_ms=12.0)
        profile = json.loads(json.dumps(model.config.profile))
        profile["embedding"] = [[3.0, 3.0, 3.0]] * len(profile["batch_sizes"])
        model.config.keep_record("profile", profile)
        model(images(2), cost_lambda=relative)
        with pytest.raises(OutdatedError):
            model(images(2), cost_lambda=absolute)

    def test_times_that_are_not_used_may_change(self, budgeted, model):
        before = model.config.cost_table
        stream = model.classify_stream(images(40).split(5), cost_lambda=budgeted, batch_size=4)
        next(stream)
        model.config.cost_table = [[4.0, 2.0, 1.0]] * 3
        assert len(list(stream)) == 39
        model(images(2), cost_lambda=budgeted)
        model.config.cost_table = before

    @pytest.mark.parametrize("how", ["controller", 0.1, "path"])
    @pytest.mark.parametrize("started", [False, True])
    @pytest.mark.parametrize("change", ["set_cost_model", "replace_trunk", "cost_table"])
    def test_a_stream_ends_where_costs_change(self, how, started, change):
        model = timed() if change == "cost_table" else routable()
        budgeted = BudgetController.for_model(model, target_cost=0.9)
        route = (
            {"path": [8, 8]} if how == "path" else {"cost_lambda": budgeted if how == "controller" else how}
        )
        stream = model.classify_stream(images(200).split(5), **route, batch_size=4)
        if started:
            next(stream)
        if change == "set_cost_model":
            model.set_cost_model("flops")
        elif change == "cost_table":
            model.config.cost_table[1][0] += 1
        else:
            model.replace_trunk(model.trunk, model.level_list)
        with pytest.raises(OutdatedError, match="have changed since the stream began: begin another"):
            list(stream)
        assert budgeted.to_dict() == BudgetController.from_dict(budgeted.to_dict()).to_dict()
        assert budgeted._ledger.num_pending == 0

    @pytest.mark.parametrize("engine", ["torch", "onnxruntime"])
    def test_a_stream_goes_on_with_the_engine_it_began_with(self, engine, budgeted, model):
        wanted = [output.path for output in model.classify_stream(images(40).split(5), cost_lambda=0.1)]
        stream = model.classify_stream(images(40).split(5), cost_lambda=0.1, batch_size=4)
        found = [next(stream).path]
        model.set_engine(engine)
        found += [output.path for output in stream]
        model.set_engine("torch")
        assert torch.equal(torch.cat(found), torch.cat(wanted))


def timed():
    """Return a model that routes by times."""
    model = routable()
    model.config.cost_table = [[4.0, 3.0, 2.0] for _ in range(3)]
    model.config.keep_record("profile", make_profile(3, 3, machine=this_machine(model.device)))
    model.set_cost_model("latency")
    return model
