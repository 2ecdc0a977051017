"""Tests of the model card: everything it says comes from the config, and the Hub understands it."""

import re

import pytest
import yaml
from huggingface_hub import ModelCard
from huggingface_hub.errors import StrictDataclassError
from PIL import Image
from tests.tiny import NUM_LABELS, VARIANTS, quantize_fast, routable, wrap

from quee_hf import QuEEConfig
from quee_hf.hub.card import MARKER, render_card, write_card
from quee_hf.hub.sections import shown_points

POINTS = [
    {"cost_lambda": 0.0, "cost": 1.0, "accuracy": 0.9, "num_images": 50, "exit_shares": [0.0, 0.0, 1.0]},
    {"cost_lambda": 0.1, "cost": 0.999, "accuracy": 0.9, "num_images": 50, "exit_shares": [0.0, 0.0, 1.0]},
    {"cost_lambda": 0.3, "cost": 0.6, "accuracy": 0.8, "num_images": 50, "exit_shares": [0.5, 0.2, 0.3]},
]
ENTRY = {"path": [8, 8], "exit_block": 4, "cost": 1.0, "accuracy": 0.9, "accuracy_interval": [0.8, 0.95]}
MEASURED = {
    "exits": [{**ENTRY, "path": [8], "exit_block": 2, "cost": 0.5}],
    "uniform_paths": [ENTRY],
    "gates": [
        {
            "exit_block": 2,
            "rmse": 0.2,
            "rmse_of_constant": 0.3,
            "auroc": None,
            "auroc_of_max_probability": 0.75,
            "ece": 0.01,
        }
    ],
    "roles": [{"role": "gate training", "source": "photos", "num_images": 70}],
    "data": "photos",
    "versions": {"quee_hf": "0.1.0"},
}
RECORD = {"base_model": "org/vit", "license": "apache-2.0", "measured": MEASURED}


@pytest.fixture
def config():
    config = routable(levels=[8, 4]).config
    config.operating_points, config.cost_lambda, config.record = POINTS, 0.3, RECORD
    return config


def metadata(card):
    return yaml.safe_load(card.split("---\n")[1])


class TestMetadata:
    def test_the_hub_understands_it(self, config):
        card = render_card(config, "org/quee-vit", tags=["mine", "quee"])
        data = ModelCard(card).data
        assert (data.library_name, data.pipeline_tag) == ("transformers", "image-classification")
        assert (data.base_model, data.license) == ("org/vit", "apache-2.0")
        assert data.tags == ["quee", "early-exit", "dynamic-inference", "quantization", "mine"]
        accuracy, cost = data.eval_results
        assert (accuracy.metric_type, accuracy.metric_value, accuracy.dataset_name) == (
            "accuracy",
            0.8,
            "photos",
        )
        assert (cost.metric_type, cost.metric_value) == ("cost", 0.6)
        assert metadata(card)["model-index"][0]["name"] == "quee-vit"

    def test_nothing_is_claimed_that_is_not_known(self):
        found = metadata(render_card(wrap(VARIANTS["vit"].build(), levels=["fp32"]).config))
        assert set(found) == {"library_name", "pipeline_tag", "tags"}
        assert "quantization" not in found["tags"]


class TestText:
    def test_code_is_python_and_names_the_repository(self, config):
        card = render_card(config, "org/quee-vit")
        (code,) = re.findall(r"```python\n(.*?)```", card, flags=re.DOTALL)
        compile(code, "card", "exec")
        assert 'model="org/quee-vit"' in code
        assert "cost_lambda=" in code

    def test_without_gates_no_routing_is_shown(self):
        model = wrap(VARIANTS["dinov2"].build(), levels=[8, 4])
        quantize_fast(model)
        card = render_card(model.config)
        assert "cost_lambda=" not in card
        assert "not trained" in card

    def test_all_that_was_measured_is_there(self, config):
        card = render_card(config)
        assert "| 0.3 (default) | 0.600 | 80.0% (67.0% to 88.8%) | 50% 20% 30% |" in card
        assert "| 8 → 8 | 4 | 1.000 | 90.0% (80.0% to 95.0%) |" in card
        assert "| 2 | 0.200 (0.300) |  | 0.750 | 0.010 |" in card
        assert "| gate training | 70 | photos |" in card
        assert "No loss of accuracy is guaranteed" in card

    def test_test_images_are_shown(self, config):
        point = {"cost_lambda": 0.3, "cost": 0.61, "accuracy": 0.79, "accuracy_interval": [0.7, 0.85]}
        measured = {**MEASURED, "test": {"data": "others", "num_images": 99, "points": [point]}}
        config.record = {**RECORD, "measured": measured}
        card = render_card(config)
        assert "99 images of others" in card
        assert "| 0.3 | 0.610 | 79.0% (70.0% to 85.0%) |" in card

    def test_exceptions_are_named(self, config):
        config.quantization = {**config.quantization, "kept": {"2.fc2": 8}}
        assert "Exceptions: `2.fc2` at 8." in render_card(config)

    def test_no_empty_or_broken_part(self, config):
        card = render_card(config)
        assert "None" not in card
        assert "{" not in card
        assert "\n\n\n" not in card


class TestPoints:
    def test_equal_costs_are_shown_once(self, config):
        assert [point["cost_lambda"] for point in shown_points(config)] == [0.0, 0.3]

    def test_the_default_is_always_shown(self, config):
        config.cost_lambda = 0.1
        assert [point["cost_lambda"] for point in shown_points(config)] == [0.0, 0.1, 0.3]

    def test_interval_is_that_of_the_images(self, config):
        point = shown_points(config)[-1]
        assert point["low"] < 0.8 < point["high"]


class TestWriting:
    def test_card_and_picture(self, config, tmp_path):
        write_card(tmp_path, config)
        assert MARKER in (tmp_path / "README.md").read_text()
        with Image.open(tmp_path / "operating_points.png") as picture:
            assert picture.width > 400

    def test_no_picture_of_nothing(self, config, tmp_path):
        config.operating_points = config.cost_lambda = None
        write_card(tmp_path, config)
        assert [path.name for path in tmp_path.iterdir()] == ["README.md"]
        assert "operating_points.png" not in (tmp_path / "README.md").read_text()


def test_saving_writes_it_and_forgets_what_is_forgotten(tmp_path):
    model = routable(levels=[8, 4])
    model.config.operating_points, model.config.record = POINTS, RECORD
    model.save_pretrained(tmp_path)
    assert "## Operating points" in (tmp_path / "README.md").read_text()
    assert (tmp_path / "operating_points.png").exists()
    model.config.forget_measurements()
    assert model.config.record == {"base_model": "org/vit", "license": "apache-2.0"}
    model.save_pretrained(tmp_path)
    assert "## Operating points" not in (tmp_path / "README.md").read_text()
    assert not (tmp_path / "operating_points.png").exists()


def test_unknown_records_are_refused():
    with pytest.raises(StrictDataclassError, match="`record` may hold"):
        QuEEConfig(record={"licence": "mit"})


def test_number_of_classes(config):
    assert f"of {NUM_LABELS} classes" in render_card(config)
