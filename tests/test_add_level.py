"""Tests of `add_level` and of calibrations in files: levels added later equal those made at once."""

import pytest
import torch
from safetensors.torch import save_file
from tests.profiles import make_profile
from tests.tiny import VARIANTS, images, untrained_gates, wrap

from quee_hf import QuEEForImageClassification, add_level, load_calibration, quantize, save_calibration
from quee_hf.ptq import PTQ_METHODS
from quee_hf.schemes import WEIGHT_SHARING


def model_with(levels, variant="vit", **fields):
    return wrap(VARIANTS[variant].build(), levels=levels, **fields)


def snapshot(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


@pytest.mark.parametrize("weight_sharing", WEIGHT_SHARING)
@pytest.mark.parametrize("method", PTQ_METHODS)
def test_a_level_added_from_a_file_equals_one_made_at_once(tmp_path, method, weight_sharing):
    options = {"method": method, "weight_sharing": weight_sharing}
    expected, model = model_with([8, 5, 3]), model_with([8, 3])
    quantize(expected, images(4), **options)
    save_calibration(quantize(model, images(4), **options), tmp_path / "calibration.safetensors")
    add_level(model, 5, load_calibration(tmp_path / "calibration.safetensors", model))
    assert model.config.levels == [8, 5, 3]
    trunks = model.trunk.state_dict(), expected.trunk.state_dict()
    assert trunks[0].keys() == trunks[1].keys()
    assert all(torch.equal(tensor, trunks[1][name]) for name, tensor in trunks[0].items())
    assert torch.equal(model(images(2), path=(8, 5, 3)).logits, expected(images(2), path=(8, 5, 3)).logits)


def test_the_model_saves_and_loads_with_its_new_level(tmp_path):
    model = model_with(["fp32", 8])
    calibration = quantize(model, images(4), smoothing=0.5, keep={"2.fc2": 8})
    add_level(model, 4, calibration)
    model.save_pretrained(tmp_path)
    loaded = QuEEForImageClassification.from_pretrained(tmp_path)
    path = ("fp32", 8, 4)
    assert torch.equal(loaded(images(2), path=path).logits, model(images(2), path=path).logits)


def test_gates_are_new_and_what_was_measured_is_forgotten():
    model = model_with([8, 4], max_paths=6)
    calibration = quantize(model, images(4), method="min_max")
    untrained_gates(model)
    model.config.operating_points = [{"cost_lambda": 0.1, "cost": 0.5, "accuracy": 0.9}]
    model.config.cost_lambda = 0.1
    paths = model.paths
    add_level(model, 6, calibration)
    assert model.config.trained_parts == ["heads"]
    assert model.config.operating_points is None
    assert model.config.cost_lambda is None
    assert model.paths != paths
    assert all(parameter.requires_grad for parameter in model.gates.parameters())
    assert not model.training


class TestRefusals:
    """Each leaves the model exactly as it was."""

    @pytest.fixture
    def quantized(self):
        model = model_with([8, 4])
        return model, quantize(model, images(4), method="min_max")

    def refuse(self, model, level, calibration, message):
        before, config = snapshot(model), model.config.to_dict()
        with pytest.raises(ValueError, match=message):
            add_level(model, level, calibration)
        after = model.state_dict()
        assert before.keys() == after.keys()
        assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())
        assert model.config.to_dict() == config

    @pytest.mark.parametrize("level", [8, "fp32"])
    def test_levels_that_cannot_be_added(self, quantized, level):
        self.refuse(*quantized[:1], level, quantized[1], r"bits that are not among \[8, 4\] yet, got")

    @pytest.mark.parametrize("level", [1, 9, True])
    def test_no_level_at_all(self, quantized, level):
        self.refuse(quantized[0], level, quantized[1], "bit-width 2 to 8")

    def test_a_float_model(self, quantized):
        self.refuse(model_with([8]), 6, quantized[1], "not quantized yet")

    @pytest.mark.parametrize(
        "options",
        [{"method": "mse"}, {"method": "min_max", "smoothing": 0.5}, {"num_images": 2, "method": "min_max"}],
    )
    def test_another_calibration(self, quantized, options):
        other = quantize(model_with([8]), images(4), **options)
        self.refuse(quantized[0], 6, other, "the calibration is for")

    def test_a_calibration_on_other_images(self):
        model, other = model_with([8]), model_with([8])
        quantize(model, images(4))
        calibration = quantize(other, images(4, seed=5))
        self.refuse(model, 6, calibration, "of another model, or of other images")


def test_times_without_the_new_level_are_forgotten():
    model = model_with([8, 4])
    calibration = quantize(model, images(4))
    model.config.cost_table, model.config.cost_model = [[2.0, 1.0]] * 3, "latency"
    model.config.record = {"base_model": "org/vit", "profile": make_profile(3, 2)}
    model.config.validate()
    add_level(model, 6, calibration)
    assert (model.config.cost_table, model.config.cost_model) == (None, "bitops")
    assert model.config.record == {"base_model": "org/vit"}
    model.config.validate()
    assert model.router.costs.max() == 1


class TestFiles:
    def test_a_file_of_something_else(self, tmp_path):
        save_file({"x": torch.zeros(1)}, tmp_path / "x.safetensors")
        with pytest.raises(ValueError, match="holds no calibration"):
            load_calibration(tmp_path / "x.safetensors", model_with([8]))

    def test_of_another_backbone(self, tmp_path):
        save_calibration(quantize(model_with([8]), images(4)), tmp_path / "c.safetensors")
        with pytest.raises(ValueError, match="of another backbone"):
            load_calibration(tmp_path / "c.safetensors", model_with([8], "dinov2-swiglu"))
        assert [path.name for path in tmp_path.iterdir()] == ["c.safetensors"]
