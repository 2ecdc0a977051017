"""Tests of `set_classes`: a CLIP model compares images with other texts, and says what that makes invalid."""

import copy
import math

import pytest
import torch
from tests.profiles import CERTIFICATE
from tests.tiny import (
    NUM_LABELS,
    PROJECTION_SIZE,
    VARIANTS,
    class_embeddings,
    generator,
    images,
    mixed_lambdas,
    quantize_fast,
    routable,
    wrap,
)

from quee_hf import NotReadyError, QuEEForImageClassification
from quee_hf.execution.engines import ENGINES, REFERENCE

NAMES = [f"class {number}" for number in range(NUM_LABELS)]
OTHERS = torch.randn(7, PROJECTION_SIZE, generator=generator(11))
OTHER_NAMES = [f"other {number}" for number in range(7)]
POINT = {"cost_lambda": 0.1, "cost": 0.5, "accuracy": 0.5}


def clip(**fields) -> QuEEForImageClassification:
    """Return a CLIP model with trained gates, LRA-EE's if not said otherwise, and something measured."""
    fields = {"gate_type": "lra", "levels": [8], "id2label": dict(enumerate(NAMES)), **fields}
    model = routable(VARIANTS["clip"], **fields)
    config = model.config
    config.operating_points, config.cost_lambda = [POINT], 0.1
    config.certificates = [CERTIFICATE]
    config.record = {"license": "mit", "measured": {"accuracy": 0.5}}
    return model.eval()


@torch.inference_mode()
def logits(model, count=4):
    return model(images(count, 30), path=[8, 8, 8]).logits


def snapshot(model):
    return model.config.to_dict(), {name: value.clone() for name, value in model.state_dict().items()}


def assert_unchanged(model, before):
    config, weights = before
    assert model.config.to_dict() == config
    assert model.state_dict().keys() == weights.keys()
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())


class TestLogits:
    def test_are_those_of_a_model_made_with_these_classes(self):
        """The embedding of an image knows of no classes."""
        model = wrap(VARIANTS["clip"].build())
        expected = wrap(VARIANTS["clip"].build(), class_embeddings=OTHERS)
        model.set_classes(OTHER_NAMES, OTHERS)
        pixel_values = images(4, 30)
        for path in (["fp32"], ["fp32"] * 3):
            assert torch.equal(
                model(pixel_values, path=path).logits, expected(pixel_values, path=path).logits
            )

    def test_of_a_selection_are_columns_of_those_before(self):
        model = clip()
        before = logits(model)
        model.set_classes([NAMES[3], NAMES[0]])
        # The same products; a matrix of another shape may add them up in another order.
        torch.testing.assert_close(logits(model), before[:, [3, 0]], rtol=2**-20, atol=2**-18)

    def test_only_the_class_embeddings_change(self):
        model = clip()
        _, before = snapshot(model)
        model.set_classes(OTHER_NAMES, OTHERS)
        changed = [name for name, value in model.state_dict().items() if not torch.equal(value, before[name])]
        assert changed == ["class_embeddings"]
        assert model.state_dict().keys() == before.keys()


class TestConfig:
    def test_names_follow(self):
        model = clip()
        model.set_classes(OTHER_NAMES, OTHERS)
        config = model.config
        assert config.id2label == dict(enumerate(OTHER_NAMES))
        assert config.label2id == {name: number for number, name in enumerate(OTHER_NAMES)}
        assert config.num_labels == config.num_classes == model.num_labels == 7
        assert config.class_names == OTHER_NAMES
        assert config.logit_scale == pytest.approx(math.exp(3))

    def test_measurements_are_forgotten(self):
        model = clip()
        model.set_classes(OTHER_NAMES, OTHERS)
        config = model.config
        assert (config.operating_points, config.certificates, config.cost_lambda) == (None, None, None)
        assert config.record == {"license": "mit"}

    def test_the_same_classes_under_other_names_keep_everything(self):
        model = clip(gate_type="error_predictor")
        before, points = logits(model), model.config.operating_points
        model.set_classes(OTHER_NAMES[:NUM_LABELS], class_embeddings())
        assert torch.equal(logits(model), before)
        assert model.config.class_names == OTHER_NAMES[:NUM_LABELS]
        assert model.config.operating_points == points
        assert "gates" in model.config.trained_parts

    def test_saved_and_loaded(self, tmp_path):
        model = clip()
        model.set_classes(OTHER_NAMES, OTHERS)
        model.save_pretrained(tmp_path)
        loaded = QuEEForImageClassification.from_pretrained(tmp_path)
        assert loaded.config.class_names == OTHER_NAMES
        assert torch.equal(loaded.get_buffer("class_embeddings"), model.get_buffer("class_embeddings"))
        assert torch.equal(logits(loaded), logits(model))
        with torch.inference_mode():
            ours, theirs = (each(images(8, 30), cost_lambda=mixed_lambdas(8)) for each in (model, loaded))
        assert torch.equal(ours.path, theirs.path)

    def test_a_loaded_model_can_be_given_others(self, tmp_path):
        clip().save_pretrained(tmp_path)
        loaded = QuEEForImageClassification.from_pretrained(tmp_path)
        loaded.set_classes(OTHER_NAMES, OTHERS)
        loaded.set_classes(NAMES, class_embeddings())
        torch.testing.assert_close(logits(loaded), logits(clip()), rtol=0, atol=0)

    def test_embeddings_may_be_a_file(self, tmp_path):
        from quee_hf.backbones.class_embeddings import write_class_embeddings

        write_class_embeddings(tmp_path / "e.safetensors", OTHERS, logit_scale=1.0)
        ours, theirs = clip(), clip()
        ours.set_classes(OTHER_NAMES, tmp_path / "e.safetensors")
        theirs.set_classes(OTHER_NAMES, OTHERS)
        assert torch.equal(logits(ours), logits(theirs))  # at the model's scale, not the file's

    def test_kinds_of_floats_stay(self):
        model = wrap(VARIANTS["clip"].build()).double()
        model.set_classes(OTHER_NAMES, OTHERS)
        assert model.get_buffer("class_embeddings").dtype == torch.float64


class TestGates:
    @pytest.mark.parametrize("features", ["spatial", "confidence", "history"])
    def test_of_lra_ee_stay_and_go_on_deciding(self, features):
        model = clip(gate_features=features)
        gates = copy.deepcopy(model.gates.state_dict())
        model.set_classes(OTHER_NAMES, OTHERS)
        assert all(torch.equal(value, gates[name]) for name, value in model.gates.state_dict().items())
        assert model.config.trained_parts == ["gates", "heads"]
        with torch.inference_mode():
            output = model(images(16, 30), cost_lambda=mixed_lambdas(16))
        assert len(set(output.exit_index.tolist())) > 1

    def test_decide_by_the_new_classes(self):
        """As a model that was made with these classes, and then got the same gates."""
        model = clip(gate_features="confidence")
        expected = wrap(
            VARIANTS["clip"].build(),
            class_embeddings=OTHERS,
            gate_type="lra",
            gate_features="confidence",
            levels=[8],
        )
        quantize_fast(expected)
        expected.gates.load_state_dict(model.gates.state_dict())
        expected.config.trained_parts = ["gates", "heads"]
        model.set_classes(OTHER_NAMES, OTHERS)
        pixel_values, lambdas = images(16, 30), mixed_lambdas(16)
        with torch.inference_mode():
            ours, theirs = (each.eval()(pixel_values, cost_lambda=lambdas) for each in (model, expected))
        assert torch.equal(ours.path, theirs.path)
        assert torch.equal(ours.error_probability.nan_to_num(2), theirs.error_probability.nan_to_num(2))

    @pytest.mark.parametrize(
        ("fields", "count"),
        [
            ({"gate_type": "error_predictor"}, 7),
            ({"gate_type": "error_predictor", "gate_features": "history"}, NUM_LABELS),
            ({"gate_features": "probabilities"}, 7),
            ({"gate_features": "probabilities"}, NUM_LABELS),
            ({"gate_features": "confidence"}, 2),  # which has no third largest probability
        ],
    )
    def test_that_know_the_classes_are_refused(self, fields, count):
        model = clip(**fields)
        before = snapshot(model)
        with pytest.raises(
            ValueError, match=rf"know the 5 classes .* {count} others. Give `keep_gates=False`"
        ):
            model.set_classes(OTHER_NAMES[:count], OTHERS[:count])
        assert_unchanged(model, before)

    def test_of_lra_ee_decide_between_two(self):
        model = clip()
        model.set_classes(OTHER_NAMES[:2], OTHERS[:2])
        with torch.inference_mode():
            assert model(images(4, 30), cost_lambda=0.2).logits.shape == (4, 2)

    @pytest.mark.parametrize("fields", [{"gate_type": "error_predictor"}, {}])
    def test_new_ones_are_untrained_and_can_be_trained(self, fields):
        model = clip(**fields)
        before = copy.deepcopy(model.gates.state_dict())
        model.set_classes(OTHER_NAMES, OTHERS, keep_gates=False)
        assert model.config.trained_parts == ["heads"]
        assert any(not torch.equal(value, before[name]) for name, value in model.gates.state_dict().items())
        assert all(parameter.requires_grad for parameter in model.gates.parameters())
        assert not model.gates.training
        with pytest.raises(NotReadyError, match="gates are not trained"):
            model(images(1, 30), cost_lambda=0.1)
        model.config.trained_parts = ["gates", "heads"]  # as training says
        assert model(images(4, 30), cost_lambda=0.1).logits.shape == (4, 7)

    def test_untrained_ones_are_no_reason_to_refuse(self):
        model = wrap(VARIANTS["clip"].build(), gate_features="probabilities")
        model.set_classes(OTHER_NAMES, OTHERS)
        model.config.trained_parts = ["gates", "heads"]
        assert model(images(4, 30), cost_lambda=0.1).logits.shape == (4, 7)

    def test_and_can_be_saved(self, tmp_path):
        model = clip(gate_type="error_predictor", gate_features="probabilities")
        model.set_classes(OTHER_NAMES, OTHERS, keep_gates=False)
        model.save_pretrained(tmp_path)
        loaded = QuEEForImageClassification.from_pretrained(tmp_path)
        assert torch.equal(logits(loaded), logits(model))


@pytest.mark.parametrize("engine", [name for name in ENGINES if name != REFERENCE])
class TestEngines:
    def test_follow(self, engine):
        model, reference = clip(), clip()
        pixel_values, lambdas = images(8, 30), mixed_lambdas(8)
        model.set_engine(engine)
        with torch.inference_mode():
            model(pixel_values, cost_lambda=lambdas), model(pixel_values, path=[8, 8, 8])  # prepares
            for each in (model, reference):
                each.set_classes(OTHER_NAMES, OTHERS)
            assert model.engine == engine
            for route in ({"cost_lambda": lambdas}, {"path": [8, 8, 8]}):
                found, expected = model(pixel_values, **route), reference(pixel_values, **route)
                assert torch.equal(found.path, expected.path)
                torch.testing.assert_close(found.logits, expected.logits, rtol=1e-4, atol=1e-3)

    def test_that_alone_have_the_weights_refuse(self, engine):
        model = clip()
        model.set_engine(engine, keep_weights=False)
        names = model.config.class_names
        with pytest.raises(NotReadyError, match="weights are with the engine"):
            model.set_classes(OTHER_NAMES, OTHERS)
        assert model.config.class_names == names


class TestRefusals:
    def test_a_classifier_has_its_classes(self):
        model = routable()
        before = snapshot(model)
        with pytest.raises(ValueError, match="Only CLIP models.*trained for its 5 classes"):
            model.set_classes(OTHER_NAMES, OTHERS)
        assert_unchanged(model, before)

    @pytest.mark.parametrize(
        ("names", "embeddings", "message"),
        [
            (OTHER_NAMES, None, r"no classes \['other 0', "),
            (OTHER_NAMES, OTHERS[:3], "7 names, but 3"),
            (OTHER_NAMES, OTHERS[:, :3], rf"shape \(classes, {PROJECTION_SIZE}\), got \(7, 3\)"),
            (OTHER_NAMES, OTHERS.log(), "must be finite"),
            (OTHER_NAMES, "nowhere.safetensors", "is not a file"),
            (["a"] * 7, OTHERS, "must differ"),
            ("other", None, "list of texts"),
            (None, OTHERS, "list of texts"),
            (OTHER_NAMES, OTHERS.numpy(), "must be a tensor or a file, got ndarray"),
            (OTHER_NAMES, OTHERS * (torch.arange(7) != 3)[:, None], r"classes \[3\] are all 0"),
        ],
    )
    def test_what_is_malformed_changes_nothing(self, names, embeddings, message):
        model = clip()
        before = snapshot(model)
        with pytest.raises(ValueError, match=message):
            model.set_classes(names, embeddings)
        assert_unchanged(model, before)

    def test_the_callers_embeddings_are_not_changed_nor_kept(self):
        model, embeddings = clip(), OTHERS.clone()
        model.set_classes(OTHER_NAMES, embeddings)
        assert torch.equal(embeddings, OTHERS)
        before = logits(model)
        embeddings.zero_()
        assert torch.equal(logits(model), before)


def test_real_classes_are_selected(assets):
    """On photographs: of 200 classes ten, by their names."""
    import json

    from datasets import load_dataset
    from transformers import AutoImageProcessor

    folder = assets / "models" / "clip-vit-small-tinyimagenet-70px"
    names = json.loads((folder / "classes.json").read_text())["classes"]
    model = QuEEForImageClassification.from_backbone(
        folder,
        class_embeddings=folder / "class_embeddings.safetensors",
        id2label=dict(enumerate(names)),
        exit_blocks=[6, 12],
        levels=["fp32"],
    )
    processor = AutoImageProcessor.from_pretrained(folder, backend="pil")
    photos = load_dataset("parquet", data_files=str(assets / "photos.parquet"), split="train[:16]")
    rows = [row["image"].convert("RGB") for row in photos]
    pixel_values = processor(rows, return_tensors="pt")["pixel_values"]
    chosen = [3, 150, 60, 199, 0, 7, 42, 99, 120, 13]
    with torch.inference_mode():
        full = model(pixel_values).logits
        model.set_classes([names[row] for row in chosen])
        found = model(pixel_values).logits
    assert model.config.class_names == [names[row] for row in chosen]
    # Cosines are sums of 384 products in float32, times the scale.
    torch.testing.assert_close(found, full[:, chosen], rtol=0, atol=model.config.logit_scale * 2**-20)


def test_pipeline_says_the_new_names():
    from PIL import Image
    from transformers import CLIPImageProcessorPil, pipeline

    model = clip()
    processor = CLIPImageProcessorPil(size={"shortest_edge": 30}, crop_size={"height": 30, "width": 30})
    classify = pipeline("image-classification", model=model, image_processor=processor)
    image = Image.effect_noise((40, 40), 80).convert("RGB")
    assert {row["label"] for row in classify(image)} == set(NAMES)
    model.set_classes(OTHER_NAMES, OTHERS)
    assert {row["label"] for row in classify(image, top_k=7)} == set(OTHER_NAMES)
