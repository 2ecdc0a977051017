"""Tests of the reports: `report`, `static_paths`, `gate_quality` and `evaluation`, with random gates."""

import json

import pytest
import torch
from tests.tiny import NUM_LABELS, generator, images, predict_errors, routable

from quee_hf.blueprint import uniform_paths
from quee_hf.diagnostics.evaluation import evaluate_model, plot_evaluation
from quee_hf.diagnostics.gate_quality import describe_gates
from quee_hf.diagnostics.report import (
    describe_accuracy,
    describe_exits,
    describe_paths,
    describe_routing,
    describe_uniform,
    route_images,
)
from quee_hf.diagnostics.static_paths import AllOutputs, collect_all_outputs
from quee_hf.execution.path_outputs import PathOutputs

NUM_IMAGES = 24


class Data(torch.utils.data.Dataset):
    """Random images with random labels."""

    def __init__(self) -> None:
        self.pixels = images(NUM_IMAGES)
        self.labels = torch.randint(NUM_LABELS, (NUM_IMAGES,), generator=generator(5))

    def __len__(self):
        return NUM_IMAGES

    def __getitem__(self, index):
        return {"pixel_values": self.pixels[index], "labels": int(self.labels[index])}


@pytest.fixture(scope="module")
def model():
    return routable(levels=[8, 6])


@pytest.fixture(scope="module")
def data() -> Data:
    return Data()


@pytest.fixture(scope="module")
def outputs(model, data) -> AllOutputs:
    return collect_all_outputs(model, data, batch_size=10)


class TestAllOutputs:
    def test_uniform_paths_need_not_be_routable(self, model):
        assert uniform_paths(model.config) == [(0, 0, 0), (1, 1, 1)]
        assert (1, 1, 1) not in model.paths

    def test_every_column_is_its_path(self, model, data, outputs):
        for part, paths in ((outputs.routable, model.paths), (outputs.uniform, uniform_paths(model.config))):
            assert part.logits.shape == (NUM_IMAGES, len(paths), NUM_LABELS)
            assert torch.equal(part.labels, data.labels)
            for column, path in enumerate(paths):
                levels = [model.level_list[level] for level in path]
                with torch.inference_mode():
                    forced = model(data.pixels, path=levels).logits
                # The same float32 operations on other batch sizes.
                torch.testing.assert_close(part.logits[:, column], forced, atol=1e-4, rtol=1e-4)


class TestRouting:
    @pytest.mark.parametrize("cost_lambda", [0.0, 0.2, 1.0])
    def test_replay_equals_the_model(self, model, data, outputs, cost_lambda):
        (routed,) = route_images(model, outputs.routable, [cost_lambda])
        with torch.inference_mode():
            out = model(data.pixels, cost_lambda=cost_lambda)
        assert torch.equal(routed.exit_index, out.exit_index)
        assert torch.equal(routed.is_correct, out.logits.argmax(-1) == data.labels)
        torch.testing.assert_close(routed.cost, out.cost)
        torch.testing.assert_close(routed.error, out.error_probability, atol=1e-4, rtol=1e-4)

    def test_description_is_of_these_images(self, model, outputs):
        (routed,) = route_images(model, outputs.routable, [0.2])
        described = describe_routing(routed, 3)
        assert described["num_images"] == NUM_IMAGES
        assert sum(described["exit_shares"]) == pytest.approx(1, abs=3e-6)  # six decimals each
        assert described["actual_error"] == pytest.approx(1 - described["accuracy"], abs=1e-6)
        json.dumps(described, allow_nan=False)

    def test_exits_are_the_most_exact_of_all_paths(self, model, outputs):
        by_path = {tuple(row["path"]): row for row in describe_paths(model, outputs.routable)}
        exits = describe_exits(model, outputs.routable)
        assert [row["exit_block"] for row in exits] == [1, 2, 4]
        assert exits == [by_path[(8,)], by_path[(8, 8)], by_path[(8, 8, 8)]]
        assert describe_uniform(model, outputs.uniform)[1]["cost"] == 0.75  # 6 of 8 bits

    def test_accuracy_has_its_interval(self):
        described = describe_accuracy(torch.tensor([True] * 95 + [False] * 5))
        # The example of `wilson_interval`.
        assert described["accuracy"] == 0.95
        assert described["accuracy_interval"] == pytest.approx([0.8882, 0.9785], abs=1e-4)


class TestGates:
    @pytest.fixture(scope="class")
    @staticmethod
    def any_first():
        """Return a model that has a gate before the first segment, too."""
        return routable(levels=[8, 6], first_level="any")

    @pytest.mark.parametrize("has_targets", [True, False])
    def test_equal_a_loop_over_images_nodes_and_paths(self, any_first, data, monkeypatch, has_targets):
        model = any_first
        monkeypatch.setattr("quee_hf.diagnostics.gate_quality._IMAGES_PER_CHUNK", 7)
        outputs = collect_all_outputs(model, data).routable
        targets = torch.rand(outputs.is_wrong.shape, generator=generator(6)) if has_targets else None
        wanted = outputs.is_wrong.float() if targets is None else targets
        described = describe_gates(model, outputs, targets)
        assert [row["exit_block"] for row in described] == [0, 1, 2]
        for gate, row in enumerate(described):
            squares, constant = [], []
            for start in (path for path in ((), *model.paths) if len(path) == gate):
                reachable = [path for path in model.paths if len(path) >= gate and path[:gate] == start]
                predicted = self.predictions(model, outputs, start)
                for path in reachable:
                    column = model.paths.index(path)
                    squares.append((predicted[path] - wanted[:, column]) ** 2)
                    constant.append((wanted[:, column].mean() - wanted[:, column]) ** 2)
            # Six decimals, and float32 sums.
            assert row["rmse"] == pytest.approx(float(torch.stack(squares).mean().sqrt()), abs=1e-5)
            assert row["rmse_of_constant"] == pytest.approx(
                float(torch.stack(constant).mean().sqrt()), abs=1e-5
            )
            if gate:
                predicted = self.predictions(model, outputs, (0,) * gate)[(0,) * gate]
                is_wrong = outputs.is_wrong[:, model.paths.index((0,) * gate)]
                assert row["auroc"] == pytest.approx(self.auroc(predicted, is_wrong), abs=1e-5)

    @staticmethod
    def predictions(model, outputs, start):
        """Return what the gate at the end of a path predicts for each longer path."""
        gate = len(start)
        probabilities = outputs.probabilities
        unknown = torch.full((len(outputs), NUM_LABELS), 1 / NUM_LABELS)
        current = probabilities[:, model.paths.index(start)] if gate else unknown
        previous = probabilities[:, model.paths.index(start[:-1])] if gate > 1 else unknown
        with torch.inference_mode():
            errors = predict_errors(model, gate, current, previous)
        paths = [path for path in model.paths if len(path) >= gate]
        return dict(zip(paths, errors.T, strict=True))

    @staticmethod
    def auroc(predicted, is_wrong):
        wrong, right = predicted[is_wrong], predicted[~is_wrong]
        above = (wrong[:, None] > right).double() + (wrong[:, None] == right).double() / 2
        return float(above.mean())

    def test_all_right_has_no_auroc(self, model, outputs):
        column = model.paths.index((0,))
        labels = outputs.routable.logits[:, column].argmax(-1)
        described = describe_gates(model, PathOutputs(*outputs.routable.readings(), labels))
        assert described[0]["auroc"] is None
        assert described[1]["auroc"] is not None
        json.dumps(described, allow_nan=False)


class TestEvaluation:
    def test_default_points_are_the_models_own(self, model, outputs):
        model.config.operating_points = None
        assert len(evaluate_model(model, outputs)["points"]) == 26
        model.config.operating_points = [{"cost_lambda": 0.3}, {"cost_lambda": 0.7}]
        evaluation = evaluate_model(model, outputs)
        assert [row["cost_lambda"] for row in evaluation["points"]] == [0.3, 0.7]
        assert len(evaluation["routed_curve"]) == 26

    def test_areas_are_those_of_the_curves(self, model, outputs):
        from quee_hf.diagnostics.curves import area_under_curve

        evaluation = evaluate_model(model, outputs, [0.1])
        for name, curve in (("routed", "routed_curve"), ("thresholding", "thresholding_curve")):
            rows = evaluation[curve]
            area = area_under_curve([row["cost"] for row in rows], [row["accuracy"] for row in rows])
            assert evaluation["area_under_curve"][name] == pytest.approx(area, abs=1e-5)
        areas = evaluation["area_under_curve"]
        assert areas["difference"] == pytest.approx(areas["routed"] - areas["thresholding"], abs=3e-6)

    def test_picture(self, model, outputs, tmp_path):
        plot_evaluation(evaluate_model(model, outputs, [0.1]), tmp_path / "a.svg")
        text = (tmp_path / "a.svg").read_text()
        assert "<svg" in text
