"""Tests of `quee_hf.build.quantization`: what is saved, what is measured, and what is refused before any work."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.builds import CLASSES, NUM_BLOCKS, write_classifier, write_images
from tests.profiles import make_profile
from tests.tiny import VARIANTS, class_embeddings
from transformers import AutoImageProcessor, AutoModelForImageClassification, CLIPImageProcessorPil

from quee_hf import QuEEError, QuEEForImageClassification
from quee_hf.build.quantization import quantize_classifier
from quee_hf.build.quantization_plan import QuantizationPlan, read_method_options
from quee_hf.data import load_image_dataset
from quee_hf.errors import BadDatasetError
from quee_hf.levels import choose_levels


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("quantization")
    write_classifier(root / "model")
    write_images(root / "images", 24, 0)
    write_images(root / "data", 60, 1)
    return root


def plan(root, **fields) -> QuantizationPlan:
    """Return a plan that is quick."""
    return QuantizationPlan(
        **{
            "model": str(root / "model"),
            "images": str(root / "images"),
            "levels": (8, 4),
            "method": "min_max",
            "calibration_images": 8,
            **fields,
        }
    )


@pytest.fixture(scope="module")
def auto(root):
    """Return what choosing levels gives, and where it is."""
    output = root / "auto"
    result = quantize_classifier(
        plan(root, levels=None, data=str(root / "data"), max_drop=0.3), output, has_report=True
    )
    return result, output


class TestOutput:
    def test_model_runs_at_every_level(self, root, tmp_path):
        result = quantize_classifier(plan(root), tmp_path / "out")
        model = QuEEForImageClassification.from_pretrained(tmp_path / "out")
        assert model.config.level_list == result["levels"] == [8, 4]
        assert list(model.config.exit_blocks) == [NUM_BLOCKS]
        assert [model.config.id2label[label] for label in range(4)] == list(CLASSES)
        exact = AutoModelForImageClassification.from_pretrained(root / "model")
        processor = AutoImageProcessor.from_pretrained(tmp_path / "out", backend="pil")
        images = load_image_dataset(root / "data").with_processor(processor)
        pixel_values = torch.stack([images[index]["pixel_values"] for index in range(20)])
        wanted = exact(pixel_values).logits
        errors = [(model(pixel_values, path=(level,)).logits - wanted).norm() for level in (8, 4)]
        assert errors[0] < errors[1] / 4
        assert errors[0] < 0.1 * wanted.norm()

    def test_without_a_report_there_is_only_the_model(self, root, tmp_path):
        quantize_classifier(plan(root), tmp_path / "deep" / "out")
        assert {file.name for file in (tmp_path / "deep" / "out").iterdir()} == {
            "config.json", "model.safetensors", "preprocessor_config.json", "README.md",
            "configuration_quee.py", "modeling_quee.py",
        }  # fmt: skip

    def test_same_plan_gives_the_same_bytes(self, root, tmp_path):
        for name in ("a", "b"):
            torch.manual_seed(ord(name))
            quantize_classifier(plan(root, method="repq", levels=(6,)), tmp_path / name, has_report=True)
        for file in (tmp_path / "a").iterdir():
            assert file.read_bytes() == (tmp_path / "b" / file.name).read_bytes(), file.name

    def test_random_state_of_the_caller_is_left_alone(self, root, tmp_path):
        torch.manual_seed(1)
        expected = torch.rand(3)
        torch.manual_seed(1)
        quantize_classifier(plan(root), tmp_path / "out")
        assert torch.equal(torch.rand(3), expected)

    def test_options_reach_the_model(self, root, tmp_path):
        chosen = {"method": "repq", "options": {"ridge": 0.01}, "weight_sharing": "nested"}
        chosen |= {"keep": {"2.fc2": 8, "*.scores": "fp32"}, "smoothing": 0.5}
        (tmp_path / "out").mkdir()  # an empty directory is as good as none
        quantize_classifier(plan(root, **chosen), tmp_path / "out")
        scheme = QuEEForImageClassification.from_pretrained(tmp_path / "out").config.scheme
        assert scheme.method == "repq"
        assert scheme.options["ridge"] == 0.01
        assert scheme.options["smoothing"]["1.qkv"] == 0.5
        assert scheme.weight_sharing == "nested"
        assert scheme.kept == {"2.fc2": 8, "*.scores": "fp32"}
        assert scheme.num_images == 8

    def test_float_levels_may_stand_beside_integer_ones(self, root, tmp_path):
        result = quantize_classifier(plan(root, levels=("fp32", "bf16", 8)), tmp_path / "out")
        assert result["levels"] == ["fp32", "bf16", 8]
        assert [row["level"] for row in result["by_level"]] == [8]


class TestChosenLevels:
    def test_are_those_that_the_accuracies_ask_for(self, auto):
        result, output = auto
        assert [row["level"] for row in result["by_level"]] == [8, 7, 6, 5, 4, 3]
        accuracy_at = {row["level"]: row["accuracy"] for row in result["by_level"]}
        chosen = choose_levels(accuracy_at, result["float_accuracy"]["accuracy"], max_drop=0.3)
        assert result["levels"] == chosen
        assert len(chosen) < 6
        assert [row["level"] for row in result["by_level"] if row["is_kept"]] == chosen
        assert QuEEForImageClassification.from_pretrained(output).config.level_list == chosen

    def test_are_what_they_are_without_the_others(self, root, auto, tmp_path):
        result, output = auto
        quantize_classifier(plan(root, levels=tuple(result["levels"])), tmp_path / "out")
        chosen, alone = (load_file(folder / "model.safetensors") for folder in (output, tmp_path / "out"))
        assert chosen.keys() == alone.keys()
        assert all(torch.equal(chosen[name], alone[name]) for name in alone)

    @pytest.mark.parametrize(
        ("method", "weight_sharing"),
        [("repq", "nested"), ("ptq4vit", "independent"), ("torch_dynamic", "nested")],
    )
    def test_are_kept_whatever_the_tensors_are(self, root, tmp_path, method, weight_sharing):
        chosen = {"method": method, "weight_sharing": weight_sharing, "keep": {"1.fc1": 3, "2.qkv": "bf16"}}
        result = quantize_classifier(
            plan(root, **chosen, levels=None, data=str(root / "data"), max_drop=0), tmp_path / "auto"
        )
        assert len(result["levels"]) < 6
        quantize_classifier(plan(root, **chosen, levels=tuple(result["levels"])), tmp_path / "alone")
        ours, alone = (load_file(tmp_path / name / "model.safetensors") for name in ("auto", "alone"))
        assert ours.keys() == alone.keys()
        assert all(torch.equal(ours[name], alone[name]) for name in alone)

    def test_accuracies_equal_the_model_run_image_by_image(self, root, auto):
        result, output = auto
        model = QuEEForImageClassification.from_pretrained(output)
        processor = AutoImageProcessor.from_pretrained(output, backend="pil")
        images = load_image_dataset(root / "data")
        # The folders are sorted by name, the model's classes are not.
        labels = [model.config.label2id[images.class_names[images[i]["label"]]] for i in range(len(images))]
        items = images.with_processor(processor)
        for row in (row for row in result["by_level"] if row["is_kept"]):
            guesses = [
                int(model(items[index]["pixel_values"][None], path=(row["level"],)).logits.argmax())
                for index in range(len(items))
            ]
            assert row["accuracy"] == pytest.approx(np.mean(np.equal(guesses, labels)), abs=1e-6)
            assert row["accuracy_interval"][0] <= row["accuracy"] <= row["accuracy_interval"][1]

    def test_report_is_what_is_returned(self, auto):
        result, output = auto
        assert json.loads((output / "quantization.json").read_text()) == result
        assert (output / "quantization.png").stat().st_size > 10_000
        assert result["file_size_bytes"] == (output / "model.safetensors").stat().st_size
        assert result["sources"]["data"]["num_images"] == 60
        assert result["num_images"] == 60


def test_limit_spreads_over_all_classes(root, tmp_path):
    result = quantize_classifier(plan(root, data=str(root / "data"), limit=12), tmp_path / "out")
    assert {row["num_images"] for row in (*result["by_level"], result["float_accuracy"])} == {12}
    assert result["float_accuracy"]["accuracy"] > 0.5, "one class only would be right or wrong as a whole"


def test_model_with_exits_keeps_them(root, tmp_path):
    wrapped = QuEEForImageClassification.from_backbone(
        root / "model", exit_blocks=[1, 3], levels=["fp32", "bf16"], head_type="linear"
    )
    with torch.no_grad():
        wrapped.heads[0].network.weight.fill_(0.25)
    wrapped.config.trained_parts = ["gates", "heads"]
    wrapped.config.cost_lambda = 0.3
    wrapped.config.operating_points = [{"cost_lambda": 0.3, "cost": 0.5, "accuracy": 0.5}]
    wrapped.config.cost_model, wrapped.config.cost_table = "latency", [[2.0, 1.0]] * 2
    wrapped.config.record = {"profile": make_profile(2, 2)}
    wrapped.save_pretrained(tmp_path / "float")
    AutoImageProcessor.from_pretrained(root / "model", backend="pil").save_pretrained(tmp_path / "float")
    result = quantize_classifier(
        plan(root, model=str(tmp_path / "float"), data=str(root / "data")), tmp_path / "out"
    )
    model = QuEEForImageClassification.from_pretrained(tmp_path / "out")
    assert (list(model.config.exit_blocks), model.config.level_list) == ([1, 3], [8, 4])
    assert (model.heads[0].network.weight == 0.25).all()
    # Gates, operating points and times were for other paths.
    assert (model.config.profile, model.config.cost_table, model.config.cost_model) == (None, None, "bitops")
    assert list(model.config.trained_parts) == ["heads"]
    assert (model.config.cost_lambda, model.config.operating_points) == (None, None)
    assert result["is_quee_model"]
    assert result["float_accuracy"]["num_images"] == 60
    torch.manual_seed(99)  # new gates depend on the plan's seed only
    quantize_classifier(plan(root, model=str(tmp_path / "float")), tmp_path / "same")
    files = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("out", "same")]
    assert files[0] == files[1]
    with pytest.raises(ValueError, match="is quantized already; start from its float model"):
        quantize_classifier(plan(root, model=str(tmp_path / "out")), tmp_path / "again")


def test_contrastive_model_needs_class_embeddings(root, tmp_path):
    VARIANTS["clip-vision"].build().save_pretrained(tmp_path / "clip")
    CLIPImageProcessorPil(size=30, do_center_crop=True, crop_size=30).save_pretrained(tmp_path / "clip")
    clip = {"model": str(tmp_path / "clip"), "data": str(root / "data"), "class_names": ("a", "b", "c", "d")}
    with pytest.raises(ValueError, match="needs one text embedding per class"):
        quantize_classifier(plan(root, **clip), tmp_path / "out")
    embeddings = tmp_path / "embeddings.safetensors"
    save_file({"class_embeddings": class_embeddings(4), "logit_scale": torch.tensor(2.0)}, embeddings)
    quantize_classifier(plan(root, **clip, class_embeddings=str(embeddings)), tmp_path / "out")
    model = QuEEForImageClassification.from_pretrained(tmp_path / "out")
    assert model.config.id2label == dict(enumerate("abcd"))
    assert model.config.logit_scale == pytest.approx(np.exp(2))


class TestWhatIsSaid:
    def test_images_that_play_two_roles(self, root, tmp_path):
        said = []
        quantize_classifier(plan(root, data=str(root / "images")), tmp_path / "out", say=said.append)
        assert "Note: 24 of 24 images for accuracy may have set ranges, too." in said

    def test_too_few_images_to_choose_levels_by(self, root, tmp_path, monkeypatch):
        said = []
        monkeypatch.setattr("quee_hf.build.quantization.load_float_model", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            quantize_classifier(
                plan(root, levels=None, data=str(root / "data")), tmp_path / "out", say=said.append
            )
        assert "Note: of 60 images one is more than 0.20%: levels are chosen by luck." in said

    def test_too_few_calibration_images(self, root, tmp_path):
        said = []
        quantize_classifier(plan(root, calibration_images=99), tmp_path / "out", say=said.append)
        assert "Only 24 calibration images, of 99 asked for" in said


class TestPlan:
    """What is wrong whatever the model is."""

    @pytest.mark.parametrize(
        ("fields", "message"),
        [
            ({"method": "magic"}, "`method` must be one of"),
            ({"options": {"speed": 1}}, "'min_max' has no option ['speed']"),
            ({"method": "repq", "options": {"ridge": -1.0}}, "`ridge` must be at least 0"),
            ({"levels": (9,)}, "bit-width 2 to 8"),
            ({"levels": ("fp32",)}, "`levels` must hold a bit-width, got ['fp32']."),
            ({"levels": ()}, "`levels` must hold a bit-width"),
            ({"levels": None}, "`levels` 'auto' needs labelled images"),
            ({"smoothing": 1.5}, "`smoothing` must be None, 'search' or a number from 0 to 1"),
            ({"weight_sharing": "all"}, "`weight_sharing` must be one of"),
            ({"match_labels": "luck"}, "`match_labels` must be one of"),
            ({"keep": {"fc2": 8}}, "Exceptions are named"),
            ({"calibration_images": 0}, "`calibration_images` must be at least 1"),
            ({"batch_size": 0}, "`batch_size` must be at least 1"),
            ({"keep_within": -0.1}, "`keep_within` must be from 0 to 1"),
            ({"max_drop": float("nan")}, "`max_drop` must be from 0 to 1"),
            ({"seed": -1}, "`seed` must be from 0"),
            ({"limit": 5}, "`limit` has a meaning with `data` only."),
        ],
        ids=lambda value: str(value) if isinstance(value, dict) else "",
    )
    def test_impossible_values_are_named(self, root, fields, message):
        with pytest.raises(ValueError) as caught:  # noqa: PT011 - compared below, without escaping
            plan(root, **fields)
        assert message in str(caught.value)

    def test_method_options_get_their_types(self):
        assert read_method_options("repq", {"ridge": "1e-2", "log": "False"}) == {"ridge": 0.01, "log": False}
        assert read_method_options("ptq4vit", {"gradient_source": "fisher"}) == {"gradient_source": "fisher"}
        with pytest.raises(ValueError, match="`option` ridge must be a number, got 'much'"):
            read_method_options("repq", {"ridge": "much"})
        with pytest.raises(ValueError, match="`option` log must be true or false, got '1'"):
            read_method_options("repq", {"log": "1"})


class TestRefusedBeforeAnyWork:
    @pytest.fixture(autouse=True)
    def _no_work(self, monkeypatch):
        monkeypatch.setattr("quee_hf.build.quantization.load_float_model", lambda *_: pytest.fail("loaded"))

    @pytest.mark.parametrize(
        ("fields", "error", "message"),
        [
            ({"model": "/no/such/model"}, QuEEError, "`model`: /no/such/model does not exist."),
            ({"images": "/no/such/images"}, BadDatasetError, "`images`: /no/such/images does not exist."),
            ({"data": "/no/such.parquet"}, BadDatasetError, "`data`: /no/such.parquet does not exist."),
            ({"levels": (4, 8)}, ValueError, "`levels` must go from most to least exact"),
            ({"keep": {"4.fc2": 8}}, ValueError, "There are 3 blocks, but an exception names '4.fc2'."),
            ({"class_embeddings": "x"}, ValueError, "`class_embeddings` is for CLIP models"),
            ({"class_names": ("a",)}, ValueError, "1 class names, but the model has 4 classes."),
            ({"device": "toaster"}, ValueError, "`device`: 'toaster' cannot be used here."),
        ],
        ids=lambda value: str(value) if isinstance(value, dict) else "",
    )
    def test_plan_that_does_not_fit(self, root, tmp_path, fields, error, message):
        with pytest.raises(error) as caught:
            quantize_classifier(plan(root, **fields), tmp_path / "out")
        assert message in str(caught.value)
        assert not (tmp_path / "out").exists()

    def test_output_holds_files(self, root, tmp_path):
        (tmp_path / "photo.jpg").write_text("")
        with pytest.raises(QuEEError, match="holds files already; name a new or an empty directory"):
            quantize_classifier(plan(root), tmp_path)

    def test_output_is_a_file(self, root, tmp_path):
        (tmp_path / "file").write_text("")
        for output, message in (
            (tmp_path / "file", "is a file"),
            (tmp_path / "file" / "out", "is no directory"),
        ):
            with pytest.raises(QuEEError, match=message):
                quantize_classifier(plan(root), output)

    def test_classes_of_the_data_differ(self, root, tmp_path):
        data = write_images(tmp_path / "data", 12, 5, ("red", "green", "violet"))
        with pytest.raises(BadDatasetError, match="the dataset has 3"):
            quantize_classifier(plan(root, data=str(data)), tmp_path / "out")


def test_failure_leaves_nothing_behind(root, tmp_path, monkeypatch):
    def fail(*_):
        raise OSError("No space left")

    monkeypatch.setattr("quee_hf.build.quantization.plot_quantization", fail)
    with pytest.raises(OSError, match="No space left"):
        quantize_classifier(plan(root), tmp_path / "out", has_report=True)
    assert not list(tmp_path.iterdir())
