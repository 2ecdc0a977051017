"""Tests of `quee_hf.certify`: what is found, what is kept, and what a pipeline does with it."""

import tempfile
from dataclasses import replace

import pytest
import torch
from PIL import Image
from tests.tiny import NUM_LABELS, generator, routable
from torch.utils.data import Subset
from transformers import ViTImageProcessorPil

from quee_hf import (
    BadDatasetError,
    GateTrainer,
    NotReadyError,
    QuEEForImageClassification,
    certify,
    recommended_arguments,
)
from quee_hf.certificates import certified_lambda, fingerprint_of_model, keep_certificates
from quee_hf.certification import LAMBDAS
from quee_hf.data import LabelledImages
from quee_hf.data.roles import describe_roles
from quee_hf.execution.path_outputs import PathOutputs, collect_path_outputs

PROCESSOR = ViTImageProcessorPil(size={"height": 32, "width": 32})
FIELDS = {"max_accuracy_drop": 0.05, "confidence": 0.95}


@pytest.fixture(scope="module")
def trained():
    return routable()


@pytest.fixture
def model(trained):
    trained.config.certificates = trained.config.record = None
    return trained


def outputs_of(model, count, right=1.0, seed=0):
    """Return outputs of a network whose paths are each right with a probability."""
    random = generator(seed)
    labels = torch.randint(NUM_LABELS, (count,), generator=random)
    shape = count, len(model.paths)
    is_right = torch.rand(shape, generator=random) < torch.as_tensor(right)
    chosen = torch.where(is_right, labels[:, None], (labels[:, None] + 1) % NUM_LABELS)
    logits = torch.nn.functional.one_hot(chosen, NUM_LABELS).float() * 5
    return PathOutputs(logits, torch.rand(shape, generator=random), labels)


def items(count):
    return [
        {"pixel_values": torch.randn(3, 32, 32, generator=generator(i)), "labels": i % NUM_LABELS}
        for i in range(count)
    ]


def shades(model, count):
    """Return images of one colour each, which the whole network gets right."""
    colours = [(17 * number % 256, 5 * number % 256, number // 256) for number in range(count)]
    images = LabelledImages.from_images([Image.new("RGB", (4, 4), each) for each in colours], [0] * count)
    outputs = collect_path_outputs(model.network, images.with_processor(PROCESSOR))
    full = model.paths.index((0,) * model.config.num_exits)
    return replace(images, labels=outputs.logits[:, full].argmax(dim=-1).numpy())


class TestCertify:
    def test_where_early_exits_lose_nothing_the_cheapest_is_certified(self, model):
        found = certify(model, outputs_of(model, 400), **FIELDS)
        assert found.images_needed is None
        certificate = found.certificate
        assert certificate["cost_lambda"] == LAMBDAS[-1]
        assert certificate["observed"] == 0
        assert (certificate["num_images"], found.num_images) == (400, 400)
        assert certificate["engine"] == "torch"
        assert model.config.certificates == [certificate]

    def test_where_all_but_the_whole_network_lose_nothing_is_certified(self, model):
        right = torch.full((len(model.paths),), 0.5)
        right[model.paths.index((0,) * model.config.num_exits)] = 1.0
        found = certify(model, outputs_of(model, 400, right), **FIELDS)
        assert (found.certificate, found.images_needed) == (None, None)
        assert model.config.certificates is None

    def test_too_few_images_say_how_many_would_do(self, model):
        found = certify(model, outputs_of(model, 20), **FIELDS)
        assert found.certificate is None
        assert 20 < found.images_needed < 200
        again = certify(model, outputs_of(model, found.images_needed), **FIELDS)
        assert again.certificate is not None

    def test_images_are_run_if_they_are_no_outputs(self, model):
        found = certify(model, items(6), promise="consistency", **FIELDS)
        assert found.num_images == 6
        assert found.certificate is None

    def test_consistency_needs_no_labels(self, model):
        outputs = outputs_of(model, 400)
        outputs = PathOutputs(outputs.logits, outputs.variance, torch.full_like(outputs.labels, -1))
        certificate = certify(model, outputs, promise="consistency", **FIELDS).certificate
        assert (certificate["promise"], certificate["full_accuracy"]) == ("consistency", None)
        unlabelled = [{"pixel_values": each["pixel_values"]} for each in items(6)]
        assert certify(model, unlabelled, promise="consistency", **FIELDS).num_images == 6
        with pytest.raises(ValueError, match=r"must have 'labels', these have \['pixel_values'\]"):
            certify(model, unlabelled, **FIELDS)

    @pytest.mark.parametrize("wrong", [-1, NUM_LABELS, 99])
    def test_labels_that_are_no_classes_are_refused(self, model, wrong):
        outputs = outputs_of(model, 400)
        outputs.labels[7] = wrong
        with pytest.raises(BadDatasetError, match=f"1 of 400 labels are not one of 0 to .* such as {wrong}"):
            certify(model, outputs, **FIELDS)

    def test_labels_of_other_classes_are_warned_of(self, model):
        outputs = outputs_of(model, 400)
        shifted = PathOutputs(outputs.logits, outputs.variance, (outputs.labels + 1) % NUM_LABELS)
        with pytest.warns(UserWarning, match="right on 0.00% of the images, no more than by chance"):
            certificate = certify(model, shifted, **FIELDS).certificate
        assert certificate["full_accuracy"] == 0

    def test_outputs_that_are_no_numbers_are_refused(self, model):
        outputs = outputs_of(model, 400)
        outputs.logits[3, 0, 0] = torch.nan
        for promise in ("accuracy", "consistency"):
            with pytest.raises(ValueError, match="NaN or infinity of 1 of 400 images"):
                certify(model, outputs, promise=promise, **FIELDS)

    def test_images_that_made_the_model_are_refused_and_those_that_certified_are_remembered(self, model):
        images = shades(model, 400)
        used, unused = images.select(range(4)), images.select(range(4, 400))
        model.config.record = {"roles": describe_roles("used", {"head training": used})}
        with pytest.raises(BadDatasetError, match=r"made with \(head training\)"):
            certify(model, images.with_processor(PROCESSOR), **FIELDS)
        few = certify(model, unused.select(range(4)).with_processor(PROCESSOR), **FIELDS)
        assert (few.num_images, few.certificate) == (4, None)
        assert [role["role"] for role in model.config.record["roles"]] == ["head training"]
        found = certify(model, unused.with_processor(PROCESSOR), max_accuracy_drop=0.99)
        assert found.num_images == 396
        assert [role["role"] for role in model.config.record["roles"]] == ["head training", "certification"]

    def test_images_that_trained_in_python_are_refused(self):
        model = routable()
        images = shades(model, 12).with_processor(PROCESSOR)
        train, held_out, unseen = (Subset(images, range(start, start + 4)) for start in (0, 4, 8))
        arguments = recommended_arguments(tempfile.mkdtemp(), num_train_epochs=1, disable_tqdm=True)
        GateTrainer(model, arguments, train_dataset=train, eval_dataset=held_out).train()
        assert [role["role"] for role in model.config.record["roles"]] == [
            "gate training",
            "gate early stopping",
        ]
        for used in (train, held_out, images):
            with pytest.raises(BadDatasetError, match=r"made with \(gate "):
                certify(model, used, promise="consistency", **FIELDS)
        assert certify(model, unseen, promise="consistency", **FIELDS).num_images == 4

    def test_what_cannot_be_told_is_said(self, model, caplog):
        certify(model, items(4), promise="consistency", **FIELDS)
        assert "are there twice, or made the model" in caplog.text
        certify(model, shades(model, 4).with_processor(PROCESSOR), promise="consistency", **FIELDS)
        assert "does not say which images did" in caplog.text

    def test_labels_must_be_whole_numbers(self, model):
        wrong = [{**each, "labels": each["labels"] + 0.4} for each in items(3)]
        with pytest.raises(ValueError, match=r"Labels must be whole numbers, got torch.float"):
            certify(model, wrong, **FIELDS)

    def test_weights_that_an_engine_alone_has_cannot_be_compared(self):
        model = routable()
        certify(model, outputs_of(model, 400), **FIELDS)
        model.config.certificates[0]["engine"] = "onnxruntime"
        model.set_engine("onnxruntime", keep_weights=False)
        with pytest.warns(UserWarning, match="weights that an engine alone has"):
            certified_lambda(model, 0.05)

    def test_an_image_counts_once(self, model):
        images = shades(model, 4)
        repeated = images.select([*range(4), *range(4), 2]).with_processor(PROCESSOR)
        found = certify(model, repeated, promise="consistency", **FIELDS)
        assert (found.num_images, found.certificate) == (4, None)

    def test_certificates_of_less_confidence_do_not_count(self, model):
        certify(model, outputs_of(model, 400), max_accuracy_drop=0.05, confidence=0.5)
        with pytest.raises(ValueError, match="certified with 95% confidence are: none"):
            certified_lambda(model, 0.05)

    def test_one_promise_has_one_certificate(self, model):
        for count in (400, 500):
            certify(model, outputs_of(model, count), **FIELDS)
        certify(model, outputs_of(model, 400), max_accuracy_drop=0.03)
        held = [(each["max_accuracy_drop"], each["num_images"]) for each in model.config.certificates]
        assert held == [(0.03, 400), (0.05, 500)]

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"max_accuracy_drop": 1.0}, "above -1 and below 1 .* got 1.0"),
            ({"max_accuracy_drop": float("nan")}, "got nan"),
            ({"max_accuracy_drop": "0.1"}, "got '0.1'"),
            ({"max_accuracy_drop": 0.0, "method": "hoeffding_bentkus"}, "above 0"),
            ({"max_accuracy_drop": -0.1, "promise": "consistency"}, "above 0"),
            ({"confidence": 1.0}, "`confidence` must be above 0 and below 1, got 1.0"),
            ({"promise": "speed"}, "`promise` must be one of"),
            ({"method": "hope"}, "`method` must be one of"),
        ],
    )
    def test_bad_arguments_are_refused_before_anything_runs(self, model, arguments, message):
        with pytest.raises(ValueError, match=message):
            certify(model, None, **arguments)

    def test_gates_must_be_trained(self):
        model = routable()
        model.config.trained_parts = ["heads"]
        with pytest.raises(NotReadyError, match="gates are not trained"):
            certify(model, outputs_of(model, 10))


class TestKeeping:
    def test_survives_a_file_and_is_in_the_card(self, model, tmp_path):
        certify(model, outputs_of(model, 400), **FIELDS)
        model.save_pretrained(tmp_path)
        again = QuEEForImageClassification.from_pretrained(tmp_path)
        assert again.config.certificates == model.config.certificates
        assert certified_lambda(again, 0.05) == LAMBDAS[-1]
        assert "## What it promises" in (tmp_path / "README.md").read_text()

    def test_a_change_of_costs_forgets_it(self):
        model = routable()
        certify(model, outputs_of(model, 400), **FIELDS)
        model.set_cost_model("flops")
        assert model.config.certificates is None


class TestCertifiedLambda:
    @pytest.fixture
    def certified(self, model):
        certify(model, outputs_of(model, 400), **FIELDS)
        return model

    def test_a_wider_limit_is_covered_a_narrower_one_is_not(self, certified):
        assert certified_lambda(certified, 0.06) == LAMBDAS[-1]
        with pytest.raises(
            ValueError, match=r"No certificate covers .* 0.04; certified with 95% confidence are: 0.05"
        ):
            certified_lambda(certified, 0.04)

    def test_what_changed_is_warned_of(self):
        model = routable()
        certify(model, outputs_of(model, 400), **FIELDS)
        (certificate,) = model.config.certificates
        certificate["engine"] = "openvino"
        with pytest.warns(UserWarning, match="made with the engine 'openvino'"):
            certified_lambda(model, 0.05)
        certificate["engine"] = "torch"
        with torch.no_grad():
            next(model.heads.parameters()).add_(1.0)
        with pytest.warns(UserWarning, match="other weights or settings"):
            certified_lambda(model, 0.05)

    @pytest.mark.parametrize(
        "change",
        [
            lambda config: setattr(config.backbone, "layer_norm_eps", 0.1),
            lambda config: setattr(config.backbone, "hidden_act", "relu"),
            lambda config: setattr(config, "max_paths", 3),
            lambda config: setattr(config, "monotone_levels", not config.monotone_levels),
        ],
    )
    def test_changed_settings_are_warned_of(self, change):
        model = routable()
        certify(model, outputs_of(model, 400), **FIELDS)
        change(model.config)
        with pytest.warns(UserWarning, match="other weights or settings"):
            certified_lambda(model, 0.05)

    def test_another_way_to_prepare_images_is_warned_of(self):
        model = routable()
        certify(model, shades(model, 400).with_processor(PROCESSOR), max_accuracy_drop=0.99)
        certified_lambda(model, 0.99)  # not known
        certified_lambda(model, 0.99, ViTImageProcessorPil(size={"height": 32, "width": 32}))
        with pytest.warns(UserWarning, match="images that were prepared in another way"):
            certified_lambda(
                model, 0.99, ViTImageProcessorPil(size={"height": 32, "width": 32}, do_rescale=False)
            )

    def test_what_is_promised_decides_not_what_it_costs(self, model):
        certify(model, outputs_of(model, 400), max_accuracy_drop=0.05)
        (first,) = model.config.certificates
        others = [
            {**first, "cost_lambda": 0.1, "method": "hoeffding_bentkus", "cost": 0.01},
            {**first, "cost_lambda": 0.2, "promise": "consistency", "cost": 0.01},
            {**first, "cost_lambda": 0.3, "max_accuracy_drop": 0.04, "cost": 0.01},
            {**first, "cost_lambda": 0.4, "engine": "openvino", "cost": 0.01},
        ]
        keep_certificates(model.config, others)
        assert len(model.config.certificates) == 5
        assert certified_lambda(model, 0.05) == first["cost_lambda"]
        model.config.certificates.remove(first)
        assert certified_lambda(model, 0.05) == 0.1

    def test_weights_are_told_by_every_number(self, model):
        before = fingerprint_of_model(model)
        assert before == fingerprint_of_model(model)
        parameter = model.trunk.norm.weight
        with torch.no_grad():
            parameter[0].add_(1e-3)
            after = fingerprint_of_model(model)
            parameter[0].sub_(1e-3)
        assert after != before
