"""Tests of saving and loading: the same bytes, the same logits, nothing left over."""

import copy
import hashlib
import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from tests.tiny import VARIANTS, Variant, every_variant, images, mixed_lambdas, quantize_fast, routable, wrap
from torch import nn
from transformers import AutoModelForImageClassification, PreTrainedModel

from quee_hf import IncompatibleCheckpointError, QuEEConfig, QuEEForImageClassification
from quee_hf.exits.heads import HEADS
from quee_hf.gates.features import GATE_FEATURES

from_pretrained = QuEEForImageClassification.from_pretrained
GOLDEN = Path(__file__).parent / "golden" / "file_format.json"


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def fingerprint(model):
    """Kind, shape and a hash of the bytes of every tensor."""
    return {
        name: (
            str(t.dtype),
            tuple(t.shape),
            hashlib.sha256(t.flatten().view(torch.uint8).numpy()).hexdigest(),
        )
        for name, t in model.state_dict().items()
    }


def assert_same_behaviour(loaded, model, pixel_values):
    """Results are equal bit for bit, once the tensors lie in memory alike.

    Those of a file lie where they lie in the file; products of matrices at odd addresses are summed in another order.
    """
    lambdas = mixed_lambdas(len(pixel_values))
    with torch.no_grad():
        expected, moved, as_loaded = (
            each(pixel_values, cost_lambda=lambdas, output_all_paths=True)
            for each in (model, copy.deepcopy(loaded), loaded)
        )
    for name, tensor in expected.items():
        assert torch.equal(moved[name], tensor), name
    assert torch.equal(as_loaded.path, expected.path)
    # 1e-5: see the comparison with the HF model in float32.
    atol = 1e-5 * expected.all_logits.abs().max().item()
    torch.testing.assert_close(as_loaded.logits, expected.logits, rtol=0, atol=atol)


@pytest.fixture(scope="module")
def model():
    return routable(levels=["fp32", "bf16", 8, 4])


class TestRoundTrip:
    @every_variant
    def test_buffers_that_files_do_not_hold_are_there(self, variant: Variant, tmp_path):
        model = wrap(variant.build(), levels=[8, 4])
        quantize_fast(model)
        model.save_pretrained(tmp_path)
        buffers = dict(from_pretrained(tmp_path).named_buffers())
        assert buffers.keys() == dict(model.named_buffers()).keys()
        for name, buffer in model.named_buffers():
            assert torch.equal(buffers[name], buffer), name

    @every_variant
    @pytest.mark.parametrize("max_shard_size", ["1GB", "20KB"], ids=["whole", "sharded"])
    def test_same_tensors_and_same_results(self, variant: Variant, max_shard_size, tmp_path):
        model = routable(variant)
        model.save_pretrained(tmp_path, max_shard_size=max_shard_size)
        assert len(list(tmp_path.glob("*.safetensors"))) == 1 or max_shard_size == "20KB"
        assert (tmp_path / "model.safetensors").exists() == (max_shard_size == "1GB")
        loaded = from_pretrained(tmp_path)
        assert fingerprint(loaded) == fingerprint(model)
        assert_same_behaviour(loaded, model, images(8, variant.image_size))

    @pytest.mark.parametrize(
        "fields",
        [
            *({"head_type": head_type, "head_hidden_size": 8} for head_type in HEADS),
            *({"gate_features": kind} for kind in GATE_FEATURES),
            {"gate_type": "lra"},
            {"levels": ["fp32"]},
            {"levels": ["bf16", 8], "head_type": "ssa"},
            {"levels": [8, 6, 4], "first_level": "any", "monotone_levels": False},
            {"exit_blocks": [4]},
            {"max_paths": 5, "path_seed": 3},
        ],
    )
    def test_of_other_configurations(self, fields, tmp_path):
        model = routable(**fields)
        model.save_pretrained(tmp_path)
        loaded = from_pretrained(tmp_path)
        assert loaded.paths == model.paths
        assert fingerprint(loaded) == fingerprint(model)
        if model.config.num_exits > 1:
            assert_same_behaviour(loaded, model, images(8))

    def test_saving_what_was_loaded_gives_the_same_files(self, model, tmp_path):
        folders = first, second, third = [tmp_path / number / "model" for number in "123"]
        model.save_pretrained(first)
        from_pretrained(first).save_pretrained(second)
        from_pretrained(second).save_pretrained(third)
        first, second, third = map(contents, folders)
        assert second == third
        assert first["model.safetensors"] == second["model.safetensors"]
        # When it loads, transformers notes the dtype in the nested config, too.
        first, second = (json.loads(each["config.json"]) for each in (first, second))
        first["backbone_config"]["dtype"] = second["backbone_config"]["dtype"]
        assert first == second

    def test_without_quantization(self, tmp_path):
        model = wrap(VARIANTS["vit"].build(), levels=[8, 6])
        model.save_pretrained(tmp_path)
        loaded = from_pretrained(tmp_path)
        assert loaded.config.quantization is None
        for each in (model, loaded):
            quantize_fast(each)
        assert fingerprint(loaded) == fingerprint(model)

    def test_by_the_auto_classes(self, model, tmp_path):
        model.save_pretrained(tmp_path)
        loaded = AutoModelForImageClassification.from_pretrained(tmp_path)
        assert type(loaded) is QuEEForImageClassification
        assert fingerprint(loaded) == fingerprint(model)


class TestResaving:
    def test_over_another_layout_leaves_nothing_stale(self, model, tmp_path):
        (tmp_path / "README.md").write_text("mine")
        layouts = [{}, {"max_shard_size": "20KB"}, {"max_shard_size": "40KB"}, {}]
        seen = []
        for options in layouts:
            model.save_pretrained(tmp_path, **options)
            names = set(contents(tmp_path)) - {
                "config.json",
                "README.md",
                "configuration_quee.py",
                "modeling_quee.py",
            }
            seen.append(names)
            if options:
                index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
                assert names == {*index["weight_map"].values(), "model.safetensors.index.json"}
            else:
                assert names == {"model.safetensors"}
            assert fingerprint(from_pretrained(tmp_path)) == fingerprint(model)
        assert seen[1] != seen[2]
        assert (tmp_path / "README.md").read_text() == "mine"

    def test_only_the_main_process_writes(self, model, tmp_path):
        model.save_pretrained(tmp_path / "model", is_main_process=False)
        assert not (tmp_path / "model").exists()

    def test_a_given_state_dict_is_what_is_saved(self, model, tmp_path):
        state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        state["heads.0.network.bias"] += 1
        model.save_pretrained(tmp_path, state_dict=state)
        loaded = from_pretrained(tmp_path)
        assert torch.equal(loaded.heads[0].network.bias, model.heads[0].network.bias + 1)


class TestAfterLoading:
    @pytest.fixture
    def loaded(self, model, tmp_path):
        model.save_pretrained(tmp_path)
        return from_pretrained(tmp_path)

    def test_the_same_parts_can_be_trained(self, model, loaded):
        flags = {name: parameter.requires_grad for name, parameter in loaded.named_parameters()}
        assert flags == {name: parameter.requires_grad for name, parameter in model.named_parameters()}
        for name, flag in flags.items():
            assert flag == name.startswith(("heads.0", "heads.1", "gates")), name

    def test_it_is_in_evaluation_mode(self, loaded):
        assert not any(module.training for module in loaded.modules())

    def test_buffers_that_files_do_not_hold_are_rebuilt(self, model, loaded, tmp_path):
        stored = set(loaded.state_dict())
        rebuilt = [name for name, _ in loaded.named_buffers() if name not in stored]
        assert rebuilt
        for name in rebuilt:
            assert torch.equal(loaded.get_buffer(name), model.get_buffer(name)), name

    def test_clips_positions_are_rebuilt(self, tmp_path):
        wrap(VARIANTS["clip-vision"].build()).save_pretrained(tmp_path)
        for options in ({}, {"dtype": torch.bfloat16}):
            loaded = from_pretrained(tmp_path, **options)
            assert loaded.trunk.embeddings.position_ids.tolist() == [list(range(10))]

    def test_loading_info_is_passed_on(self, model, tmp_path):
        model.save_pretrained(tmp_path)
        loaded, info = from_pretrained(tmp_path, output_loading_info=True)
        assert not info["missing_keys"]
        assert not info["unexpected_keys"]
        assert not loaded.trunk.norm.weight.requires_grad

    def test_a_field_can_be_overridden(self, model, tmp_path):
        model.save_pretrained(tmp_path)
        assert from_pretrained(tmp_path, cost_lambda=0.25).config.cost_lambda == 0.25
        with pytest.raises(Exception, match="`cost_lambda` must be at least 0, got -1"):
            from_pretrained(tmp_path, cost_lambda=-1.0)
        with pytest.raises(IncompatibleCheckpointError, match="The weights do not fit the config"):
            from_pretrained(tmp_path, levels=["fp32", 8])

    def test_a_config_can_be_given(self, model, tmp_path):
        model.save_pretrained(tmp_path)
        config = QuEEConfig.from_pretrained(tmp_path)
        config.cost_lambda = 0.125
        loaded = from_pretrained(tmp_path, config=config)
        assert loaded.config.cost_lambda == 0.125
        assert fingerprint(loaded) == fingerprint(model)

    def test_from_a_subfolder(self, model, tmp_path):
        model.save_pretrained(tmp_path / "inner")
        assert fingerprint(from_pretrained(tmp_path, subfolder="inner")) == fingerprint(model)

    def test_on_a_device_map(self, model, tmp_path):
        model.save_pretrained(tmp_path)
        assert fingerprint(from_pretrained(tmp_path, device_map="cpu")) == fingerprint(model)


class TestWeightsOfBfloat16:
    """Of a model whose float weights only "bf16" needs."""

    @pytest.fixture
    def model(self):
        return routable(levels=["bf16", 8])

    def test_are_what_files_hold(self, model, tmp_path):
        model.save_pretrained(tmp_path)
        with safe_open(tmp_path / "model.safetensors", framework="pt") as file:
            kinds = {name: file.get_tensor(name).dtype for name in file.keys()}  # noqa: SIM118 - not a dict
        half = {name for name, kind in kinds.items() if kind == torch.bfloat16}
        products = ("qkv", "output", "fc1", "fc2")
        assert len(half) == 4 * 4
        assert all(name.endswith(tuple(f"{product}.weight" for product in products)) for name in half)

    @pytest.mark.parametrize("options", [{}, {"dtype": torch.float32}, {"device_map": "cpu"}])
    def test_stay_so_however_they_are_loaded(self, model, tmp_path, options):
        model.save_pretrained(tmp_path)
        assert fingerprint(from_pretrained(tmp_path, **options)) == fingerprint(model)

    def test_load_from_files_of_float32(self, model, tmp_path):
        state = {
            name: t.float() if t.dtype == torch.bfloat16 else t for name, t in model.state_dict().items()
        }
        model.save_pretrained(tmp_path, state_dict=state)
        assert fingerprint(from_pretrained(tmp_path)) == fingerprint(model)


class TestHalfPrecision:
    def exact(self, model):
        """Integer tensors, scales and offsets, which no cast may touch."""
        kinds = ("codes_", "scale", "zero_point", "offset")
        return {
            name: tensor
            for name, tensor in model.state_dict().items()
            if "blocks" in name and name.rpartition(".")[2].startswith(("weight_", *kinds))
        }

    def assert_half(self, model, original):
        expected = self.exact(original)
        assert len(expected) > 100
        for name, tensor in self.exact(model).items():
            assert tensor.dtype == expected[name].dtype, name
            assert torch.equal(tensor, expected[name]), name
        assert model.trunk.norm.weight.dtype == model.heads[0].network.weight.dtype == torch.bfloat16

    def test_loads(self, model, tmp_path):
        model.save_pretrained(tmp_path)
        loaded = from_pretrained(tmp_path, dtype=torch.bfloat16)
        self.assert_half(loaded, model)
        exact = model(images(4), path=(8, 8, 8)).logits
        half = loaded(images(4).bfloat16(), path=(8, 8, 8)).logits
        assert half.dtype == torch.float32
        # Norms and the residual stream are rounded to 8 bits of mantissa some 40 times.
        assert (half - exact).abs().max() < 0.2 * exact.std()

    def test_a_cast_model_keeps_its_scales_and_round_trips(self, model, tmp_path):
        model.save_pretrained(tmp_path / "full")
        cast = from_pretrained(tmp_path / "full").to(torch.bfloat16)
        self.assert_half(cast, model)
        cast.save_pretrained(tmp_path / "half")
        loaded = from_pretrained(tmp_path / "half")
        self.assert_half(loaded, model)
        assert fingerprint(loaded) == fingerprint(cast)

    @every_variant
    def test_every_backbone_routes_in_bfloat16(self, variant: Variant):
        model = routable(variant, levels=["bf16", 8]).to(torch.bfloat16)
        output = model(images(8, variant.image_size).bfloat16(), cost_lambda=mixed_lambdas(8))
        assert output.logits.dtype == output.error_probability.dtype == torch.float32
        assert output.logits.isfinite().all()


class TestOtherModels:
    def test_a_stock_directory_says_how_to_wrap_it(self, tmp_path):
        VARIANTS["vit"].build().save_pretrained(tmp_path)
        with pytest.raises(ValueError, match=r"'vit' model, not a QuEE model; wrap it with .*from_backbone"):
            from_pretrained(tmp_path)

    def test_stock_classes_do_not_take_ours_for_theirs(self, model, tmp_path):
        model.save_pretrained(tmp_path)
        config = json.loads((tmp_path / "config.json").read_text())
        assert config["model_type"] == "quee"  # unknown to transformers without this package: it refuses
        assert "quantization_config" not in config  # or it would load the rest as random weights

    def test_an_empty_directory(self, tmp_path):
        with pytest.raises(IncompatibleCheckpointError, match=r"has no model\.safetensors"):
            from_pretrained(tmp_path)


class TestFileFormat:
    """A change here means that files of format 2 no longer load: raise `FORMAT_VERSION` and convert them."""

    def test_keys_shapes_and_kinds_are_those_of_format_2(self, tmp_path):
        golden = json.loads(GOLDEN.read_text())
        model = routable(VARIANTS["dinov2-swiglu"], **golden["fields"])
        model.save_pretrained(tmp_path)
        with safe_open(tmp_path / "model.safetensors", framework="pt") as file:
            slices = {key: file.get_slice(key) for key in file.keys()}  # noqa: SIM118 - not a mapping
            tensors = {key: [s.get_dtype(), *s.get_shape()] for key, s in slices.items()}
        assert tensors == golden["tensors"]
        # A new field with a default is compatible, a field that is gone is not.
        assert set(golden["config_keys"]) <= set(json.loads((tmp_path / "config.json").read_text()))

    def test_no_key_starts_with_the_prefix_that_transformers_strips(self, model):
        assert not any(name.startswith(model.base_model_prefix) for name in model.state_dict())


def test_every_buffer_is_saved_or_rebuilt():
    """A new kind of non-persistent buffer would hold garbage after loading: `_init_weights` must know it."""
    known = {"path_codes", "position_ids"}
    for variant in VARIANTS.values():
        model = routable(variant)
        for prefix, module in model.named_modules():
            assert isinstance(module, nn.Module)
            assert set(module._non_persistent_buffers_set) <= known, prefix


def test_saved_files_are_as_readable_as_any_other(tmp_path):
    (tmp_path / "other").touch()
    routable().save_pretrained(tmp_path / "model")
    mode = (tmp_path / "other").stat().st_mode
    assert {path.stat().st_mode for path in (tmp_path / "model").iterdir()} == {mode}


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda model: model.double(), "is torch.float64"),
        (lambda model: model.heads[0].network.weight.data.fill_(float("nan")), "holds NaN"),
    ],
)
def test_what_could_not_be_loaded_is_not_saved(tmp_path, spoil, message):
    model = routable()
    model.save_pretrained(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    spoil(model)
    with pytest.raises(ValueError, match=message):
        model.save_pretrained(tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_mistyped_argument_of_forward_is_refused():
    with pytest.raises(TypeError, match="cost_lamda"):
        routable()(images(1), cost_lamda=0.1)


class TestTwoWaysOfLoading:
    """Plain options read the files directly; with any other, transformers loads. Both give the same model."""

    @every_variant
    def test_they_give_the_same(self, variant: Variant, tmp_path):
        model = routable(variant, levels=["fp32", 8, 4])
        model.save_pretrained(tmp_path)
        direct, by_transformers = from_pretrained(tmp_path), from_pretrained(tmp_path, device_map="cpu")
        assert fingerprint(direct) == fingerprint(by_transformers) == fingerprint(model)
        for name in ("named_parameters", "named_buffers"):
            pairs = zip(getattr(direct, name)(), getattr(by_transformers, name)(), strict=True)
            for (first, ours), (second, theirs) in pairs:
                assert (first, ours.requires_grad, ours.device) == (
                    second,
                    theirs.requires_grad,
                    theirs.device,
                )
                assert torch.equal(ours, theirs)
        assert not direct.training
        configs = [loaded.config.to_dict() for loaded in (direct, by_transformers)]
        # transformers writes the dtype into the nested config, too, which a second save would then hold.
        assert [config["backbone_config"].pop("dtype") for config in configs] == [None, "float32"]
        assert configs[0] == configs[1]
        assert direct.name_or_path == by_transformers.name_or_path == str(tmp_path)

    def test_transformers_is_asked_only_if_it_must(self, model, tmp_path, monkeypatch):
        model.save_pretrained(tmp_path)
        from_pretrained(tmp_path, dtype="auto", revision=None)
        monkeypatch.setattr(PreTrainedModel, "from_pretrained", None)
        # As pipelines do if peft is installed.
        from_pretrained(tmp_path, dtype="auto", revision=None, adapter_kwargs={})
        for options in ({"dtype": torch.bfloat16}, {"device_map": "cpu"}, {"output_loading_info": True}):
            with pytest.raises(TypeError, match="'NoneType' object is not callable"):
                from_pretrained(tmp_path, **options)

    def test_a_given_config_is_not_shared(self, model, tmp_path):
        model.save_pretrained(tmp_path)
        config = QuEEConfig.from_pretrained(tmp_path)
        from_pretrained(tmp_path, config=config).config.cost_lambda = 0.7
        assert config.cost_lambda is None

    def test_other_default_kinds_are_left_to_transformers(self, model, tmp_path):
        model.save_pretrained(tmp_path)
        torch.set_default_dtype(torch.bfloat16)
        try:
            loaded = from_pretrained(tmp_path)
        finally:
            torch.set_default_dtype(torch.float32)
        assert fingerprint(loaded) == fingerprint(model)

    def test_the_dtype_of_the_file_is_the_automatic_one(self, model, tmp_path):
        half = copy.deepcopy(model).to(torch.bfloat16)
        half.save_pretrained(tmp_path)
        loaded = from_pretrained(tmp_path, dtype="auto")
        assert loaded.dtype == loaded.config.dtype == torch.bfloat16


class TestSavingBesideOtherFiles:
    def test_only_weights_of_an_earlier_save_go(self, model, tmp_path):
        names = ["model-ema.safetensors", "model_text.safetensors", "model-00001-of-00002.safetensors"]
        for name in names:
            (tmp_path / name).write_bytes(b"x")
        model.save_pretrained(tmp_path)
        assert [(tmp_path / name).exists() for name in names] == [True, True, False]

    def test_a_picture_beside_ones_own_card_stays(self, model, tmp_path):
        (tmp_path / "README.md").write_text("![mine](operating_points.png)")
        (tmp_path / "operating_points.png").write_bytes(b"x")
        model.save_pretrained(tmp_path)
        assert (tmp_path / "operating_points.png").exists()

    def test_variants_are_refused(self, model, tmp_path):
        with pytest.raises(ValueError, match="no variants"):
            model.save_pretrained(tmp_path / "model", variant="fp16")

    def test_no_source_is_copied(self, model, tmp_path):
        """What transformers calls when it loads by `trust_remote_code`."""
        for kind in (QuEEConfig, QuEEForImageClassification):
            kind.register_for_auto_class()
        model.save_pretrained(tmp_path)
        assert {path.name for path in tmp_path.glob("*.py")} == {"configuration_quee.py", "modeling_quee.py"}
        saved = json.loads((tmp_path / "config.json").read_text())
        assert saved["auto_map"]["AutoConfig"] == "configuration_quee.QuEEConfig"
