"""Tests of `HostRouter`: it decides what the model decides, from the same graphs that its engine runs."""

import math
import os
import shutil
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from tests.deployment.deployed import assert_same_routes, export
from tests.tiny import VARIANTS, images, mixed_lambdas, routable

from quee_hf.configuration import GATE_FEATURES, GATE_TYPES
from quee_hf.deployment.host import HostRouter, describe_images

POINTS = [
    {"cost_lambda": 0.0, "cost": 0.9, "accuracy": 0.9, "latency_ms": 9.0},
    {"cost_lambda": 0.1, "cost": 0.5, "accuracy": 0.8, "latency_ms": 5.0},
    {"cost_lambda": math.inf, "cost": 0.2, "accuracy": 0.5, "latency_ms": 2.0},
]


@torch.inference_mode()
def run(model, pixel_values, **route):
    return model(pixel_values, **route)


def both(model, folder, count=16, *, engine="onnxruntime", **route):
    """Return what the host finds and what the model gives, with an engine of the same kernels."""
    pixel_values = images(count, model.config.image_size, seed=3)
    model.set_engine(engine)
    host = {
        name: value.numpy() if isinstance(value, torch.Tensor) else value for name, value in route.items()
    }
    return HostRouter(folder)(pixel_values.numpy(), **host), run(model, pixel_values, **route)


@pytest.fixture(scope="module")
def model():
    made = routable(levels=["fp32", 8, 6])
    made.config.operating_points = [{**point, "cost_model": "bitops"} for point in POINTS]
    made.config.cost_lambda = 0.06
    return made.eval()


@pytest.fixture(scope="module")
def folder(model, tmp_path_factory):
    return export(model, tmp_path_factory.mktemp("exported") / "model")


class TestDecisions:
    @pytest.mark.parametrize("gate_features", GATE_FEATURES)
    @pytest.mark.parametrize("gate_type", GATE_TYPES)
    def test_equal_the_models_own_in_full_precision(self, gate_type, gate_features, tmp_path):
        model = routable(levels=["fp32"], gate_type=gate_type, gate_features=gate_features)
        folder = export(model, tmp_path / "model")
        found, expected = both(model, folder, engine="torch", cost_lambda=mixed_lambdas(16))
        assert len(set(map(tuple, found.path.tolist()))) >= 2
        assert_same_routes(found, expected)

    @pytest.mark.parametrize("fields", [{}, {"first_level": "any"}, {"gate_type": "lra"}], ids=str)
    @pytest.mark.parametrize("variant", ["vit", "clip", "dinov2-swiglu"])
    def test_equal_those_of_the_engine_at_integer_levels(self, variant, fields, tmp_path):
        model = routable(VARIANTS[variant], levels=["fp32", 8, 4], **fields)
        folder = export(model, tmp_path / "model")
        found, expected = both(model, folder, 32, cost_lambda=mixed_lambdas(32))
        assert len(set(map(tuple, found.path.tolist()))) >= 2
        assert_same_routes(found, expected)

    def test_what_is_computed_as_fp32_has_no_file_of_its_own(self, tmp_path):
        model = routable(levels=["fp32", "bf16"])
        folder = export(model, tmp_path / "model")
        assert not list(folder.glob("*bf16*"))
        found, expected = both(model, folder, cost_lambda=mixed_lambdas(16))
        assert_same_routes(found, expected)

    def test_by_time_dominated_paths_are_left_out(self, model, tmp_path):
        model = routable(levels=["fp32", 8, 6])
        model.config.cost_table = [[3.0, 3.0, 1.0]] * 3
        model.set_cost_model("latency")
        folder = export(model, tmp_path / "model")
        assert HostRouter(folder).description.path_choices != [True] * len(model.paths)
        found, expected = both(model, folder, 32, cost_lambda=mixed_lambdas(32))
        assert_same_routes(found, expected)

    def test_do_not_depend_on_neighbours(self, model, folder):
        host, pixel_values = HostRouter(folder), images(12, seed=3).numpy()
        lambdas = mixed_lambdas(12).numpy()
        together = host(pixel_values, cost_lambda=lambdas)
        for row in range(12):
            alone = host(pixel_values[row : row + 1], cost_lambda=float(lambdas[row]))
            assert alone.path[0].tolist() == together.path[row].tolist()
            np.testing.assert_allclose(alone.logits[0], together.logits[row], rtol=1e-4, atol=1e-4)

    def test_of_several_threads_are_not_mixed(self, folder):
        host, pixel_values = HostRouter(folder), images(32, seed=3).numpy()
        expected = HostRouter(folder)(pixel_values)
        with ThreadPoolExecutor(8) as pool:
            parts = list(pool.map(lambda row: host(pixel_values[row : row + 4]), range(0, 32, 4)))
        assert np.concatenate([part.path for part in parts]).tolist() == expected.path.tolist()
        found = np.concatenate([part.logits for part in parts])
        np.testing.assert_allclose(found, expected.logits, rtol=1e-4, atol=1e-4)


class TestOptions:
    @pytest.mark.parametrize("path", [["fp32"] * 3, ["fp32"], [8, 6], [6, "fp32", 8]], ids=str)
    def test_a_path_for_all(self, model, folder, path):
        found, expected = both(model, folder, 4, path=path)
        assert_same_routes(found, expected)

    def test_without_any_the_models_own_lambda_holds(self, model, folder):
        found, expected = both(model, folder)
        assert_same_routes(found, expected)
        assert_same_routes(found, run(model, images(16, seed=3), cost_lambda=0.06))

    def test_without_a_default_the_whole_network_runs(self, tmp_path):
        model = routable(levels=["fp32", 8])
        found, expected = both(model, export(model, tmp_path / "model"), 4)
        assert_same_routes(found, expected)
        assert found.path.tolist() == [[0, 0, 0]] * 4

    def test_targets_take_the_lambda_of_an_operating_point(self, folder):
        host, pixel_values = HostRouter(folder), images(8, seed=3).numpy()
        expected = host(pixel_values, cost_lambda=0.1)
        for option in ({"target_cost": 0.6}, {"target_latency_ms": 6.0}):
            found = host(pixel_values, **option)
            assert found.path.tolist() == expected.path.tolist()
        cheapest = host(pixel_values, target_cost=0.2)
        assert cheapest.path.tolist() == host(pixel_values, cost_lambda=math.inf).path.tolist()

    def test_no_images_give_no_answers(self, folder):
        for route in ({"cost_lambda": 0.1}, {"path": [8]}):
            found = HostRouter(folder)(images(0).numpy(), **route)
            assert found.logits.shape == (0, 5)
            assert found.path.shape == (0, 3)

    @pytest.mark.parametrize(
        ("route", "message"),
        [
            ({"cost_lambda": -1}, "`cost_lambda` must be at least 0, got -1"),
            ({"cost_lambda": [0.1, 0.2]}, r"one per image, \(3,\), got shape \(2,\)"),
            ({"cost_lambda": 0.1, "path": [8]}, "at most one of `cost_lambda`, `path`"),
            ({"path": [5]}, r"1 to 3 of the levels \['fp32', 8, 6\], got \[5\]"),
            ({"target_cost": 0.1}, "0.1 is below the cheapest operating point, 0.200"),
        ],
    )
    def test_what_has_no_meaning_is_refused(self, folder, route, message):
        with pytest.raises(ValueError, match=message):
            HostRouter(folder)(images(3).numpy(), **route)

    @pytest.mark.parametrize("shape", [(3, 32, 32), (1, 3, 32, 31), (2, 1, 32, 32)])
    def test_images_of_another_shape_are_refused(self, folder, shape):
        with pytest.raises(ValueError, match=r"the shape \(batch, 3, 32, 32\), got"):
            HostRouter(folder)(np.zeros(shape, np.float32))

    def test_untrained_gates_leave_paths_alone(self, tmp_path):
        model = routable(levels=["fp32", 8])
        model.config.trained_parts = ["heads"]
        folder = export(model, tmp_path / "model")
        assert not list(folder.glob("gate_*"))
        found, expected = both(model, folder, 3, path=["fp32", 8])
        assert_same_routes(found, expected)
        with pytest.raises(ValueError, match="gates were not trained"):
            HostRouter(folder)(images(3).numpy(), cost_lambda=0.1)


def test_descriptions_say_what_the_pipeline_says(model, folder):
    host = HostRouter(folder)
    routed = host(images(4, seed=3).numpy(), cost_lambda=mixed_lambdas(4).numpy())
    described = describe_images(host.description, routed, top_k=2)
    probabilities = torch.from_numpy(routed.logits).softmax(dim=1)
    for row, each in enumerate(described):
        scores, labels = probabilities[row].topk(2)
        assert [one["label"] for one in each["scores"]] == [
            model.config.class_names[label] for label in labels
        ]
        assert [one["score"] for one in each["scores"]] == pytest.approx(scores.tolist())
        routing = each["routing"]
        assert routing["exit_block"] == model.config.exit_blocks[routing["exit_index"]]
        taken = [level for level in routed.path[row] if level >= 0]
        assert routing["path"] == [model.level_list[level] for level in taken]
    forced = host(images(1).numpy(), path=[8])
    assert describe_images(host.description, forced)[0]["routing"]["error_probability"] is None
    assert len(describe_images(host.description, forced, top_k=99)[0]["scores"]) == 5
    with pytest.raises(ValueError, match="`top_k` must be at least 1, got -3"):
        describe_images(host.description, forced, top_k=-3)


class TestFolder:
    def test_that_is_no_export_is_refused(self, tmp_path):
        with pytest.raises(ValueError, match=r"has no router.json: it is not an exported model"):
            HostRouter(tmp_path)

    def test_that_is_incomplete_is_refused(self, folder, tmp_path):
        copy = shutil.copytree(folder, tmp_path / "copy")
        os.remove(copy / "head_2.onnx")
        with pytest.raises(ValueError, match=r"is incomplete: head_2.onnx missing"):
            HostRouter(copy)

    @pytest.mark.parametrize(
        ("found", "replaced", "message"),
        [
            ('"format_version": 2', '"format_version": 3', "format 3; this router reads 2"),
            ("{", "", "cannot be used, it is damaged"),
            ('"levels"', '"level"', "was changed since it was written"),
            ('"cost_lambda": 0.06', '"cost_lambda": 0.6', "was changed since it was written"),
            ('"checksum"', '"check-sum"', "was changed since it was written"),
        ],
    )
    def test_whose_description_is_another_is_refused(self, folder, tmp_path, found, replaced, message):
        copy = shutil.copytree(folder, tmp_path / "copy")
        text = (copy / "router.json").read_text().replace(found, replaced, 1)
        (copy / "router.json").write_text(text)
        with pytest.raises(ValueError, match=message):
            HostRouter(copy)

    @pytest.mark.parametrize(
        "name", ["embedding.onnx", "segment_1_level_8.onnx", "head_3.onnx", "gate_1.onnx"]
    )
    def test_a_changed_graph_is_refused_when_it_is_needed(self, folder, tmp_path, name):
        copy = shutil.copytree(folder, tmp_path / "copy")
        content = bytearray((copy / name).read_bytes())
        content[-40] ^= 1  # of a weight, or near
        (copy / name).write_bytes(content)
        host = HostRouter(copy)
        with pytest.raises(ValueError, match=f"{name} is damaged"):
            for level in ("fp32", 8):
                host(images(2).numpy(), path=[level] * 3)
            host(images(2).numpy(), cost_lambda=0.0)


def test_images_that_are_no_numbers_are_refused(folder):
    for value in (math.nan, math.inf):
        pixel_values = images(3).numpy()
        pixel_values[1, 2, 31, 31] = value
        with pytest.raises(ValueError, match=r"images \[1\], counted from 0, hold NaN or infinity"):
            HostRouter(folder)(pixel_values)
