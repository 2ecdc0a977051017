"""Tests of `quee_hf.profile`: what is kept and what is forgotten. The clock is not real."""

import pytest
import torch
from tests.profiles import FakeClock
from tests.tiny import VARIANTS, images, mixed_lambdas, routable, wrap

from quee_hf import NotReadyError, QuEEForImageClassification, profile
from quee_hf.machine import this_machine

SECONDS = {8: 4.0, 6: 1.0, 4: 1.02}  # of a segment on a batch, however large


@pytest.fixture
def clock():
    return FakeClock()


@pytest.fixture
def model(clock, monkeypatch):
    return slow(routable(), clock, monkeypatch)


def slow(model, clock, monkeypatch):
    """Let a model's parts take time."""
    run, read, embed = model.run_segment, model.read_exit, model.embed

    def run_segment(segment, level, hidden):
        clock.advance(SECONDS[level])
        return run(segment, level, hidden)

    def read_exit(exit_index, hidden):
        clock.advance(0.5)
        return read(exit_index, hidden)

    def embed_slowly(pixel_values):
        clock.advance(0.25)
        return embed(pixel_values)

    monkeypatch.setattr(model, "run_segment", run_segment)
    monkeypatch.setattr(model, "read_exit", read_exit)
    monkeypatch.setattr(model, "embed", embed_slowly)
    # Decisions take a second, by a clock that has no finer hand.
    decide = model.decide
    monkeypatch.setattr(model, "decide", lambda *a: (clock.advance(1.0), decide(*a))[1])
    return model


def measure(model, clock, **options):
    return profile(model, **{"batch_sizes": [2, 1], "clock": clock, **options})


class TestResult:
    def test_times_are_per_image(self, model, clock):
        found = measure(model, clock)
        assert (found["batch_sizes"], found["batch_size"]) == ([1, 2], 2)
        assert found["segments"][0] == [
            [[1e3 * SECONDS[level] / size] * 3 for size in (1, 2)] for level in (8, 6, 4)
        ]
        assert found["exits"] == [[[500.0] * 3, [250.0] * 3]] * 3
        assert found["decisions"] == [[[1000.0] * 3, [500.0] * 3]] * 2
        assert found["embedding"] == [[250.0] * 3, [125.0] * 3]

    def test_says_what_was_measured_where(self, model, clock):
        found = measure(model, clock, threads=1)
        assert (found["engine"], found["threads"]) == ("torch", 1)
        assert found["machine"] == this_machine(torch.device("cpu"))
        assert set(found["versions"]) == {"quee_hf", "torch"}
        assert min(found["num_rounds"]) >= 3

    def test_the_cost_table_holds_exits_and_decisions_and_merges_levels(self, model, clock):
        measure(model, clock, batch_size=1)
        fast = 1e3 * (SECONDS[6] + SECONDS[4]) / 2
        row = [4000.0 + 1500, fast + 1500, fast + 1500]
        assert model.config.cost_table == [row, row, [cost - 1000 for cost in row]]  # no decision at the end
        assert model.config.cost_model == "bitops"

    def test_survives_a_file(self, model, clock, tmp_path):
        found = measure(model, clock)
        model.set_cost_model("latency")
        model.save_pretrained(tmp_path)
        config = QuEEForImageClassification.from_pretrained(tmp_path).config
        assert (config.profile, config.cost_table) == (found, model.config.cost_table)

    def test_one_exit_and_untrained_gates_can_be_measured(self, clock):
        one = wrap(VARIANTS["vit"].build(), exit_blocks=[4], levels=["fp32", "bf16"])
        found = profile(one, batch_sizes=[1], max_seconds=0.001)
        assert found["decisions"] == []
        one.config.validate()

    def test_an_engine_is_measured_as_it_runs(self):
        model = routable(levels=[8, 6])
        model.set_engine("onnxruntime")
        found = profile(model, batch_sizes=[1], max_seconds=0.001, threads=1)
        assert found["engine"] == "onnxruntime"
        assert set(found["versions"]) == {"quee_hf", "torch", "onnxruntime"}


class TestSideEffects:
    def test_mode_and_threads_are_what_they_were(self, model, clock):
        model.train()
        before = torch.get_num_threads()
        assert measure(model, clock, threads=before + 1)["threads"] == before + 1
        assert torch.get_num_threads() == before
        assert model.training

    def test_the_rest_of_the_record_stays(self, model, clock):
        model.config.record = {"base_model": "org/vit"}
        found = measure(model, clock)
        assert model.config.record == {"base_model": "org/vit", "profile": found}

    def test_points_at_other_costs_stay_without_their_times(self, model, clock):
        point = {"cost_lambda": 0.1, "cost": 0.5, "accuracy": 0.9, "cost_model": "bitops"}
        model.config.operating_points, model.config.cost_lambda = [{**point, "latency_ms": 3.0}], 0.1
        measure(model, clock)
        assert (model.config.operating_points, model.config.cost_lambda) == ([point], 0.1)

    def test_points_by_earlier_times_are_forgotten(self, model, clock):
        measure(model, clock)
        model.set_cost_model("latency")
        model.config.operating_points, model.config.cost_lambda = [{}], 0.1
        measure(model, clock)
        config = model.config
        assert (config.operating_points, config.cost_lambda, config.cost_model) == (None, None, "latency")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_sizes": []}, r"`batch_sizes` must be a list of whole numbers of at least 1, got \[\]"),
        ({"batch_sizes": [0, 1]}, "`batch_sizes` must be a list of whole numbers of at least 1"),
        ({"batch_sizes": [1.5]}, "`batch_sizes` must be a list of whole numbers of at least 1"),
        ({"batch_sizes": 8}, "`batch_sizes` must be a list of whole numbers of at least 1, got 8"),
        ({"batch_size": 8}, r"`batch_size` must be one of `batch_sizes`, \[1, 2\], got 8"),
        ({"threads": 0}, "`threads` must be at least 1, got 0"),
        ({"max_seconds": 0.0}, "`max_seconds` must be above 0"),
    ],
)
def test_senseless_arguments_are_refused(model, clock, options, message):
    with pytest.raises(ValueError, match=message):
        measure(model, clock, **options)
    assert model.config.profile is None


def test_a_model_without_its_integer_levels_is_refused():
    model = wrap(VARIANTS["vit"].build(), levels=[8, 6])
    with pytest.raises(NotReadyError, match="needs quantized weights"):
        profile(model, batch_sizes=[1])
    assert model.config.profile is None


class TestRouting:
    def test_equally_fast_levels_are_not_chosen_between(self, model, clock):
        measure(model, clock)
        model.set_cost_model("latency")
        with torch.no_grad():
            output = model(images(16), cost_lambda=mixed_lambdas(16))
        taken = {model.level_list[level] for level in output.path.unique().tolist() if level >= 0}
        assert taken <= {8, 6}  # 4 bits take as long as 6
        assert output.path.unique(dim=0).shape[0] > 1

    def test_points_have_times(self, model, clock):
        measure(model, clock)
        model.set_cost_model("latency")
        items = [{"pixel_values": image, "labels": i % 5} for i, image in enumerate(images(16))]
        points = model.fit_operating_points(items, lambdas=[0.0, 0.2, 1.0])
        total = sum(map(max, model.config.cost_table))
        for point in points:
            assert point["cost_model"] == "latency"
            # Costs are float32, and times rounded to a millionth.
            assert point["latency_ms"] == pytest.approx(125.0 + point["cost"] * total, rel=1e-6)
        assert model.config.profile is not None
        model.config.validate()

    def test_elsewhere_routing_by_time_warns(self, model, clock):
        measure(model, clock)
        model.config.record["profile"]["machine"]["processor"] = "Antikythera"
        model(images(1), cost_lambda=0.1)  # by bits: nothing to say
        model.set_cost_model("latency")
        model(images(1), path=[8])
        with pytest.warns(UserWarning, match="on Antikythera, but the model runs with 'torch' on"):
            model(images(1), cost_lambda=0.1)
