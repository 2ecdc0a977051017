"""Tests of `DriftMonitor`: what it compares, how often it is wrong, and what it keeps."""

import json
import logging
import math
from contextlib import suppress
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.stats import binom
from tests.faults.jsons import damaged
from tests.test_certification import outputs_of
from tests.tiny import images, routable

from quee_hf import (
    BudgetController,
    DriftMonitor,
    IncompatibleCheckpointError,
    NotReadyError,
    OutdatedError,
    QuEEForImageClassification,
    QuEEImageClassifierOutput,
    record_drift_reference,
)
from quee_hf.execution.drift_reference import QUANTITIES
from quee_hf.execution.path_outputs import PathOutputs, collect_path_outputs, replay
from quee_hf.measurements import check_drift_reference

LAMBDAS = (0.0, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0)


class Images(torch.utils.data.Dataset):
    """Images of noise, brighter or darker, without labels that mean anything."""

    def __init__(self, count: int, seed: int = 0, shift: float = 0.0) -> None:
        self.pixels = images(count, 32, seed) * (1 + shift)

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, index: int) -> dict:
        return {"pixel_values": self.pixels[index], "labels": 0}


@pytest.fixture(scope="module")
def trained():
    model = routable()
    model.fit_operating_points(Images(400, seed=1), lambdas=LAMBDAS)
    return model


@pytest.fixture(scope="module")
def pool(trained):
    """Outputs of further images like those."""
    return collect_path_outputs(trained, Images(400, seed=2))


def population(count: int, seed: int, shift: float = 0.0):
    """Return exits, errors and logits of images at each of three lambdas, as a population of which all are drawn."""
    random = np.random.default_rng(seed)
    hardness = random.random(count) ** (1 - shift)
    by_lambda = {}
    for row, cost_lambda in enumerate((0.0, 0.2, 1.0)):
        exits = np.minimum((hardness * (3 - row)).astype(int), 2)
        error = (hardness + 0.2 * row + random.random(count)) / 3
        margin = 8 - 6 * hardness - row * random.random(count)  # of the largest logit above the other
        by_lambda[cost_lambda] = exits, error.astype(np.float32), margin.astype(np.float32)
    return by_lambda


def confidence_of(margin):
    return 1 / (1 + np.exp(-margin.astype(np.float64)))


def reference_of(by_lambda):
    values = {"error": 1, "confidence": 2}
    edges = {}
    counts = {name: [] for name in QUANTITIES}
    for name, place in values.items():
        column = np.concatenate([each[place] for each in by_lambda.values()])
        column = column if name == "error" else confidence_of(column)
        edges[name] = np.quantile(column, np.arange(1, 20) / 20).tolist()
    for exits, error, margin in by_lambda.values():
        columns = {"error": error, "confidence": confidence_of(margin)}
        counts["exit"].append(" ".join(map(str, np.bincount(exits, minlength=3))))
        for name, column in columns.items():
            bins = np.searchsorted(edges[name], column, side="right")
            counts[name].append(" ".join(map(str, np.bincount(bins, minlength=20))))
    size = len(next(iter(by_lambda.values()))[0])
    return {
        "num_images": size,
        "cost_lambdas": list(by_lambda),
        "cost_model": "bitops",
        "edges": edges,
        "counts": counts,
        "differing": [0] * len(by_lambda),
    }


def output_of(by_lambda, lambdas):
    """Return the output of images, each at one of the lambdas of a population."""
    rows = np.arange(len(lambdas))
    columns = [np.stack([by_lambda[value][place] for value in by_lambda]) for place in range(3)]
    chosen = [column[np.searchsorted(list(by_lambda), lambdas), rows] for column in columns]
    logits = torch.tensor(np.stack([chosen[2], np.zeros(len(rows))], axis=1)).float()
    return QuEEImageClassifierOutput(
        logits=logits,
        exit_index=torch.tensor(chosen[0]),
        error_probability=torch.tensor(chosen[1]).float(),
        cost_lambda=torch.tensor(lambdas).float(),
    )


def monitor_of(reference, **options) -> DriftMonitor:
    config = SimpleNamespace(record={"drift_reference": reference}, cost_model="bitops")
    return DriftMonitor(SimpleNamespace(config=config, cost_table=[[1.0]]), **options)


class TestAlarms:
    @pytest.mark.parametrize("kind", ["one-lambda", "moving-lambda", "sorted-lambda"])
    def test_are_as_rarely_false_as_they_say(self, kind, caplog):
        """Each window has a reference and images of its own: 300 windows, at a rate of 0.05."""
        rate, num_windows, size, num_false = 0.05, 300, 200, 0
        for seed in range(num_windows):
            random = np.random.default_rng(seed)
            lambdas = {
                "one-lambda": np.full(size, 0.2),
                "moving-lambda": random.choice([0.0, 0.2, 1.0], size),
                "sorted-lambda": np.repeat([0.0, 0.2, 1.0, 0.2], size // 4),
            }[kind]
            reference = reference_of(population(600, 2 * seed))
            monitor = monitor_of(reference, window=size, false_alarm_rate=rate, seed=seed)
            monitor.observe(output_of(population(size, 2 * seed + 1), lambdas))
            num_false += monitor.report()["is_drifted"]
        # Rarer than one in a thousand if the rate holds.
        assert num_false <= binom.ppf(0.999, num_windows, rate)

    def test_a_lambda_that_moves_is_no_drift_but_would_be_at_another(self):
        """Expecting one lambda where there was another is what the reference's rows prevent."""
        reference = reference_of(population(2000, 0))
        right, wrong = (monitor_of(reference, window=500) for _ in range(2))
        output = output_of(population(500, 1), np.full(500, 1.0))
        right.observe(output)
        output.cost_lambda = torch.zeros(500)
        wrong.observe(output)
        assert right.report()["is_drifted"] is False
        assert wrong.report()["is_drifted"] is True

    @pytest.mark.parametrize("shift", [0.4, -0.6], ids=["harder", "easier"])
    def test_drift_is_seen(self, shift, caplog):
        monitor = monitor_of(reference_of(population(1500, 0)), window=500)
        lambdas = np.random.default_rng(0).choice([0.0, 0.2, 1.0], 500)
        with caplog.at_level(logging.WARNING):
            monitor.observe(output_of(population(500, 1, shift), lambdas))
        report = monitor.report()
        assert report["is_drifted"] is True
        assert set(report["remarkable"]) == set(QUANTITIES)
        assert (
            "The last 500 images differ from those of validation in: exit, error, confidence." in caplog.text
        )

    def test_the_count_of_false_alarms_is_of_windows(self):
        monitor = monitor_of(reference_of(population(1500, 0)), window=100)
        monitor.observe(output_of(population(450, 1), np.full(450, 0.2)))
        report = monitor.report()
        assert (report["num_images"], report["num_windows"], report["images_needed"]) == (450, 4, 50)


class TestWindows:
    def test_says_nothing_before_the_first_is_complete(self):
        monitor = monitor_of(reference_of(population(600, 0)), window=200)
        monitor.observe(output_of(population(199, 1), np.full(199, 0.2)))
        report = monitor.report()
        assert (report["is_drifted"], report["shifts"], report["images_needed"]) == (None, {}, 1)
        monitor.observe(output_of(population(1, 2), np.full(1, 0.2)))
        assert monitor.report()["is_drifted"] is not None

    def test_batches_may_be_of_any_size(self):
        """Windows are cut where they are full, not where batches end."""
        by_lambda, lambdas = population(600, 1), np.full(600, 0.2)
        whole = output_of(by_lambda, lambdas)
        reports = []
        for size in (1, 7, 250, 600):
            monitor = monitor_of(reference_of(population(600, 0)), window=200)
            for start in range(0, 600, size):
                part = {name: value[start : start + size] for name, value in whole.items()}
                monitor.observe(QuEEImageClassifierOutput(**part))
            reports.append(monitor.report())
        assert all(report == reports[0] for report in reports)

    def test_memory_does_not_grow(self):
        monitor = monitor_of(reference_of(population(600, 0)), window=100)
        output = output_of(population(100, 1), np.full(100, 0.2))

        def size():
            return sum(getattr(each, "nbytes", 0) for each in (monitor._weight, *monitor._found.values()))

        monitor.observe(output)
        before = size()
        for _ in range(5):
            monitor.observe(output)
        assert size() == before

    def test_images_on_a_forced_path_do_not_count(self):
        monitor = monitor_of(reference_of(population(600, 0)), window=100)
        output = output_of(population(100, 1), np.full(100, 0.2))
        output.cost_lambda = torch.full((100,), math.nan)
        monitor.observe(output)
        assert monitor.report()["num_images"] == 0

    @pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
    def test_images_without_an_answer_change_nothing_but_their_own_count(self, value, caplog):
        whole, broken = (monitor_of(reference_of(population(600, 0)), window=100) for _ in range(2))
        by_lambda, lambdas = population(260, 1), np.full(260, 0.2)
        whole.observe(output_of(by_lambda, lambdas))
        rows = np.insert(np.arange(260), [0, 50, 50, 199, 260], 3)  # five of them in between
        is_broken = np.ones(265, bool)
        is_broken[[*range(1, 51), *range(53, 202), *range(203, 264)]] = False
        output = output_of(by_lambda, lambdas)
        output = QuEEImageClassifierOutput(**{name: each[rows].clone() for name, each in output.items()})
        output.logits[is_broken, 0], output.error_probability[is_broken] = value, math.nan
        for start in range(0, 265, 53):
            part = {name: each[start : start + 53] for name, each in output.items()}
            broken.observe(QuEEImageClassifierOutput(**part))
        assert broken.report() == {**whole.report(), "num_unanswered": 5}
        said = [record.getMessage() for record in caplog.records if "no answer" in record.getMessage()]
        assert len(said) == 1
        assert whole.report()["num_unanswered"] == 0

    def test_a_stream_of_nothing_else_is_no_drift(self):
        monitor = monitor_of(reference_of(population(600, 0)), window=100)
        output = output_of(population(300, 1), np.full(300, 0.2))
        output.logits[:], output.error_probability[:] = math.nan, math.nan
        monitor.observe(output)
        report = monitor.report()
        assert (report["is_drifted"], report["num_images"], report["num_unanswered"]) == (None, 0, 300)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"window": 0}, "`window` must be a whole number from 1 on, got 0"),
        ({"window": math.nan}, "`window` must be a whole number from 1 on, got nan"),
        ({"window": 2.5}, "`window` must be a whole number from 1 on, got 2.5"),
        ({"false_alarm_rate": math.nan}, "`false_alarm_rate` must be above 0"),
        ({"shadow_share": math.nan}, "`shadow_share` must be from 0 to 1"),
        ({"false_alarm_rate": 0.0}, "`false_alarm_rate` must be above 0"),
        ({"shadow_share": 1.5}, "`shadow_share` must be from 0 to 1"),
    ],
)
def test_senseless_arguments_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        monitor_of(reference_of(population(100, 0)), **options)


class TestReference:
    def test_is_measured_with_operating_points_and_survives_a_file(self, trained, tmp_path):
        trained.save_pretrained(tmp_path)
        again = QuEEForImageClassification.from_pretrained(tmp_path)
        reference = again.config.record["drift_reference"]
        assert reference == trained.config.record["drift_reference"]
        assert reference["num_images"] == 400
        assert reference["cost_lambdas"][0] == 0
        assert 3 < len(reference["cost_lambdas"]) < 49
        DriftMonitor(again)

    def test_counts_what_routing_does(self, trained, pool):
        model = trained
        before = model.config.record
        reference = record_drift_reference(model, pool)
        pixels = Images(400, seed=2).pixels
        for row, value in enumerate(reference["cost_lambdas"]):
            with torch.inference_mode():
                output = model(pixels, cost_lambda=value)
                whole = model(pixels, path=[model.level_list[0]] * model.config.num_exits)
            exits = np.bincount(output.exit_index.numpy(), minlength=model.config.num_exits)
            assert reference["counts"]["exit"][row].split() == [str(count) for count in exits]
            differs = output.logits.argmax(dim=-1) != whole.logits.argmax(dim=-1)
            assert reference["differing"][row] == int(differs.sum())
        model.config.record = before

    def test_lambdas_between_rows_are_told_by_their_neighbours(self, trained, pool):
        before = trained.config.record
        reference = record_drift_reference(trained, pool)
        trained.config.record = before
        shares = np.array([row.split() for row in reference["counts"]["exit"]], float) / 400
        for value in np.geomspace(0.002, 3, 40):
            nodes = replay(trained, pool, float(value)).node.numpy()
            depths = np.array([len(path) for path in trained.paths])[nodes] - 1
            found = np.bincount(depths, minlength=shares.shape[1]) / 400
            line = [np.interp(value, reference["cost_lambdas"], column) for column in shares.T]
            assert np.abs(found - line).max() < 0.03

    def test_labels_do_not_matter(self, trained, pool):
        before = trained.config.record
        others = PathOutputs(pool.logits, pool.variance, torch.full_like(pool.labels, 3))
        assert record_drift_reference(trained, pool) == record_drift_reference(trained, others)
        trained.config.record = before

    def test_is_forgotten_with_what_it_was_measured_at(self):
        model = routable()
        record_drift_reference(model, outputs_of(model, 40))
        model.set_cost_model("flops")
        with pytest.raises(NotReadyError, match=r"no drift reference: run `model.fit_operating_points"):
            DriftMonitor(model)

    @pytest.mark.parametrize("count", [0, 1])
    @pytest.mark.parametrize("way", ["fit_operating_points", "record_drift_reference"])
    def test_too_few_images_are_refused_before_anything_runs(self, count, way):
        model = routable()
        model.fit_operating_points(outputs_of(model, 40), lambdas=LAMBDAS)
        before, record = model.config.to_dict(), partial(record_drift_reference, model)
        model.embed = None  # nothing can run
        with pytest.raises(
            ValueError, match=f"needs at least 2 images, and some hundred to mean much, got {count}"
        ):
            (record if way == "record_drift_reference" else model.fit_operating_points)(Images(count))
        assert model.config.to_dict() == before

    @pytest.mark.parametrize("count", [1, 2])
    def test_images_without_a_length_are_counted_when_they_are_read(self, count):
        class Unsized(torch.utils.data.IterableDataset):
            def __iter__(self):
                return iter([Images(3)[index] for index in range(count)])

        model = routable()
        if count == 2:
            assert record_drift_reference(model, Unsized())["num_images"] == 2
            return
        with pytest.raises(ValueError, match="got 1"):
            record_drift_reference(model, Unsized())

    def test_outputs_that_are_no_numbers_are_refused(self, trained, pool):
        logits = pool.logits.clone()
        logits[7, 2] = math.nan
        before = trained.config.to_dict()
        with pytest.raises(ValueError, match="The outputs of image 7, counted from 0, hold NaN or infinity"):
            trained.fit_operating_points(PathOutputs(logits, pool.variance, pool.labels))
        assert trained.config.to_dict() == before

    @pytest.mark.parametrize(
        ("name", "value", "message"),
        [
            ("edges", None, "must have 'edges' of 'error' and 'confidence'"),
            ("edges", {"error": [0.1]}, "must have 'edges' of 'error' and 'confidence'"),
            ("edges", {"error": [0.1, 0.1], "confidence": [0.5]}, "must have 'edges'.*ascending"),
            ("edges", {"error": [0.1, math.nan], "confidence": [0.5]}, "must have 'edges'.*ascending"),
            ("edges", {"error": [0.1, 1.5], "confidence": [0.5]}, "must have 'edges'.*from 0 to 1"),
            ("counts", {"exit": ["1 2"]}, "must have 'counts' of 'exit' in"),
            ("num_images", 0, "must have 'num_images' from 2 to .*, whole, got 0"),
            ("num_images", -3, "must have 'num_images'"),
            ("num_images", 400.0, "must have 'num_images'"),
            ("num_images", True, "must have 'num_images'"),
            ("num_images", 399, "must have 'counts' of 'exit' in .* whose sum is 399"),
            ("cost_lambdas", [], "must have 'cost_lambdas' finite"),
            ("cost_lambdas", [0.0, 0.2, 0.1], "must have 'cost_lambdas' finite, at least 0, ascending"),
            ("cost_lambdas", [0.0, math.inf], "must have 'cost_lambdas' finite"),
            ("cost_model", "flops", "must have 'cost_model' 'bitops', got 'flops'"),
            ("differing", [1], "must have 'differing' as"),
            ("differing", "first", "must have 'differing' as .* from 0 to 400"),
        ],
    )
    def test_each_field_is_checked(self, trained, name, value, message):
        reference = dict(trained.config.record["drift_reference"])
        reference[name] = [401, *reference[name][1:]] if value == "first" else value
        with pytest.raises(ValueError, match=r"`record\['drift_reference'\]` " + message):
            check_drift_reference(reference, trained.config.num_exits, "bitops")

    @settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
    @given(data=st.data())
    def test_a_damaged_one_is_refused_or_can_be_used(self, caplog, data):
        whole = reference_of(population(100, 0))
        reference, used = data.draw(damaged(whole)), []
        with suppress(ValueError):
            check_drift_reference(reference, 3, "bitops")
            used.append(reference)
        if not used:
            return
        monitor = monitor_of(reference, window=50)
        monitor.observe(output_of(population(50, 1), np.full(50, 0.2)))
        shifts = monitor.report()["shifts"].values()
        assert all(math.isfinite(value) for shift in shifts for value in shift)

    def test_one_of_no_images_does_not_load(self, trained, tmp_path):
        trained.save_pretrained(tmp_path)
        config = json.loads((tmp_path / "config.json").read_text())
        config["record"]["drift_reference"]["num_images"] = 0
        (tmp_path / "config.json").write_text(json.dumps(config))
        with pytest.raises(IncompatibleCheckpointError, match="must have 'num_images' from 2"):
            QuEEForImageClassification.from_pretrained(tmp_path)


class TestModel:
    @torch.inference_mode()
    def test_answers_as_the_model_does(self, trained):
        monitor = DriftMonitor(trained, window=50, shadow_share=0.5)
        pixels = Images(60, seed=5).pixels
        for cost_lambda in (0.1, torch.linspace(0, 1, 60)):
            found, wanted = monitor(pixels, cost_lambda=cost_lambda), trained(pixels, cost_lambda=cost_lambda)
            assert torch.equal(found.logits, wanted.logits)
        outputs = list(monitor.classify_stream(pixels.split(7), cost_lambda=0.1, batch_size=8))
        streamed = torch.cat([output.logits for output in outputs])
        assert torch.allclose(streamed, trained(pixels, cost_lambda=0.1).logits, atol=1e-5)
        report = monitor.report()
        assert (report["num_images"], report["num_windows"]) == (180, 3)
        assert report["agreement"]["num_images"] == 50  # the last, of about 90

    def test_no_false_alarm_on_further_images_while_a_budget_moves_lambda(self, trained):
        monitor = DriftMonitor(trained, window=200)
        costs = [point["cost"] for point in trained.config.operating_points]
        budgeted = BudgetController.for_model(trained, target_cost=(max(costs) + min(costs)) / 2)
        for _ in monitor.classify_stream(
            Images(400, seed=11).pixels.split(20), cost_lambda=budgeted, batch_size=8
        ):
            pass
        assert budgeted.report()["num_images"] == 400
        assert monitor.report()["num_drifted"] == 0

    def test_other_images_are_a_drift(self, trained):
        monitor = DriftMonitor(trained, window=200)
        with torch.inference_mode():
            monitor(Images(200, seed=7, shift=-0.9).pixels, cost_lambda=0.1)
        assert monitor.report()["is_drifted"] is True

    def test_shadows_agree_where_the_whole_network_runs(self, trained):
        monitor = DriftMonitor(trained, shadow_share=1.0)
        pixels = Images(40, seed=8).pixels
        with torch.inference_mode():
            output = monitor(pixels, cost_lambda=0.5)
            whole = trained(pixels, path=[8, 8, 8])
        agreement = monitor.report()["agreement"]
        same = output.logits.argmax(dim=-1) == whole.logits.argmax(dim=-1)
        assert agreement["num_images"] == 40
        assert agreement["share"] == pytest.approx(same.double().mean().item())
        low, high = agreement["interval"]
        assert low <= agreement["share"] <= high
        reference = trained.config.record["drift_reference"]
        expected = 1 - np.interp(0.5, reference["cost_lambdas"], reference["differing"]) / 400
        assert agreement["expected"] == pytest.approx(expected)

    def test_shadows_that_disagree_too_often_are_remarkable(self, trained):
        reference = {**trained.config.record["drift_reference"]}
        reference["differing"] = [0] * len(reference["cost_lambdas"])
        before, trained.config.record = trained.config.record, {"drift_reference": reference}
        monitor = DriftMonitor(trained, shadow_share=1.0, window=100)
        with torch.inference_mode():
            monitor(Images(100, seed=8).pixels, cost_lambda=1.0)
        trained.config.record = before
        assert monitor.report()["agreement"]["share"] < 0.9
        assert "agreement" in monitor.report()["remarkable"]

    def test_shadows_of_a_drift_do_not_condemn_what_comes_after(self, trained):
        reference = {**trained.config.record["drift_reference"]}
        reference["differing"] = [0] * len(reference["cost_lambdas"])
        before, trained.config.record = trained.config.record, {"drift_reference": reference}
        monitor, pixels = DriftMonitor(trained, shadow_share=0.5, window=100), Images(100, seed=8).pixels
        with torch.inference_mode():
            output = monitor(pixels, cost_lambda=1.0)
            assert "agreement" in monitor.report()["remarkable"]
            whole = trained(pixels, path=[8, 8, 8])
            agreeing = pixels[output.logits.argmax(dim=-1) == whole.logits.argmax(dim=-1)]
            monitor(agreeing.repeat(100, 1, 1, 1)[:100], cost_lambda=1.0)
        trained.config.record = before
        assert "agreement" not in monitor.report()["remarkable"]
        assert monitor.report()["agreement"]["share"] < 1  # of all that is remembered

    @pytest.mark.parametrize("engine", ["torch", "onnxruntime"])
    @pytest.mark.parametrize("is_stream", [False, True])
    def test_pixels_that_are_no_numbers_are_left_out(self, engine, is_stream, trained):
        pixels = Images(60, seed=5).pixels
        broken = pixels.repeat_interleave(2, dim=0)
        broken[::2, 0, 3, 4] = math.nan
        trained.set_engine(engine)
        reports = []
        for each in (pixels, broken):
            monitor = DriftMonitor(trained, window=50, shadow_share=1.0)
            with torch.inference_mode():
                list(monitor.classify_stream(each.split(7), cost_lambda=0.1)) if is_stream else [
                    monitor(part, cost_lambda=0.1) for part in each.split(7)
                ]
            reports.append(monitor.report())
        trained.set_engine("torch")
        for report in reports:  # but for p-values, whose draws follow those of shadows
            report["shifts"] = {name: shift[:2] for name, shift in report["shifts"].items()}
        assert reports[1] == {**reports[0], "num_unanswered": 60}

    @pytest.mark.parametrize(
        "change", ["set_cost_model", "fit_operating_points", "cost_table", "replace_trunk"]
    )
    @pytest.mark.parametrize("way", ["call", "classify_stream", "observe", "running"])
    def test_a_model_that_has_changed_is_refused(self, change, way):
        model = routable()
        if change == "cost_table":
            model.config.cost_table = [[4.0, 3.0, 2.0] for _ in range(3)]
            model.set_cost_model("latency")
        record_drift_reference(model, outputs_of(model, 40))
        monitor, pixels = DriftMonitor(model, window=10), images(40)
        output = monitor(pixels[:6], cost_lambda=0.1)
        running = monitor.classify_stream(pixels.split(4), cost_lambda=0.1, batch_size=2)
        next(running)
        before = monitor.report()
        {
            "set_cost_model": lambda: model.set_cost_model("flops"),
            "fit_operating_points": lambda: model.fit_operating_points(outputs_of(model, 50, 0.5, seed=1)),
            "cost_table": lambda: model.config.cost_table[0].reverse(),
            "replace_trunk": lambda: model.replace_trunk(model.trunk, model.level_list),
        }[change]()
        with pytest.raises(OutdatedError):
            {
                "call": lambda: monitor(pixels, cost_lambda=0.1),
                "classify_stream": lambda: monitor.classify_stream([pixels], cost_lambda=0.1),
                "observe": lambda: monitor.observe(output),
                "running": lambda: list(running),
            }[way]()
        assert monitor.report() == before

    def test_an_engine_and_the_same_reference_anew_change_nothing(self, trained):
        monitor = DriftMonitor(trained, window=10)
        trained.set_engine("onnxruntime")
        trained.config.record = json.loads(json.dumps(trained.config.record))
        monitor(images(20), cost_lambda=0.1)
        trained.set_engine("torch")
        assert monitor.report()["num_images"] == 20

    def test_malformed_batches_are_refused_at_once(self, trained):
        monitor = DriftMonitor(trained)
        with pytest.raises(TypeError, match="`batches` must hold batches"):
            monitor.classify_stream(torch.zeros(2, 3, 32, 32))
        with pytest.raises(ValueError, match="Give `cost_lambda` or `path`"):
            monitor.classify_stream([], cost_lambda=0.1, path=[8])
        with pytest.raises(ValueError, match="A batch must be a tensor"):
            list(monitor.classify_stream([[1, 2]], cost_lambda=0.1))

    def test_training_mode_is_refused(self, trained):
        monitor = DriftMonitor(trained)
        trained.train()
        with pytest.raises(ValueError, match="In training mode nothing is routed"):
            monitor(Images(2).pixels)
        trained.eval()
