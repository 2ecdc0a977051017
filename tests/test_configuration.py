"""Tests of `QuEEConfig`: what it refuses, and that it comes back from a file as it was."""

import json
import math
import subprocess
import sys

import pytest
from huggingface_hub.errors import StrictDataclassError
from tests.profiles import CERTIFICATE, make_profile
from transformers import AutoConfig, CLIPVisionConfig, Dinov2Config, ViTConfig

from quee_hf import IncompatibleCheckpointError, QuEEConfig
from quee_hf.configuration import FORMAT_VERSION

POINT = {"cost_lambda": 0.1, "cost": 0.5, "accuracy": 0.9, "num_images": 10, "latency_ms": 4.5}
FULL = {
    "backbone_config": ViTConfig(num_hidden_layers=6, image_size=48, patch_size=8).to_dict(),
    "exit_blocks": [2, 3, 6],
    "levels": ["fp32", "bf16", 8, 5],
    "head_type": "ssa",
    "head_hidden_size": 64,
    "gate_hidden_size": 16,
    "path_embedding_size": 4,
    "max_paths": 30,
    "path_seed": 7,
    "monotone_levels": False,
    "first_level": "any",
    "quantization": {
        "method": "repq",
        "num_images": 128,
        "weight_sharing": "nested",
        "weights": "asymmetric",
        "activations": "dynamic",
        "softmax": "twin",
        "gelu": "log",
        "per_head": True,
        "kept": {"3.fc2": 8, "*.scores": "fp32"},
        "options": {"ridge": 0.01, "log": False, "smoothing": {"1.qkv": 0.5}},
    },
    "cost_model": "latency",
    "cost_table": [[4.0, 3.0, 2.0, 1.0]] * 3,
    "operating_points": [{**POINT, "cost_model": "latency"}],
    "record": {"license": "mit", "profile": make_profile(3, 4)},
    "certificates": [CERTIFICATE],
    "cost_lambda": 0.1,
    "logit_scale": 100.0,
    "trained_parts": ["gates", "heads"],
    "image_size": 48,
    "id2label": {0: "cat", 1: "dog"},
}


class TestRoundTrip:
    def test_every_field_survives_a_file(self, tmp_path):
        config = QuEEConfig(**FULL)
        config.save_pretrained(tmp_path)
        for loaded in (QuEEConfig.from_pretrained(tmp_path), AutoConfig.from_pretrained(tmp_path)):
            assert type(loaded) is QuEEConfig
            assert {name: getattr(loaded, name) for name in FULL if name != "backbone_config"} == {
                name: value for name, value in FULL.items() if name != "backbone_config"
            }
            assert loaded.to_dict()["backbone_config"] == config.to_dict()["backbone_config"]
            assert isinstance(loaded.backbone_config, ViTConfig)

    def test_writing_again_gives_the_same_bytes(self, tmp_path):
        QuEEConfig(**FULL).save_pretrained(tmp_path / "first")
        QuEEConfig.from_pretrained(tmp_path / "first").save_pretrained(tmp_path / "second")
        first, second = ((tmp_path / name / "config.json").read_bytes() for name in ("first", "second"))
        assert first == second

    def test_the_format_version_is_always_written(self, tmp_path):
        QuEEConfig().save_pretrained(tmp_path)
        assert json.loads((tmp_path / "config.json").read_text())["format_version"] == FORMAT_VERSION

    def test_infinite_lambda_survives(self, tmp_path):
        QuEEConfig(cost_lambda=math.inf).save_pretrained(tmp_path)
        assert QuEEConfig.from_pretrained(tmp_path).cost_lambda == math.inf

    def test_sequences_may_be_tuples(self, tmp_path):
        QuEEConfig(exit_blocks=(6, 12), levels=(8, 6), trained_parts=("heads",)).save_pretrained(tmp_path)
        loaded = QuEEConfig.from_pretrained(tmp_path)
        assert (loaded.exit_blocks, loaded.levels, loaded.trained_parts) == ([6, 12], [8, 6], ["heads"])

    @pytest.mark.parametrize("backbone", [ViTConfig, Dinov2Config, CLIPVisionConfig])
    def test_a_backbone_config_may_be_an_object(self, backbone, tmp_path):
        config = QuEEConfig(backbone_config=backbone())
        config.save_pretrained(tmp_path)
        assert isinstance(QuEEConfig.from_pretrained(tmp_path).backbone_config, backbone)

    def test_image_size_is_the_backbones_unless_given(self):
        backbone = ViTConfig(image_size=48)
        assert QuEEConfig(backbone_config=backbone).image_size == 48
        assert QuEEConfig(backbone_config=backbone, image_size=96).image_size == 96


def test_segments_by_hand():
    config = QuEEConfig(exit_blocks=[1, 4, 12])
    assert config.num_exits == 3
    assert config.segments == [(0, 1), (1, 4), (4, 12)]
    assert QuEEConfig(exit_blocks=[12]).segments == [(0, 12)]


@pytest.mark.parametrize("name", ["levls", "exit_layers", "cost_lamda", "quantization_config_"])
def test_an_unknown_field_is_refused_and_the_known_ones_are_listed(name):
    with pytest.raises(ValueError, match=rf"has no field \['{name}'\]; its fields are .*'exit_blocks'"):
        QuEEConfig(**{name: 1})


INVALID = [
    # validate_format
    ({"format_version": FORMAT_VERSION + 1}, "`format_version` must be 2 to 2, got 3|saved in format 3"),
    ({"format_version": FORMAT_VERSION - 1}, "`format_version` must be 2 to 2, got 1|saved in format 1"),
    ({"format_version": 0}, "`format_version` must be 2 to 2, got 0|saved in format 0"),
    # validate_exit_blocks
    ({"exit_blocks": []}, r"`exit_blocks` must ascend and count from 1, got \[\]"),
    ({"exit_blocks": [8, 4, 12]}, r"must ascend and count from 1, got \[8, 4, 12\]"),
    ({"exit_blocks": [4, 4, 12]}, "must ascend and count from 1"),
    ({"exit_blocks": [0, 12]}, "must ascend and count from 1"),
    ({"exit_blocks": [4, 8]}, r"must end at the backbone's last block, 12, got \[4, 8\]"),
    ({"exit_blocks": [4, 13]}, "must end at the backbone's last block, 12"),
    # validate_levels
    ({"levels": []}, r"`levels` must go from most to least exact without repeats, got \[\]"),
    ({"levels": [6, 8]}, r"most to least exact without repeats, got \[6, 8\]"),
    ({"levels": [8, 8]}, "without repeats"),
    ({"levels": [8, "bf16"]}, "most to least exact"),
    ({"levels": [9]}, "bit-width 2 to 8, 'bf16' or 'fp32', got 9"),
    ({"levels": [8, 1]}, "bit-width 2 to 8, 'bf16' or 'fp32', got 1"),
    ({"levels": ["fp16"]}, "got 'fp16'"),
    # validate_choices
    (
        {"head_type": "deep"},
        r"`head_type` must be one of \['linear', 'mlp', 'attention', 'ssa', 'cls'\], got 'deep'",
    ),
    ({"gate_type": "oracle"}, r"`gate_type` must be one of \['error_predictor'.*got 'oracle'"),
    ({"cost_model": "euros"}, "`cost_model` must be one of .*got 'euros'"),
    ({"first_level": "lowest"}, r"`first_level` must be one of \['highest', 'any'\], got 'lowest'"),
    ({"trained_parts": ["backbone"]}, r"`trained_parts` may hold .*got \['backbone'\]"),
    # validate_sizes
    ({"head_hidden_size": 0}, "`head_hidden_size` must be at least 1, got 0"),
    ({"gate_hidden_size": -1}, "`gate_hidden_size` must be at least 1, got -1"),
    ({"path_embedding_size": 0}, "`path_embedding_size` must be at least 1, got 0"),
    ({"max_paths": 2}, "`max_paths` must be at least the number of exits, 3, and at most 10000, got 2"),
    ({"max_paths": 10**9}, "at most 10000, got 1000000000"),
    ({"exit_blocks": [4, 10**9]}, "may be 1000 blocks at most"),
    ({"dtype": "int8"}, "`dtype` must be one of"),
    ({"quantization": {"method": "mse", "kept": []}}, "Exceptions must be a mapping"),
    ({"quantization": {"method": "mse", "options": 3}}, "`options` of `quantization` must be a mapping"),
    ({"quantization": {"method": "mse", "per_head": "no"}}, "`per_head` must be true or false"),
    ({"quantization": {"method": "mse", "num_images": -1}}, "`num_images` must be a whole number"),
    ({"operating_points": [{**POINT, "accuracy": 1.5}]}, r"must have \['accuracy'\] from 0 to 1"),
    ({"operating_points": [{**POINT, "cost": "free"}]}, r"must have \['cost'\] from 0 to inf"),
    *(
        ({"certificates": [{**CERTIFICATE, name: value}]}, f"`certificates` hold a {name!r} .*: {shown}")
        for name, value, shown in [
            ("cost", "free", "'free'"),
            ("cost", -4, "-4"),
            ("cost_lambda", -1, "-1"),
            ("cost_lambda", math.nan, "nan"),
            ("confidence", 2, "2"),
            ("confidence", 1.0, "1.0"),
            ("observed", -1.5, "-1.5"),
            ("full_accuracy", 95, "95"),
            ("num_images", -3, "-3"),
            ("num_images", True, "True"),
            ("method", "hope", "'hope'"),
            ("promise", ["accuracy"], "\\['accuracy'\\]"),
            ("model", "me", "'me'"),
            ("image_processor", 1, "1"),
            ("date", 3, "3"),
        ]
    ),
    ({"record": {"roles": [{"role": 3}]}}, "must have .* in words"),
    ({"record": {"license": 3}}, "must be a str, got 3"),
    ({"cost_lambda": 10**400}, "`cost_lambda` must be at least 0"),
    # validate_records
    ({"quantization": {}}, "`quantization` must name its 'method'"),
    ({"quantization": {"num_images": 4}}, "`quantization` must name its 'method'"),
    ({"quantization": {"method": 3}}, "`quantization` must name its 'method', got 3"),
    ({"quantization": {"method": "mse", "colour": 1}}, r"`quantization` has no field \['colour'\]"),
    ({"quantization": {"method": "mse", "softmax": "cubic"}}, "`softmax` must be one of .*got 'cubic'"),
    ({"quantization": {"method": "mse", "kept": {"13.fc2": 8}}}, "There are 12 blocks, .* names '13.fc2'"),
    ({"quantization": {"method": "mse", "kept": {"1.fc3": 8}}}, "named '<block>.<product>'.*got '1.fc3'"),
    ({"quantization": {"method": "mse", "kept": {"1.fc2": 9}}}, "bit-width 2 to 8, 'bf16' or 'fp32', got 9"),
    ({"record": {"weather": "fine"}}, r"`record` may hold .*got \['weather'\]"),
    ({"record": {"profile": make_profile(2, 2)}}, "'segments' of shape"),
    ({"certificates": [{"promise": "accuracy"}]}, "`certificates` must have the fields"),
    ({"operating_points": [{"cost": 1.0}]}, "`operating_points` must have 'cost_lambda'"),
    ({"operating_points": [{**POINT, "cost_model": "flops"}]}, "were measured at costs in 'flops'"),
    # validate_logit_scale
    ({"logit_scale": 0.0}, "`logit_scale` must be positive and finite, got 0.0"),
    ({"logit_scale": -1.5}, "`logit_scale` must be positive and finite, got -1.5"),
    ({"logit_scale": math.inf}, "`logit_scale` must be positive and finite, got inf"),
    ({"logit_scale": math.nan}, "`logit_scale` must be positive and finite, got nan"),
    # validate_costs
    ({"cost_lambda": -0.1}, "`cost_lambda` must be at least 0, got -0.1"),
    ({"cost_lambda": math.nan}, "`cost_lambda` must be at least 0, got nan"),
    ({"cost_model": "latency"}, "`cost_model` 'latency' needs a `cost_table`"),
    ({"cost_table": [[1.0, 1.0]] * 2}, r"`cost_table` must have 3 rows \(segments\) of 2 columns"),
    ({"cost_table": [[1.0]] * 3}, r"`cost_table` must have 3 rows \(segments\) of 2 columns"),
    ({"cost_table": [[1.0, 0.0]] * 3}, "`cost_table` must hold positive, finite costs"),
    ({"cost_table": [[1.0, math.inf]] * 3}, "`cost_table` must hold positive, finite costs"),
    ({"cost_table": [[1.0, math.nan]] * 3}, "`cost_table` must hold positive, finite costs"),
    # types
    ({"max_paths": "many"}, "max_paths"),
    ({"exit_blocks": ["4", "12"]}, "exit_blocks"),
    ({"monotone_levels": "yes"}, "monotone_levels"),
]
every_invalid = pytest.mark.parametrize(
    ("fields", "message"), INVALID, ids=[f"{n}-{next(iter(f))}" for n, (f, _) in enumerate(INVALID)]
)


@every_invalid
def test_an_invalid_value_is_refused_when_made(fields, message):
    with pytest.raises((ValueError, StrictDataclassError), match=message):
        QuEEConfig(**fields)


@every_invalid
def test_an_invalid_value_is_refused_when_loaded(fields, message, tmp_path):
    saved = QuEEConfig().to_dict() | fields
    (tmp_path / "config.json").write_text(json.dumps(saved))
    with pytest.raises((ValueError, StrictDataclassError), match=message):
        QuEEConfig.from_pretrained(tmp_path)


@every_invalid
def test_an_invalid_override_is_refused_when_loaded(fields, message, tmp_path):
    QuEEConfig().save_pretrained(tmp_path)
    with pytest.raises((ValueError, StrictDataclassError), match=message):
        QuEEConfig.from_pretrained(tmp_path, **fields)


@every_invalid
def test_an_invalid_value_is_never_saved(fields, message, tmp_path):
    config = QuEEConfig()
    with pytest.raises((ValueError, TypeError, StrictDataclassError)):
        for name, value in fields.items():
            setattr(config, name, value)
        config.save_pretrained(tmp_path)
    assert not (tmp_path / "config.json").exists()


class TestForgetting:
    def test_measurements_without_times(self):
        config = QuEEConfig(**FULL)
        config.record = {**config.record, "measured": {"seed": 0}}
        config.forget_measurements()
        assert config.operating_points is config.certificates is config.cost_lambda is None
        assert (config.record, config.cost_table) == (FULL["record"], FULL["cost_table"])
        config.validate()

    def test_times_and_what_goes_by_them(self):
        config = QuEEConfig(**FULL)
        config.forget_profile()
        assert config.profile is config.cost_table is config.operating_points is config.cost_lambda is None
        assert (config.cost_model, config.record) == ("bitops", {"license": "mit"})
        config.validate()

    def test_other_costs_stay_when_times_go(self):
        points = [{**POINT, "cost_model": "flops"}]
        config = QuEEConfig(**{**FULL, "cost_model": "flops", "operating_points": points})
        config.forget_profile()
        assert (config.cost_model, config.cost_lambda) == ("flops", 0.1)
        assert "latency_ms" not in config.operating_points[0]
        assert "latency_ms" in points[0]  # the caller's own


class TestForeignFiles:
    def test_a_later_version_says_upgrade_even_if_it_has_fields_we_do_not_know(self, tmp_path):
        saved = QuEEConfig().to_dict() | {"format_version": FORMAT_VERSION + 1, "field_of_the_future": 1}
        (tmp_path / "config.json").write_text(json.dumps(saved))
        with pytest.raises(IncompatibleCheckpointError, match="pip install -U quee-hf"):
            QuEEConfig.from_pretrained(tmp_path)

    def test_an_earlier_version_says_build_anew(self, tmp_path):
        saved = QuEEConfig().to_dict() | {"format_version": 1}
        (tmp_path / "config.json").write_text(json.dumps(saved))
        with pytest.raises(IncompatibleCheckpointError, match="saved in format 1; .*Build it anew"):
            QuEEConfig.from_pretrained(tmp_path)

    def test_another_models_config_is_refused_by_its_type(self, tmp_path):
        ViTConfig().save_pretrained(tmp_path)
        with pytest.raises(ValueError, match="'vit' model, not a QuEE model.*from_backbone"):
            QuEEConfig.from_pretrained(tmp_path)

    def test_a_truncated_file_is_refused(self, tmp_path):
        text = QuEEConfig().to_json_string()
        (tmp_path / "config.json").write_text(text[: len(text) // 2])
        with pytest.raises(OSError, match=r"config\.json"):
            QuEEConfig.from_pretrained(tmp_path)


def test_names_levels_and_paths_need_no_torch():
    code = "import sys; sys.modules['torch'] = None; import importlib.util as u, pathlib\n"
    code += "import importlib.machinery, types\n"
    code += "package = types.ModuleType('quee_hf'); package.__path__ = [sys.argv[1]]\n"
    code += "sys.modules['quee_hf'] = package\n"
    code += "import quee_hf.errors, quee_hf.levels, quee_hf.paths\n"
    import quee_hf

    folder = quee_hf.__path__[0]
    subprocess.run([sys.executable, "-c", code, folder], check=True)
