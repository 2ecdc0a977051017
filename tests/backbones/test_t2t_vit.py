"""Tests of T2T-ViT: against loops written from the papers, against published sizes, and as a model of transformers."""

import subprocess

import numpy as np
import pytest
import torch
from tests.official_t2t_vit import official_weights, write_checkpoint
from tests.reference.t2t_vit import positions, t2t_vit_logits
from tests.tiny import VARIANTS, images, mixed_lambdas, routable
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoConfig, AutoImageProcessor, AutoModel, AutoModelForImageClassification

from quee_hf import (
    IncompatibleCheckpointError,
    QuEEForImageClassification,
    T2TViTConfig,
    T2TViTForImageClassification,
    T2TViTModel,
    load_t2t_vit_checkpoint,
    t2t_vit_image_processor,
)
from quee_hf.backbones.t2t_vit.configuration import T2T_VIT_SIZES
from quee_hf.backbones.t2t_vit.embeddings import sinusoids
from quee_hf.backbones.t2t_vit.soft_split import token_grids
from quee_hf.blueprint import num_tokens
from quee_hf.execution.engines import ENGINES, REFERENCE

TINY = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
TINY |= {"token_size": 8, "num_random_features": 4, "image_size": 32, "num_labels": 5}
HEADS = 2  # 16 wide, where nobody is told otherwise they are 64


@pytest.fixture(params=["performer", "transformer"])
def weights(request):
    return official_weights(attention=request.param)


@pytest.fixture
def checkpoint(weights, tmp_path):
    return write_checkpoint(tmp_path / "t2t.pth.tar", weights)


def arrays(weights):
    return {name: tensor.numpy() for name, tensor in weights.items()}


class TestAgainstTheReference:
    def test_logits(self, weights, checkpoint):
        model = load_t2t_vit_checkpoint(checkpoint, num_attention_heads=HEADS)
        pixel_values = images(3, 32)
        with torch.inference_mode():
            found = model(pixel_values).logits
            exact = model.double()(pixel_values.double()).logits
        logits = [t2t_vit_logits(image.numpy(), arrays(weights), HEADS) for image in pixel_values]
        expected = torch.from_numpy(np.stack(logits))
        assert expected.std(dim=0).mean() > 0.1  # a comparison of constants would prove nothing
        assert (found.double() - expected).abs().max() < 1e-5
        assert (exact - expected).abs().max() < 1e-10  # float64 keeps 16 digits; sums of some hundred terms

    def test_logits_of_the_smallest_published_size(self, tmp_path):
        """T2T-ViT-7 on an image of 64 pixels."""
        weights = official_weights(hidden_size=256, num_blocks=7, token_size=64, grid=4, num_labels=10)
        model = load_t2t_vit_checkpoint(write_checkpoint(tmp_path / "7.pth.tar", weights))
        size = T2TViTConfig.of_size("t2t_vit_7", image_size=64, num_labels=10)
        assert {**model.config.to_dict(), "architectures": None} == {**size.to_dict(), "architectures": None}
        pixel_values = images(1, 64)
        with torch.inference_mode():
            found = model(pixel_values).logits
        expected = torch.from_numpy(t2t_vit_logits(pixel_values[0].numpy(), arrays(weights), num_heads=4))
        assert (found[0].double() - expected).abs().max() < 1e-5

    def test_positions(self):
        found = sinusoids(17, 33)
        assert found.dtype == torch.float32
        torch.testing.assert_close(found.double(), torch.from_numpy(positions(17, 33)), rtol=0, atol=2**-24)


class TestCheckpoint:
    def test_what_is_averaged_is_preferred_and_plain_weights_are_read_too(
        self, weights, checkpoint, tmp_path
    ):
        averaged = load_t2t_vit_checkpoint(checkpoint, num_attention_heads=HEADS).state_dict()
        torch.save(weights, tmp_path / "plain.pth")
        torch.save({"state_dict": weights}, tmp_path / "training.pth")
        for name in ("plain.pth", "training.pth"):
            plain = load_t2t_vit_checkpoint(tmp_path / name, num_attention_heads=HEADS).state_dict()
            assert all(torch.equal(tensor, averaged[key]) for key, tensor in plain.items())
        assert averaged["classifier.weight"].abs().sum() > 0

    def test_the_whole_way_to_a_model_that_routes(self, checkpoint, tmp_path):
        """Nothing is executed: the pickle machinery of other classes is never reached."""
        model = load_t2t_vit_checkpoint(
            checkpoint, num_attention_heads=HEADS, id2label={n: f"n{n}" for n in range(5)}
        )
        model.save_pretrained(tmp_path / "model")
        t2t_vit_image_processor(32).save_pretrained(tmp_path / "model")
        routed = QuEEForImageClassification.from_backbone(
            tmp_path / "model", exit_blocks=[1, 2], levels=["fp32"]
        )
        assert routed.config.class_names == ["n0", "n1", "n2", "n3", "n4"]
        processor = AutoImageProcessor.from_pretrained(tmp_path / "model", backend="pil")
        assert processor.crop_size.height == 32
        assert processor.size.shortest_edge == 35  # a crop of 0.9, rounded down
        pixel_values = images(3, 32)
        with torch.inference_mode():
            assert torch.allclose(routed(pixel_values).logits, model(pixel_values).logits, atol=1e-5)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (lambda w: w.pop("head.weight"), "it lacks head.weight"),
            (lambda w: w.update({"blocks.1.attn.qkv.weight": torch.tensor(1.0)}), "qkv.weight is one number"),
            (lambda w: w.pop("blocks.1.norm2.bias"), "it lacks t2t_vit.layers.1.layernorm_after.bias"),
            (lambda w: w.update({"blocks.0.se.fc.weight": torch.ones(1)}), "it holds blocks.0.se.fc.weight"),
            (
                lambda w: w.update({"blocks.0.mlp.fc2.bias": torch.ones(3)}),
                r"of shape \(3,\) instead of \(32,\)",
            ),
            (
                lambda w: w.update({"head.bias": torch.full((5,), torch.nan)}),
                "NaN or infinity in classifier.bias",
            ),
            (lambda w: w.update({"pos_embed": torch.ones(1, 4, 32)}), "position_embeddings of shape"),
        ],
    )
    def test_what_does_not_fit_is_named(self, change, message, tmp_path):
        weights = official_weights()
        change(weights)
        path = write_checkpoint(tmp_path / "t2t.pth.tar", weights)
        with pytest.raises(IncompatibleCheckpointError, match=message):
            load_t2t_vit_checkpoint(path, num_attention_heads=HEADS)

    def test_other_files_are_refused(self, tmp_path):
        (tmp_path / "text.pth").write_text("nothing")
        torch.save([1, 2], tmp_path / "list.pth")
        torch.save({"model": subprocess.Popen}, tmp_path / "code.pth")
        for name in ("text.pth", "list.pth", "code.pth"):
            with pytest.raises(IncompatibleCheckpointError, match=name):
                load_t2t_vit_checkpoint(tmp_path / name)
        with pytest.raises(ValueError, match="absent.pth is not a file"):
            load_t2t_vit_checkpoint(tmp_path / "absent.pth")

    def test_heads_and_names_must_fit(self, checkpoint):
        for heads in (0, 3, None):  # None: 64 wide, but the whole is 32
            with pytest.raises(ValueError, match="`num_attention_heads` must divide 32"):
                load_t2t_vit_checkpoint(checkpoint, num_attention_heads=heads)
        with pytest.raises(ValueError, match="must name classes 0 to 4, got 1 names"):
            load_t2t_vit_checkpoint(checkpoint, num_attention_heads=HEADS, id2label={0: "a"})


# The README of github.com/yitu-opensource/T2T-ViT at 0f63dc9: millions of weights, frozen ones included, and 10^9
# multiply-accumulate operations on an image of 224 pixels. It gives one decimal.
PUBLISHED = {
    "t2t_vit_7": (4.3, 1.1),
    "t2t_vit_10": (5.9, 1.5),
    "t2t_vit_12": (6.9, 1.8),
    "t2t_vit_14": (21.5, 4.8),
    "t2t_vit_19": (39.2, 8.5),
    "t2t_vit_24": (64.1, 13.8),
    "t2t_vit_t_14": (21.5, 6.1),
    "t2t_vit_t_19": (39.2, 9.8),
    "t2t_vit_t_24": (64.1, 15.0),
}
# Measured by others with four digits (github.com/huggingface/pytorch-image-models/pull/2426): millions of weights that
# are trained, and 10^9 operations of linear layers alone.
MEASURED = {
    "t2t_vit_7": (4.2557, 0.9755),
    "t2t_vit_10": (5.8347, 1.2854),
    "t2t_vit_12": (6.8874, 1.492),
    "t2t_vit_14": (21.4658, 4.334),
    "t2t_vit_19": (39.0851, 7.7868),
    "t2t_vit_24": (64.0010, 12.6759),
    "t2t_vit_t_14": (21.4654, 4.334),
    "t2t_vit_t_19": (39.0847, 7.7868),
    "t2t_vit_t_24": (64.0006, 12.6759),
}


def counts(name):
    """Return trained weights, all weights, operations of linear layers, and all operations, of a published size."""
    linear = []
    with torch.device("meta"):
        model = T2TViTForImageClassification(T2TViTConfig.of_size(name, num_labels=1000)).eval()
        for module in model.modules():
            if isinstance(module, torch.nn.Linear):
                module.register_forward_hook(
                    lambda layer, given, _: linear.append(given[0].numel() * layer.out_features)
                )
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            model(torch.empty(1, 3, 224, 224))
    trained = sum(parameter.numel() for parameter in model.parameters())
    frozen = sum(buffer.numel() for buffer in model.buffers())
    return trained, trained + frozen, sum(linear), counter.get_total_flops() // 2


@pytest.mark.parametrize("name", T2T_VIT_SIZES)
def test_weights_and_operations_are_those_published(name):
    trained, weights, linear, macs = counts(name)
    millions, billions = PUBLISHED[name]
    assert weights / 1e6 == pytest.approx(millions, rel=0.01)
    # 1.1 stands for anything from 1.05 to 1.15: one percent beside the nearest of these.
    nearest = min(max(macs / 1e9, billions - 0.05), billions + 0.05)
    assert macs / 1e9 == pytest.approx(nearest, rel=0.01)
    millions, billions = MEASURED[name]
    assert trained / 1e6 == pytest.approx(millions, rel=1e-3)
    assert linear / 1e9 == pytest.approx(billions, rel=1e-3)


class TestConfig:
    def test_sizes_are_found_by_name(self):
        config = T2TViTConfig.of_size("t2t_vit_t_19", image_size=64, num_labels=7)
        assert (config.hidden_size, config.num_attention_heads, config.token_attention) == (448, 7, "softmax")
        assert (config.image_size, config.num_labels) == (64, 7)
        with pytest.raises(ValueError, match="one of .*'t2t_vit_7'.*, got 't2t_vit_8'"):
            T2TViTConfig.of_size("t2t_vit_8")

    @pytest.mark.parametrize(
        ("fields", "message"),
        [
            (
                {"token_attention": "convolution"},
                r"must be one of \['performer', 'softmax'\], got 'convolution'",
            ),
            ({"num_attention_heads": 3}, "`num_attention_heads` must divide 256, got 3"),
            ({"num_attention_heads": 0}, "`num_attention_heads` must divide 256, got 0"),
            ({"image_size": 2}, "at least 3 pixels, got 2"),
            ({"image_size": [64]}, r"got \[64\]"),
            ({"token_size": 0}, "`token_size` must be at least 1, got 0"),
        ],
    )
    def test_what_cannot_be_is_refused(self, fields, message):
        with pytest.raises(Exception, match=message):
            T2TViTConfig(**fields)

    @pytest.mark.parametrize("size", [(224, 224), (64, 96), (65, 70), (3, 3)])
    def test_tokens_are_as_many_as_are_counted(self, size):
        config = T2TViTConfig(**{**TINY, "image_size": list(size)})
        with torch.inference_mode():
            hidden = T2TViTModel(config).eval()(torch.zeros(1, 3, *size)).last_hidden_state
        rows, columns = token_grids(*size)[-1]
        assert config.num_patches == rows * columns == hidden.shape[1] - 1


@pytest.mark.parametrize(("size", "count"), [(32, 4), (40, 9), (64, 16), ([64, 40], 12)])
def test_a_wrapped_model_counts_windows_not_patches(size, count):
    """Of 40 pixels, 10, 5 and 3 windows are left, though 40 holds 16 but twice."""
    model = T2TViTForImageClassification(T2TViTConfig(**{**TINY, "image_size": size})).eval()
    wrapped = QuEEForImageClassification.from_backbone(model, exit_blocks=[1, 2], levels=["fp32"])
    assert num_tokens(wrapped.config) == count + 1
    assert wrapped.embed(torch.zeros(1, 3, *model.config.image_sides)).shape[1] == count + 1


@pytest.mark.parametrize("attention", ["performer", "softmax"])
class TestModel:
    def make(self, attention):
        torch.manual_seed(0)
        return T2TViTForImageClassification(T2TViTConfig(**TINY, token_attention=attention)).eval()

    def test_saved_and_loaded_by_the_auto_classes_it_is_the_same(self, attention, tmp_path):
        model = self.make(attention)
        model.save_pretrained(tmp_path)
        loaded = AutoModelForImageClassification.from_pretrained(tmp_path)
        assert type(loaded) is T2TViTForImageClassification
        assert type(AutoModel.from_pretrained(tmp_path)) is T2TViTModel
        assert AutoConfig.from_pretrained(tmp_path).token_attention == attention
        for (name, ours), (other, theirs) in zip(
            model.state_dict().items(), loaded.state_dict().items(), strict=True
        ):
            assert name == other
            assert torch.equal(ours, theirs)
        pixel_values = images(2, 32)
        with torch.inference_mode():
            assert torch.equal(model(pixel_values).logits, loaded(pixel_values).logits)

    def test_new_models_are_initialised(self, attention):
        model = self.make(attention)
        embeddings = model.t2t_vit.embeddings
        assert torch.equal(embeddings.position_embeddings[0], sinusoids(5, 32))
        assert embeddings.cls_token.std() > 0
        if attention == "performer":
            rows = embeddings.stages[1].attention.random_features
            torch.testing.assert_close(rows @ rows.T, 4 * torch.eye(4))  # orthogonal, of length 2

    def test_all_that_is_trained_gets_a_gradient_and_the_rest_stays(self, attention):
        model = self.make(attention).train()
        frozen = {name: buffer.clone() for name, buffer in model.named_buffers()}
        assert any("position" in name for name in frozen)
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        model(images(4, 32), labels=torch.arange(4)).loss.backward()
        assert all(parameter.grad.abs().sum() > 0 for parameter in model.parameters())
        optimizer.step()
        assert all(torch.equal(buffer, frozen[name]) for name, buffer in model.named_buffers())

    def test_hidden_states_and_attentions_are_returned_on_request(self, attention):
        model = self.make(attention)
        model.set_attn_implementation("eager")
        with torch.inference_mode():
            output = model(images(2, 32), output_hidden_states=True, output_attentions=True)
        assert [tuple(state.shape) for state in output.hidden_states] == [(2, 5, 32)] * 3
        assert [tuple(state.shape) for state in output.attentions] == [(2, 2, 5, 5)] * 2

    def test_images_of_another_size_are_refused(self, attention):
        with pytest.raises(ValueError, match=r"of shape \(3, 32, 32\), channels first, got \(3, 32, 48\)"):
            self.make(attention)(torch.zeros(1, 3, 32, 48))

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
    def test_half_precision_is_near(self, attention, dtype):
        model, pixel_values = self.make(attention), images(2, 32)
        with torch.inference_mode():
            expected = model(pixel_values).logits
            found = model.to(dtype)(pixel_values).logits
        assert found.dtype == dtype
        # Eight or eleven bits of a float, through two stages and two blocks.
        assert (found.float() - expected).norm() < 0.05 * expected.norm()


@pytest.mark.parametrize("variant", ["t2t-vit", "t2t-vit-softmax"])
@pytest.mark.parametrize("engine", [name for name in ENGINES if name != REFERENCE])
def test_every_engine_routes_as_the_models_own_modules_do(engine, variant):
    model, pixel_values = routable(VARIANTS[variant]).eval(), images(16)
    with torch.inference_mode():
        expected = model(pixel_values, cost_lambda=mixed_lambdas(16))
        model.set_engine(engine)
        found = model(pixel_values, cost_lambda=mixed_lambdas(16))
    assert len(expected.path.unique(dim=0)) >= 3
    assert torch.equal(found.path, expected.path)
    # A number in the middle between two codes moves the logits of its image; others differ by rounding.
    assert (found.logits - expected.logits).norm() < 0.05 * expected.logits.norm()
    near = torch.isclose(found.logits, expected.logits, rtol=1e-4, atol=1e-4).all(dim=1)
    assert near.double().mean() > 0.8
