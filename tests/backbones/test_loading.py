"""Tests of opening a classifier: what is taken over, and what is refused and why."""

import math

import pytest
import torch
from safetensors.torch import save_file
from tests.tiny import (
    LOGIT_SCALE,
    NUM_LABELS,
    PROJECTION_SIZE,
    VARIANTS,
    Variant,
    class_embeddings,
    every_variant,
    images,
    wrap,
)
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    CLIPVisionModel,
    DeiTConfig,
    DeiTForImageClassificationWithTeacher,
    Dinov2Model,
    ViTConfig,
    ViTForImageClassification,
    ViTForMaskedImageModeling,
    ViTModel,
)

from quee_hf import QuEEForImageClassification, UnsupportedBackboneError
from quee_hf.backbones.loading import open_classifier

from_backbone = QuEEForImageClassification.from_backbone
EXITS = {"exit_blocks": [2, 4], "levels": ["fp32"]}


@pytest.fixture
def vit():
    return VARIANTS["vit"].build()


@pytest.fixture
def clip_vision():
    return VARIANTS["clip-vision"].build()


def save_embeddings(path, **tensors):
    save_file(tensors, path)
    return path


class TestFromADirectory:
    @every_variant
    def test_equals_the_loaded_model(self, variant: Variant, tmp_path):
        backbone = variant.build()
        backbone.save_pretrained(tmp_path)
        pixel_values = images(3, variant.image_size)
        assert torch.equal(
            wrap_directory(tmp_path, variant)(pixel_values).logits, wrap(backbone)(pixel_values).logits
        )

    def test_a_half_precision_file_is_loaded_in_float32(self, vit, tmp_path):
        vit.bfloat16().save_pretrained(tmp_path)
        model = from_backbone(tmp_path, **EXITS)
        assert {p.dtype for p in model.parameters()} == {torch.float32}

    def test_class_names_are_taken_over(self, vit, tmp_path):
        names = {i: f"animal {i}" for i in range(NUM_LABELS)}
        vit.config.id2label = names
        vit.save_pretrained(tmp_path)
        model = from_backbone(tmp_path, **EXITS)
        assert model.config.id2label == names
        assert model.config.label2id == {name: i for i, name in names.items()}
        assert model.num_labels == NUM_LABELS


def wrap_directory(path, variant):
    extra = {"class_embeddings": class_embeddings(), "logit_scale": LOGIT_SCALE} if variant.is_clip else {}
    return from_backbone(path, **EXITS, **extra)


class TestNoTrainedHead:
    """A head that transformers would make up at random must never pass for a trained one."""

    @pytest.mark.parametrize("headless", [ViTModel, Dinov2Model, ViTForMaskedImageModeling])
    def test_a_checkpoint_without_a_classifier_is_refused(self, headless, tmp_path):
        variant = VARIANTS["dinov2" if headless is Dinov2Model else "vit"]
        config = variant.make().config
        headless(config).save_pretrained(tmp_path)
        with pytest.raises(UnsupportedBackboneError, match="not a trained classifier: it lacks classifier"):
            from_backbone(tmp_path, **EXITS)

    def test_a_clip_tower_without_its_projection_is_refused(self, clip_vision, tmp_path):
        CLIPVisionModel(clip_vision.config).save_pretrained(tmp_path)
        with pytest.raises(UnsupportedBackboneError, match="it lacks visual_projection"):
            from_backbone(tmp_path, **EXITS, class_embeddings=class_embeddings())

    def test_a_distilled_deit_is_refused(self, tmp_path):
        config = VARIANTS["deit"].make().config
        DeiTForImageClassificationWithTeacher(config).save_pretrained(tmp_path)
        with pytest.raises(UnsupportedBackboneError, match="the one without a distillation head"):
            from_backbone(tmp_path, **EXITS)

    @pytest.mark.parametrize(
        "make",
        [
            lambda: ViTModel(ViTConfig(num_hidden_layers=1)),
            lambda: DeiTForImageClassificationWithTeacher(DeiTConfig(num_hidden_layers=1)),
            lambda: CLIPVisionModel(VARIANTS["clip-vision"].make().config),
        ],
    )
    def test_a_loaded_model_of_the_wrong_class_is_named(self, make):
        model = make()
        with pytest.raises(UnsupportedBackboneError, match=f"{type(model).__name__} is not supported"):
            from_backbone(model, **EXITS)

    def test_a_classifier_without_classes_is_refused(self):
        config = ViTConfig(**{**VARIANTS["vit"].make().config.to_dict(), "id2label": {}, "label2id": {}})
        with pytest.raises(UnsupportedBackboneError, match="no classification head"):
            from_backbone(ViTForImageClassification(config), **EXITS)


class TestOtherTypes:
    def test_a_directory_of_another_type_lists_what_is_supported(self, tmp_path):
        BertForSequenceClassification(
            BertConfig(
                hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8, vocab_size=9
            )
        ).save_pretrained(tmp_path)
        with pytest.raises(
            UnsupportedBackboneError, match=r"type 'bert'; supported are .*'clip'.*'dinov2'.*'vit'"
        ):
            from_backbone(tmp_path, **EXITS)

    def test_a_loaded_model_of_another_type_lists_what_is_supported(self):
        config = BertConfig(
            hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8, vocab_size=9
        )
        with pytest.raises(UnsupportedBackboneError, match="'bert' is not supported; supported are"):
            from_backbone(BertForSequenceClassification(config), **EXITS)

    def test_a_quee_model_is_not_wrapped_again(self, vit):
        with pytest.raises(UnsupportedBackboneError, match="'quee' is not supported"):
            from_backbone(wrap(vit), **EXITS)

    def test_a_missing_directory_is_an_os_error(self, tmp_path):
        with pytest.raises(OSError, match="nothing-here"):
            from_backbone(tmp_path / "nothing-here", **EXITS)


class TestClassEmbeddings:
    def test_a_file_equals_a_tensor(self, clip_vision, tmp_path):
        file = save_embeddings(
            tmp_path / "e.safetensors", class_embeddings=class_embeddings(), logit_scale=torch.tensor(2.0)
        )
        from_file, from_tensor = (
            open_classifier(clip_vision, file),
            open_classifier(clip_vision, class_embeddings(), 2.0),
        )
        assert torch.equal(from_file.class_embeddings, from_tensor.class_embeddings)
        assert from_file.logit_scale == pytest.approx(from_tensor.logit_scale, rel=1e-12)

    def test_are_normalised(self, clip_vision):
        embeddings = open_classifier(clip_vision, 7 * class_embeddings()).class_embeddings
        torch.testing.assert_close(embeddings.norm(dim=1), torch.ones(NUM_LABELS))
        assert torch.equal(embeddings, open_classifier(clip_vision, 14 * class_embeddings()).class_embeddings)

    def test_the_scale_comes_from_the_argument_then_the_file_then_the_model_then_clips_limit(
        self, clip_vision, tmp_path
    ):
        full = VARIANTS["clip"].build()
        plain = save_embeddings(tmp_path / "plain.safetensors", class_embeddings=class_embeddings())
        scaled = save_embeddings(
            tmp_path / "scaled.safetensors",
            class_embeddings=class_embeddings(),
            logit_scale=torch.tensor(2.0),
        )

        def scale(model, embeddings, argument=None):
            return math.log(open_classifier(model, embeddings, argument).logit_scale)

        assert scale(full, scaled, 1.0) == pytest.approx(1.0)
        assert scale(full, scaled) == pytest.approx(2.0)
        assert scale(clip_vision, scaled) == pytest.approx(2.0)
        assert scale(full, plain) == pytest.approx(LOGIT_SCALE)
        assert scale(clip_vision, plain) == pytest.approx(math.log(100), abs=1e-4)

    def test_the_models_own_scale_and_projection_are_found_in_its_directory_too(self, tmp_path):
        full = VARIANTS["clip"].build()
        full.save_pretrained(tmp_path)
        source = open_classifier(tmp_path, class_embeddings())
        assert source.logit_scale == pytest.approx(math.exp(LOGIT_SCALE))
        assert source.config.projection_dim == PROJECTION_SIZE != full.config.vision_config.projection_dim

    def test_logits_follow_the_given_scale(self, clip_vision):
        one, two = (
            from_backbone(clip_vision, class_embeddings=class_embeddings(), logit_scale=scale, **EXITS)
            for scale in (0.0, math.log(2.0))
        )
        pixel_values = images(2, 30)
        torch.testing.assert_close(two(pixel_values).logits, 2 * one(pixel_values).logits)

    def test_are_needed_for_clip(self, clip_vision):
        with pytest.raises(ValueError, match=r"A CLIP model needs `class_embeddings`.*\(classes, size\)"):
            from_backbone(clip_vision, **EXITS)

    @pytest.mark.parametrize("extra", [{"class_embeddings": class_embeddings()}, {"logit_scale": 1.0}])
    def test_are_refused_for_a_classifier(self, vit, extra):
        with pytest.raises(ValueError, match="for CLIP models; ViTForImageClassification has a classifier"):
            from_backbone(vit, **EXITS, **extra)

    @pytest.mark.parametrize(
        "wrong",
        [
            torch.ones(NUM_LABELS, PROJECTION_SIZE + 1),
            torch.ones(PROJECTION_SIZE),
            torch.full((NUM_LABELS, PROJECTION_SIZE), torch.nan),
        ],
        ids=["size", "dimensions", "nan"],
    )
    def test_of_a_wrong_shape_or_not_finite_are_refused(self, clip_vision, wrong):
        with pytest.raises(
            ValueError, match=rf"must be finite and of shape \(classes, {PROJECTION_SIZE}\), got"
        ):
            from_backbone(clip_vision, class_embeddings=wrong, **EXITS)

    def test_a_missing_file_or_tensor_is_named(self, clip_vision, tmp_path):
        with pytest.raises(ValueError, match=r"absent\.safetensors is not a file"):
            from_backbone(clip_vision, class_embeddings=tmp_path / "absent.safetensors", **EXITS)
        file = save_embeddings(tmp_path / "other.safetensors", embeddings=class_embeddings())
        with pytest.raises(ValueError, match=r"no tensor 'class_embeddings', only \['embeddings'\]"):
            from_backbone(clip_vision, class_embeddings=file, **EXITS)

    def test_the_callers_objects_are_not_changed(self, clip_vision):
        embeddings = class_embeddings()
        before, config = embeddings.clone(), clip_vision.config.to_dict()
        from_backbone(clip_vision, class_embeddings=embeddings, **EXITS)
        assert torch.equal(embeddings, before)
        assert clip_vision.config.to_dict() == config


class TestLabels:
    def test_names_can_be_given(self, vit):
        names = {i: f"n{i}" for i in range(NUM_LABELS)}
        assert from_backbone(vit, id2label=names, **EXITS).config.id2label == names

    @pytest.mark.parametrize("names", [{0: "a"}, {i + 1: "x" for i in range(NUM_LABELS)}, {}])
    def test_names_must_fit_the_classes(self, vit, names):
        with pytest.raises(ValueError, match=r"`id2label` must name classes 0 to 4, got \d names"):
            from_backbone(vit, id2label=names, **EXITS)

    def test_clip_counts_the_embeddings(self, clip_vision):
        model = from_backbone(clip_vision, class_embeddings=class_embeddings(7), **EXITS)
        assert model(images(2, 30)).logits.shape == (2, 7)
        assert len(model.config.id2label) == 7


def test_a_config_error_comes_before_any_work(vit):
    with pytest.raises(Exception, match="must end at the backbone's last block, 4"):
        from_backbone(vit, exit_blocks=[2, 3])
    with pytest.raises(ValueError, match="has no field"):
        from_backbone(vit, exit_layers=[2, 4])


@pytest.mark.parametrize(
    ("folder", "size"), [("dinov2-small-cifar10-70px", 10), ("clip-vit-small-tinyimagenet-70px", 200)]
)
def test_the_real_models_give_their_own_logits(assets, folder, size):
    """On photographs; the reference is the stock class, in float64 like ours."""
    from datasets import load_dataset
    from transformers import (
        AutoImageProcessor,
        AutoModelForImageClassification,
        CLIPVisionModelWithProjection,
    )

    source = assets / "models" / folder
    photos = load_dataset("parquet", data_files=str(assets / "photos.parquet"), split="train[:4]")
    processor = AutoImageProcessor.from_pretrained(source, backend="pil")
    pixel_values = processor([row["image"].convert("RGB") for row in photos], return_tensors="pt")[
        "pixel_values"
    ]
    extra = {}
    if folder.startswith("clip"):
        extra["class_embeddings"] = source / "class_embeddings.safetensors"
        stock = CLIPVisionModelWithProjection.from_pretrained(source, dtype=torch.float64).eval()
    else:
        stock = AutoModelForImageClassification.from_pretrained(source, dtype=torch.float64).eval()
    model = from_backbone(source, exit_blocks=[4, 12], levels=["fp32"], **extra)
    with torch.inference_mode():
        logits = model.double()(pixel_values.double()).logits
        if extra:
            scale = model.config.logit_scale
            features = stock(pixel_values.double()).image_embeds
            expected = (
                scale * torch.nn.functional.normalize(features, dim=-1) @ model.class_embeddings.double().T
            )
            atol = (
                scale * 2**-20
            )  # cosines are sums of 384 products in float32; errors add like a random walk
        else:
            expected, atol = stock(pixel_values.double()).logits, 0.0
    assert logits.shape == (4, size)
    torch.testing.assert_close(logits.double(), expected, rtol=2**-23, atol=atol)
    assert torch.equal(logits.argmax(dim=1), expected.argmax(dim=1))


@every_variant
def test_wrapping_leaves_the_models_config_as_it_was(variant):
    backbone = variant.build()
    before = (backbone.config.to_dict(), backbone.config._attn_implementation)
    wrap(backbone)
    assert (backbone.config.to_dict(), backbone.config._attn_implementation) == before
