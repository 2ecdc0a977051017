"""Tests of open_clip's checkpoints: what is made of them computes what open_clip computes, or they are refused."""

import copy
import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from tests.open_clip_library import real_open_clip
from tests.reference.open_clip import encode_image, random_weights
from transformers import AutoImageProcessor, CLIPVisionModelWithProjection

from quee_hf import IncompatibleCheckpointError, QuEEForImageClassification, UnsupportedBackboneError
from quee_hf.backbones.open_clip import OPEN_CLIP_MODELS, convert_vision, open_checkpoint

GOLDEN = Path(__file__).parents[1] / "golden" / "open_clip.json"
# In float64, for sums of thousands of products of order 1: whatever is not the same computation differs by far more.
TOLERANCE = 1e-9


def tensors(**sizes) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(value) for name, value in random_weights(**sizes).items()}


def save(path: Path, weights=None) -> Path:
    save_file(tensors() if weights is None else weights, path)
    return path


def pictures(size: int, count: int = 2) -> np.ndarray:
    return np.random.default_rng(5).standard_normal((count, 3, size, size)).astype(np.float32)


def embed(tower, images: np.ndarray) -> torch.Tensor:
    """Return embeddings computed in float64; weights are those of float32."""
    with torch.inference_mode():
        return copy.deepcopy(tower.model).double()(torch.from_numpy(images).double()).image_embeds


def write_config(folder: Path, *, preprocess=None, quick_gelu=None, **vision) -> Path:
    """Write what open_clip writes beside weights on the Hub."""
    model = {
        "embed_dim": 16,
        "vision_cfg": {"image_size": 64, "layers": 3, "width": 128, "patch_size": 32, **vision},
        "text_cfg": {"context_length": 8, "vocab_size": 10, "width": 64, "heads": 1, "layers": 1},
    }
    if quick_gelu is not None:
        model["quick_gelu"] = quick_gelu
    config = {"model_cfg": model, "preprocess_cfg": preprocess or {}}
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    return folder


class TestEmbeddings:
    @pytest.mark.parametrize("name", [name for name in OPEN_CLIP_MODELS if "L-14" not in name])
    def test_are_those_of_the_layout(self, name, tmp_path):
        """The reference is written from the layout, in float64."""
        patch = 32 if "32" in name else 16
        weights, images = random_weights(patch=patch), pictures(2 * patch)
        file = save(tmp_path / "weights.safetensors", tensors(patch=patch))
        found = embed(convert_vision(open_checkpoint(file, name)), images)
        is_quick = name.endswith("quickgelu")
        right, wrong = (
            torch.from_numpy(np.stack([encode_image(weights, image, is_quick=quick) for image in images]))
            for quick in (is_quick, not is_quick)
        )
        assert right.norm(dim=1).min() > 1  # of zeros the comparison would say nothing
        torch.testing.assert_close(found, right, rtol=0, atol=TOLERANCE)
        assert (found - wrong).abs().max() > 1e-3

    @pytest.mark.parametrize("is_quick", [False, True])
    def test_are_those_that_open_clip_itself_gave(self, is_quick, tmp_path):
        """Of a file that `tests/golden/make_open_clip.py` wrote with open_clip installed."""
        golden = json.loads(GOLDEN.read_text())
        file = save(tmp_path / "weights.safetensors", tensors(**golden["sizes"]))
        tower = convert_vision(open_checkpoint(file, "ViT-B-32" + "-quickgelu" * is_quick))
        found = embed(tower, pictures(tower.model.config.image_size))
        rows = golden["image_embeddings"]["quick_gelu" if is_quick else "gelu"]
        expected = torch.tensor(rows, dtype=torch.float64)
        torch.testing.assert_close(found, expected, rtol=0, atol=TOLERANCE)

    @pytest.mark.parametrize("name", ["ViT-B-32", "ViT-B-32-quickgelu"])
    def test_of_a_checkpoint_that_open_clip_writes(self, name, tmp_path):
        """At full size, with random weights; skipped, with the reason, where open_clip cannot be imported."""
        library = real_open_clip()
        torch.manual_seed(0)
        theirs = library.create_model(name).eval()
        torch.save({"epoch": 1, "state_dict": theirs.state_dict()}, tmp_path / "epoch_1.pt")
        tower = convert_vision(open_checkpoint(tmp_path / "epoch_1.pt", name))
        images = pictures(224)
        with torch.inference_mode():
            expected = theirs.encode_image(torch.from_numpy(images))
            found = tower.model(torch.from_numpy(images)).image_embeds
        assert expected.abs().max() > 0.1
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)  # in float32, through twelve blocks

    def test_the_names_are_open_clips(self):
        library = real_open_clip()
        for name in OPEN_CLIP_MODELS:
            config = library.get_model_config(name)
            assert bool(config.get("quick_gelu")) == name.endswith("quickgelu")
            assert config["vision_cfg"]["patch_size"] == int(name.removesuffix("-quickgelu").split("-")[-1])
            assert config["vision_cfg"].get("head_width", 64) == 64

    def test_images_are_prepared_as_open_clip_does(self, assets):
        from datasets import load_dataset

        library = real_open_clip()
        photos = load_dataset("parquet", data_files=str(assets / "photos.parquet"), split="train[:4]")
        prepare = library.image_transform(224, is_train=False)
        tower = convert_vision(open_checkpoint_of(tensors(grid=7), "ViT-B-32"))
        for row in photos:
            image = row["image"].convert("RGB")
            found = tower.image_processor(image, return_tensors="pt")["pixel_values"][0]
            torch.testing.assert_close(found, prepare(image), rtol=0, atol=1e-6)


def open_checkpoint_of(weights, name):
    from quee_hf.backbones.open_clip import OpenCLIPCheckpoint

    return OpenCLIPCheckpoint(weights, "quick_gelu" if name.endswith("quickgelu") else "gelu")


class TestFiles:
    @pytest.mark.parametrize("kind", ["plain", "training", "parallel", "parallel training", "half", "openai"])
    @pytest.mark.parametrize("ending", [".safetensors", ".pt"])
    def test_all_kinds_hold_the_same(self, kind, ending, tmp_path):
        weights = tensors()
        if kind == "half":
            weights = {name: value.half() for name, value in weights.items()}
        expected = convert_vision(open_checkpoint_of(weights, "ViT-B-32-quickgelu")).model.state_dict()
        if "parallel" in kind:
            weights = {f"module.{name}": value for name, value in weights.items()}
        if kind == "openai":
            weights |= {
                name: torch.tensor(7) for name in ("input_resolution", "context_length", "vocab_size")
            }
        file = tmp_path / f"weights{ending}"
        if ending == ".safetensors":
            if "training" in kind:
                pytest.skip("safetensors files hold nothing but tensors.")
            save(file, weights)
        else:
            torch.save(
                {"epoch": 3, "name": "run", "state_dict": weights} if "training" in kind else weights, file
            )
        found = convert_vision(open_checkpoint(file, "ViT-B-32-quickgelu")).model.state_dict()
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[name], expected[name]) for name in found)
        assert {value.dtype for value in found.values()} == {torch.float32}

    def test_the_text_tower_may_be_in_a_module_of_its_own(self, tmp_path):
        weights = {
            name if name.startswith("visual.") or name == "logit_scale" else f"text.{name}": value
            for name, value in tensors().items()
        }
        convert_vision(open_checkpoint(save(tmp_path / "w.safetensors", weights), "ViT-B-32"))

    def test_a_directory_with_a_config_needs_no_name(self, tmp_path):
        preprocess = {"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.2, 0.1], "interpolation": "bicubic"}
        save(tmp_path / "open_clip_model.safetensors")
        checkpoint = open_checkpoint(
            write_config(tmp_path, quick_gelu=True, head_width=32, preprocess=preprocess)
        )
        tower = convert_vision(checkpoint)
        assert tower.model.config.hidden_act == "quick_gelu"
        assert tower.model.config.num_attention_heads == 4
        assert list(tower.image_processor.image_mean) == preprocess["mean"]
        assert list(tower.image_processor.image_std) == preprocess["std"]

    def test_saved_and_loaded_it_is_the_same(self, tmp_path):
        file = save(tmp_path / "weights.safetensors")
        tower = convert_vision(open_checkpoint(file, "ViT-B-32"))
        tower.save_pretrained(tmp_path / "converted")
        loaded = CLIPVisionModelWithProjection.from_pretrained(tmp_path / "converted")
        processor = AutoImageProcessor.from_pretrained(tmp_path / "converted", backend="pil")
        images = pictures(64)
        found, expected = (each(torch.from_numpy(images)).image_embeds for each in (loaded, tower.model))
        assert torch.equal(found, expected)
        assert processor.to_dict() == tower.image_processor.to_dict()

    def test_from_backbone_takes_the_scale_of_the_checkpoint(self, tmp_path):
        file = save(tmp_path / "weights.safetensors")
        convert_vision(open_checkpoint(file, "ViT-B-32")).save_pretrained(tmp_path / "converted")
        fields = {"class_embeddings": torch.eye(16)[:4], "exit_blocks": [1, 3], "levels": ["fp32"]}
        model = QuEEForImageClassification.from_backbone(tmp_path / "converted", **fields)
        assert model.config.logit_scale == pytest.approx(np.exp(3.5))
        assert not hasattr(model.config.backbone, "logit_scale")
        given = QuEEForImageClassification.from_backbone(tmp_path / "converted", logit_scale=1.0, **fields)
        assert given.config.logit_scale == pytest.approx(np.e)


class TestRealWeights:
    def test_of_hugging_face_in_open_clips_layout_give_the_same_embeddings(self, assets, tmp_path):
        """There and back on photographs: the very same weights, so the very same numbers."""
        from datasets import load_dataset

        folder = assets / "models" / "clip-vit-small-tinyimagenet-70px"
        stock = CLIPVisionModelWithProjection.from_pretrained(folder, dtype=torch.float32).eval()
        weights = {**in_open_clips_layout(stock), "logit_scale": torch.tensor(4.0)}
        save(tmp_path / "open_clip_model.safetensors", weights)
        write_config(tmp_path, norm_kwargs={"eps": stock.config.layer_norm_eps})
        tower = convert_vision(open_checkpoint(tmp_path))
        processor = AutoImageProcessor.from_pretrained(folder, backend="pil")
        photos = load_dataset("parquet", data_files=str(assets / "photos.parquet"), split="train[:8]")
        rows = [row["image"].convert("RGB") for row in photos]
        pixel_values = processor(rows, return_tensors="pt")["pixel_values"]
        with torch.inference_mode():
            expected = stock(pixel_values).image_embeds
            assert torch.equal(tower.model(pixel_values).image_embeds, expected)
        fields = {
            "class_embeddings": folder / "class_embeddings.safetensors",
            "exit_blocks": [6, 12],
            "levels": ["fp32"],
        }
        ours, theirs = (
            QuEEForImageClassification.from_backbone(source, **fields)(pixel_values).logits
            for source in (tower.model, folder)
        )
        assert torch.equal(ours, theirs)


def in_open_clips_layout(model: CLIPVisionModelWithProjection) -> dict[str, torch.Tensor]:
    """Name Hugging Face's weights as open_clip does; written apart from the converter, layer by layer."""
    tower = model.vision_model
    named = {
        "visual.class_embedding": tower.embeddings.class_embedding,
        "visual.positional_embedding": tower.embeddings.position_embedding.weight,
        "visual.conv1.weight": tower.embeddings.patch_embedding.weight,
        "visual.proj": model.visual_projection.weight.T,
        "visual.ln_pre": tower.pre_layrnorm,
        "visual.ln_post": tower.post_layernorm,
    }
    for number, layer in enumerate(tower.encoder.layers):
        block, attention = f"visual.transformer.resblocks.{number}", layer.self_attn
        stacked = [attention.q_proj, attention.k_proj, attention.v_proj]
        named |= {
            f"{block}.ln_1": layer.layer_norm1,
            f"{block}.attn.in_proj_weight": torch.cat([part.weight for part in stacked]),
            f"{block}.attn.in_proj_bias": torch.cat([part.bias for part in stacked]),
            f"{block}.attn.out_proj": attention.out_proj,
            f"{block}.ln_2": layer.layer_norm2,
            f"{block}.mlp.c_fc": layer.mlp.fc1,
            f"{block}.mlp.c_proj": layer.mlp.fc2,
        }
    weights = {}
    for name, part in named.items():
        if isinstance(part, torch.Tensor):
            weights[name] = part.detach().contiguous()
        else:
            weights |= {f"{name}.weight": part.weight.detach(), f"{name}.bias": part.bias.detach()}
    return weights


class TestRefusals:
    def test_the_activation_must_be_known(self, tmp_path):
        with pytest.raises(ValueError, match=r"GELU or QuickGELU.*give `model_name`, one of \['ViT-B-32', "):
            open_checkpoint(save(tmp_path / "w.safetensors"))

    def test_an_unknown_name_lists_those_that_are_known(self, tmp_path):
        with pytest.raises(ValueError, match=r"must be one of \['ViT-B-32', .*, got 'RN50'"):
            open_checkpoint(save(tmp_path / "w.safetensors"), "RN50")

    def test_name_and_config_must_agree(self, tmp_path):
        save(tmp_path / "open_clip_model.safetensors")
        write_config(tmp_path, quick_gelu=True)
        with pytest.raises(ValueError, match="not clear.*'gelu'.*'quick_gelu'"):
            open_checkpoint(tmp_path, "ViT-B-32")

    def test_openais_weights_have_quick_gelu(self, tmp_path):
        file = save(tmp_path / "w.safetensors", {**tensors(), "input_resolution": torch.tensor(224)})
        with pytest.raises(ValueError, match="OpenAI's, whose models all have QuickGELU"):
            open_checkpoint(file, "ViT-B-32")

    def test_other_patches_than_the_names(self, tmp_path):
        checkpoint = open_checkpoint(save(tmp_path / "w.safetensors"), "ViT-B-16")
        with pytest.raises(ValueError, match="'ViT-B-16' has patches of 16 pixels, the checkpoint of 32"):
            convert_vision(checkpoint)

    @pytest.mark.parametrize(
        "extra",
        ["visual.attn_pool.query", "visual.transformer.resblocks.0.ls_1.gamma", "logit_scale_2", "epoch"],
    )
    def test_weights_without_a_place(self, extra):
        weights = {**tensors(), extra: torch.zeros(1)}
        with pytest.raises(UnsupportedBackboneError, match=f"it also has {extra}"):
            convert_vision(open_checkpoint_of(weights, "ViT-B-32"))

    @pytest.mark.parametrize(
        "missing", ["visual.ln_pre.bias", "visual.transformer.resblocks.1.mlp.c_fc.weight"]
    )
    def test_missing_weights(self, missing):
        weights = {name: value for name, value in tensors().items() if name != missing}
        with pytest.raises(UnsupportedBackboneError, match=f"it lacks {missing}"):
            convert_vision(open_checkpoint_of(weights, "ViT-B-32"))

    def test_a_residual_network(self):
        weights = {"visual.layer1.0.conv1.weight": torch.zeros(1), "logit_scale": torch.zeros(())}
        with pytest.raises(UnsupportedBackboneError, match="no vision transformer of CLIP"):
            convert_vision(open_checkpoint_of(weights, "ViT-B-32"))

    @pytest.mark.parametrize(
        ("name", "shape", "message"),
        [
            ("visual.conv1.weight", (128, 3, 32), "do not fit each other; their shapes are"),
            ("visual.positional_embedding", (6, 128), "got 5 patches"),
            ("visual.transformer.resblocks.0.attn.in_proj_bias", (385,), "not 3 parts of one size"),
            (
                "visual.transformer.resblocks.1.mlp.c_fc.weight",
                (9, 128),
                "do not fit each other: .*fc1.weight",
            ),
            ("visual.class_embedding", (), "not 1 parts|do not fit"),
        ],
    )
    def test_shapes_that_do_not_fit(self, name, shape, message):
        weights = {**tensors(), name: torch.zeros(shape)}
        with pytest.raises((IncompatibleCheckpointError, UnsupportedBackboneError), match=message):
            convert_vision(open_checkpoint_of(weights, "ViT-B-32"))

    def test_a_weight_that_is_no_number(self):
        weights = tensors()
        weights["visual.ln_post.bias"][3] = torch.nan
        with pytest.raises(IncompatibleCheckpointError, match="visual.ln_post.bias holds NaN or infinity"):
            convert_vision(open_checkpoint_of(weights, "ViT-B-32"))

    @pytest.mark.parametrize(
        ("vision", "message"),
        [
            ({"pool_type": "avg"}, "cannot be: {'pool_type': 'avg'}"),
            ({"timm_model_name": "vit_base"}, "timm_model_name"),
            ({"act_kwargs": {"approximate": "tanh"}}, "act_kwargs"),
            ({"norm_kwargs": {"elementwise_affine": False}}, "elementwise_affine"),
        ],
    )
    def test_configs_that_compute_something_else(self, vision, message, tmp_path):
        save(tmp_path / "open_clip_model.safetensors")
        with pytest.raises(UnsupportedBackboneError, match=message):
            open_checkpoint(write_config(tmp_path, **vision))

    def test_images_prepared_in_another_way(self, tmp_path):
        save(tmp_path / "open_clip_model.safetensors")
        with pytest.raises(UnsupportedBackboneError, match="'resize_mode': 'squash'"):
            open_checkpoint(write_config(tmp_path, preprocess={"resize_mode": "squash"}))

    @pytest.mark.parametrize(
        "text", ["", "[]", '{"model_cfg": {}}', '{"model_cfg": {"vision_cfg": 1, "text_cfg": {}}}']
    )
    def test_a_config_that_is_none(self, text, tmp_path):
        save(tmp_path / "open_clip_model.safetensors")
        (tmp_path / "open_clip_config.json").write_text(text)
        with pytest.raises(IncompatibleCheckpointError, match="is not a config of open_clip"):
            open_checkpoint(tmp_path)

    def test_no_file(self, tmp_path):
        with pytest.raises(ValueError, match=r"nothing\.pt is not a file"):
            open_checkpoint(tmp_path / "nothing.pt", "ViT-B-32")
        with pytest.raises(ValueError, match=r"has none of open_clip_model\.safetensors, "):
            open_checkpoint(tmp_path, "ViT-B-32")

    def test_files_with_code_are_not_run(self, tmp_path):
        class Deadly:
            def __reduce__(self):
                return Path.touch, (tmp_path / "ran",)

        file = tmp_path / "weights.pt"
        torch.save({"state_dict": Deadly()}, file)
        with pytest.raises(IncompatibleCheckpointError, match="without running code"):
            open_checkpoint(file, "ViT-B-32")
        file.write_bytes(pickle.dumps(Deadly(), protocol=2))
        with pytest.raises(IncompatibleCheckpointError, match="without running code"):
            open_checkpoint(file, "ViT-B-32")
        assert not (tmp_path / "ran").exists()

    @pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
    def test_an_archive_of_code(self, tmp_path):
        """As OpenAI published its models."""
        traced = torch.jit.trace(torch.nn.Linear(1, 1), torch.zeros(1))
        torch.jit.save(traced, tmp_path / "ViT-B-32.pt")
        with pytest.raises(IncompatibleCheckpointError, match="without running code"):
            open_checkpoint(tmp_path / "ViT-B-32.pt", "ViT-B-32-quickgelu")

    @pytest.mark.parametrize("content", [[], {}, {"state_dict": {}}, {"a": 1}, torch.zeros(2)], ids=repr)
    def test_files_without_weights(self, content, tmp_path):
        torch.save(content, tmp_path / "w.pt")
        with pytest.raises(IncompatibleCheckpointError, match="holds no state dict"):
            open_checkpoint(tmp_path / "w.pt", "ViT-B-32")

    @pytest.mark.parametrize("ending", [".pt", ".safetensors"])
    def test_half_a_file(self, ending, tmp_path):
        file = tmp_path / f"w{ending}"
        save(file) if ending == ".safetensors" else torch.save(tensors(), file)
        file.write_bytes(file.read_bytes()[:1000])
        with pytest.raises(IncompatibleCheckpointError, match="damaged"):
            open_checkpoint(file, "ViT-B-32")


def test_a_failed_save_leaves_nothing(tmp_path, monkeypatch):
    tower = convert_vision(open_checkpoint_of(tensors(), "ViT-B-32"))
    monkeypatch.setattr(type(tower.image_processor), "save_pretrained", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        tower.save_pretrained(tmp_path / "converted")
    assert not list(tmp_path.iterdir())


def test_the_caller_keeps_its_weights():
    weights = tensors()
    before = {name: value.clone() for name, value in weights.items()}
    tower = convert_vision(open_checkpoint_of(weights, "ViT-B-32"))
    with torch.no_grad():
        for parameter in tower.model.parameters():
            parameter.zero_()
    assert all(torch.equal(weights[name], before[name]) for name in before)
