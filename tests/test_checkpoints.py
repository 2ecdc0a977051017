"""Tests of model files: replaced whole or not at all, and checked before anything is loaded."""

import hashlib
import json
import os
import signal
import stat
import struct
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.tiny import VARIANTS, images, routable, wrap
from transformers import PreTrainedModel

from quee_hf import IncompatibleCheckpointError, QuEEForImageClassification
from quee_hf.checkpoints import atomic_directory, read_weights, weight_files
from quee_hf.checksums import checked_files


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


class TestAtomicDirectory:
    @pytest.fixture
    def old(self, tmp_path):
        target = tmp_path / "model"
        target.mkdir()
        for name in ("config.json", "model.safetensors", "README.md"):
            (target / name).write_text(f"old {name}")
        return target

    def test_a_new_directory_appears_when_all_is_written(self, tmp_path):
        target = tmp_path / "deeper" / "model"
        with atomic_directory(target) as staging:
            (staging / "config.json").write_text("new")
            assert not target.exists()
        assert contents(target) == {"config.json": b"new"}
        assert list(target.parent.iterdir()) == [target]

    def test_a_new_directory_is_as_readable_as_any_other(self, tmp_path):
        with atomic_directory(tmp_path / "model"):
            pass
        (tmp_path / "other").mkdir()
        modes = {stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("model", "other")}
        assert len(modes) == 1

    def test_files_are_replaced_and_others_stay(self, old):
        with atomic_directory(old) as staging:
            (staging / "config.json").write_text("new")
            assert contents(old)["config.json"] == b"old config.json"
        assert contents(old) == {
            "config.json": b"new",
            "model.safetensors": b"old model.safetensors",
            "README.md": b"old README.md",
        }
        assert not [path for path in old.iterdir() if path.is_dir()]

    def test_weights_of_an_earlier_save_go(self, old):
        with atomic_directory(old) as staging:
            for name in ("config.json", "model-00001-of-00001.safetensors", "model.safetensors.index.json"):
                (staging / name).write_text("new")
        assert set(contents(old)) == {
            "config.json",
            "model-00001-of-00001.safetensors",
            "model.safetensors.index.json",
            "README.md",
        }

    def test_the_config_comes_last_after_old_weights_are_gone(self, old, monkeypatch):
        """Killed at any step, the directory never pairs a new config with old weights."""
        seen = []

        def replace(source, destination):
            seen.append((Path(destination).name, sorted(contents(old))))
            os.rename(source, destination)

        monkeypatch.setattr("quee_hf.checkpoints.os.replace", replace)
        with atomic_directory(old) as staging:
            for name in ("config.json", "model-00001-of-00001.safetensors", "model.safetensors.index.json"):
                (staging / name).write_text("new")
        name, present = seen[-1]
        assert name == "config.json"
        assert "model.safetensors" not in present

    def test_a_failure_changes_nothing(self, old, tmp_path):
        before = contents(old)
        for target in (old, tmp_path / "new"):
            with pytest.raises(RuntimeError, match="disk full"), atomic_directory(target) as staging:
                (staging / "config.json").write_text("new")
                raise RuntimeError("disk full")
        assert contents(old) == before
        assert list(tmp_path.iterdir()) == [old]
        assert not [path for path in old.iterdir() if path.is_dir()]

    def test_an_existing_directory_may_be_a_file_system_of_its_own(self, old):
        with atomic_directory(old) as staging:
            assert staging.stat().st_dev == old.stat().st_dev
            assert staging.parent == old  # its parent may be on another device, or not be writable

    def test_a_link_to_a_directory_is_followed(self, old, tmp_path):
        link = tmp_path / "link"
        link.symlink_to(old)
        with atomic_directory(link) as staging:
            (staging / "config.json").write_text("new")
        assert link.is_symlink()
        assert contents(old)["config.json"] == b"new"

    def test_a_file_in_its_place_is_refused_and_kept(self, tmp_path):
        file = tmp_path / "model"
        file.write_text("precious")
        with (
            pytest.raises(NotADirectoryError, match="model exists and is not a directory"),
            atomic_directory(file),
        ):
            pass
        assert file.read_text() == "precious"


EXPECTED = {
    "weight": torch.zeros(2, 3),
    "codes": torch.zeros(4, dtype=torch.uint8),
    "zero_point": torch.zeros((), dtype=torch.int32),
}


class TestCheckWeightFiles:
    @pytest.fixture
    def check(self, tmp_path):
        """Save tensors as one file or several, and check them against `EXPECTED`."""

        def save_and_check(*parts):
            files = []
            for number, tensors in enumerate(parts):
                files.append(str(tmp_path / f"{number}.safetensors"))
                save_file(tensors, files[-1])
            read_weights(files, EXPECTED)

        return save_and_check

    def test_what_fits_passes_in_one_file_or_several(self, check):
        check(EXPECTED)
        check({"weight": EXPECTED["weight"]}, {name: EXPECTED[name] for name in ("codes", "zero_point")})

    def test_meta_tensors_are_enough_to_compare_with(self, tmp_path):
        save_file(EXPECTED, tmp_path / "f.safetensors")
        meta = {name: tensor.to("meta") for name, tensor in EXPECTED.items()}
        read_weights([str(tmp_path / "f.safetensors")], meta)

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
    def test_other_precisions_of_floats_pass(self, check, dtype):
        check({**EXPECTED, "weight": EXPECTED["weight"].to(dtype)})

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"weight": None}, "1 missing: weight"),
            ({"extra": torch.zeros(1)}, "1 unexpected: extra"),
            ({"weight": torch.zeros(3, 2)}, r"1 unusable: weight has shape \(3, 2\), needs \(2, 3\)"),
            ({"weight": torch.zeros(2, 3).double()}, "weight is torch.float64, needs torch.float32"),
            ({"weight": torch.zeros(2, 3, dtype=torch.int32)}, "weight is torch.int32, needs torch.float32"),
            ({"codes": torch.zeros(4, dtype=torch.int8)}, "codes is torch.int8, needs torch.uint8"),
            ({"codes": torch.zeros(4)}, "codes is torch.float32, needs torch.uint8"),
            ({"weight": torch.full((2, 3), torch.nan)}, "weight holds NaN or infinity"),
            ({"weight": torch.tensor([[0, 0, 0], [0, 0, -torch.inf]])}, "weight holds NaN or infinity"),
            (
                {"weight": torch.full((2, 3), torch.inf).bfloat16()},
                "weight holds NaN or infinity",
            ),
        ],
    )
    def test_what_does_not_fit_is_named(self, check, change, message):
        tensors = {name: tensor for name, tensor in {**EXPECTED, **change}.items() if tensor is not None}
        with pytest.raises(
            IncompatibleCheckpointError, match=f"The weights do not fit the config.*{message}"
        ):
            check(tensors)

    def test_all_kinds_of_problems_are_told_at_once_and_many_are_cut_short(self, check):
        surplus = {f"extra{i}": torch.zeros(1) for i in range(8)}
        with pytest.raises(IncompatibleCheckpointError) as caught:
            check({"codes": EXPECTED["codes"], "weight": torch.zeros(7), **surplus})
        assert str(caught.value) == (
            "The weights do not fit the config. 1 missing: zero_point; 8 unexpected: extra0, extra1, extra2, extra3,"
            " extra4, ...; 1 unusable: weight has shape (7,), needs (2, 3)."
        )

    @pytest.mark.parametrize("cut", [0, 1, 7, 8, 40, -1])
    def test_a_truncated_file_is_refused(self, tmp_path, cut):
        file = tmp_path / "f.safetensors"
        save_file(EXPECTED, file)
        file.write_bytes(file.read_bytes()[:cut])
        with pytest.raises(IncompatibleCheckpointError, match="f.safetensors is damaged or incomplete"):
            read_weights([str(file)], EXPECTED)

    def test_any_flipped_bit_of_the_header_is_refused(self, tmp_path):
        file = tmp_path / "f.safetensors"
        save_file(EXPECTED, file)
        whole = file.read_bytes()
        (length,) = struct.unpack("<Q", whole[:8])
        header_end = 8 + len(whole[8 : 8 + length].rstrip())  # spaces that fill it up carry no meaning
        for position in range(header_end):
            damaged = bytearray(whole)
            damaged[position] ^= 1 << (position % 8)
            file.write_bytes(damaged)
            with pytest.raises(IncompatibleCheckpointError):
                read_weights([str(file)], EXPECTED)

    def test_a_missing_file_is_refused(self, tmp_path):
        with pytest.raises(IncompatibleCheckpointError, match="damaged or incomplete"):
            read_weights([str(tmp_path / "absent.safetensors")], EXPECTED)


class TestWeightFiles:
    def test_no_weights(self, tmp_path):
        with pytest.raises(IncompatibleCheckpointError, match=r"has no model\.safetensors"):
            weight_files(tmp_path)

    def test_pickled_weights_are_not_read(self, tmp_path):
        torch.save(EXPECTED, tmp_path / "pytorch_model.bin")
        with pytest.raises(IncompatibleCheckpointError, match="safetensors only"):
            weight_files(tmp_path)

    @pytest.mark.parametrize("index", ["", "{", "[]", "{}", '{"weight_map": {}}', '{"weight_map": []}'])
    def test_a_damaged_index(self, tmp_path, index):
        (tmp_path / "model.safetensors.index.json").write_text(index)
        with pytest.raises(IncompatibleCheckpointError, match="incomplete"):
            weight_files(tmp_path)


@pytest.fixture(scope="module")
def original():
    return routable(levels=[8, 4])


@pytest.fixture
def saved(original, tmp_path):
    original.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


class TestLoadingDamagedFiles:
    """`from_pretrained` finds out before it loads anything."""

    @pytest.fixture(autouse=True)
    def refuse_to_load(self, monkeypatch):
        def fail(*arguments, **options):
            raise AssertionError("Loading began.")

        monkeypatch.setattr(PreTrainedModel, "from_pretrained", classmethod(fail))

    def rewrite(self, folder, change):
        file = folder / "model.safetensors"
        tensors = load_file(file)
        change(tensors)
        save_file(tensors, file, metadata={"format": "pt"})

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (lambda t: t.pop("heads.0.network.weight"), r"1 missing: heads\.0\.network\.weight"),
            (
                lambda t: t.pop("trunk.blocks.1.mlp.fc1.codes_4"),
                r"missing: trunk\.blocks\.1\.mlp\.fc1\.codes_4",
            ),
            (lambda t: t.update(stray=torch.zeros(1)), "1 unexpected: stray"),
            (
                lambda t: t.update({"gates.1.output.bias": torch.zeros(2)}),
                r"gates\.1\.output\.bias has shape \(2,\), needs \(1,\)",
            ),
            (
                lambda t: t.update({"gates.1.output.bias": torch.zeros(1).double()}),
                r"gates\.1\.output\.bias is torch.float64, needs torch.float32",
            ),
            (
                lambda t: t.update({"gates.1.output.bias": torch.tensor([torch.nan])}),
                r"gates\.1\.output\.bias holds NaN",
            ),
            (
                lambda t: t["trunk.blocks.0.attention.qkv.weight_scale"].fill_(torch.inf),
                r"qkv\.weight_scale holds NaN or infinity",
            ),
        ],
    )
    def test_weights_that_do_not_fit(self, saved, change, message):
        self.rewrite(saved, change)
        with pytest.raises(IncompatibleCheckpointError, match=message):
            QuEEForImageClassification.from_pretrained(saved)

    @pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.999])
    def test_truncated(self, saved, share):
        file = saved / "model.safetensors"
        whole = file.read_bytes()
        file.write_bytes(whole[: int(share * len(whole))])
        with pytest.raises(IncompatibleCheckpointError, match=r"model\.safetensors is damaged or incomplete"):
            QuEEForImageClassification.from_pretrained(saved)

    @pytest.mark.parametrize("position", [0, 3, 7, 8, 20, 200, 2000])
    def test_a_flipped_bit_in_the_header(self, saved, position):
        file = saved / "model.safetensors"
        damaged = bytearray(file.read_bytes())
        damaged[position] ^= 4
        file.write_bytes(damaged)
        with pytest.raises(IncompatibleCheckpointError):
            QuEEForImageClassification.from_pretrained(saved)

    def test_no_weights(self, saved):
        (saved / "model.safetensors").unlink()
        with pytest.raises(IncompatibleCheckpointError, match=r"has no model\.safetensors"):
            QuEEForImageClassification.from_pretrained(saved)

    def test_a_missing_shard(self, original, tmp_path):
        original.save_pretrained(tmp_path, max_shard_size="20KB")
        shards = sorted(tmp_path.glob("model-*.safetensors"))
        assert len(shards) > 2
        shards[1].unlink()
        with pytest.raises(IncompatibleCheckpointError, match=f"{shards[1].name} is damaged or incomplete"):
            QuEEForImageClassification.from_pretrained(tmp_path)

    @pytest.mark.parametrize(
        "fields", [{"levels": [8]}, {"levels": [8, 5]}, {"exit_blocks": [2, 4]}, {"quantization": None}]
    )
    def test_a_config_that_fits_other_weights(self, saved, fields):
        config = json.loads((saved / "config.json").read_text())
        (saved / "config.json").write_text(json.dumps(config | fields))
        with pytest.raises(IncompatibleCheckpointError, match="The weights do not fit the config"):
            QuEEForImageClassification.from_pretrained(saved)

    def test_a_logit_scale_of_a_model_with_a_classifier(self, saved):
        config = json.loads((saved / "config.json").read_text())
        (saved / "config.json").write_text(json.dumps(config | {"logit_scale": 3.0}))
        with pytest.raises(
            IncompatibleCheckpointError, match=r"'vit' .*`logit_scale` must be None, got 3\.0"
        ):
            QuEEForImageClassification.from_pretrained(saved)

    def test_no_logit_scale_of_a_clip_model(self, tmp_path):
        wrap(VARIANTS["clip"].build()).save_pretrained(tmp_path)
        config = json.loads((tmp_path / "config.json").read_text())
        assert config.pop("logit_scale") > 0
        (tmp_path / "config.json").write_text(json.dumps(config))
        with pytest.raises(IncompatibleCheckpointError, match="'clip_vision_model' .*needs a `logit_scale`"):
            QuEEForImageClassification.from_pretrained(tmp_path)

    def test_a_later_format(self, saved):
        config = json.loads((saved / "config.json").read_text())
        (saved / "config.json").write_text(json.dumps(config | {"format_version": 3, "new_field": 1}))
        with pytest.raises(IncompatibleCheckpointError, match="format 3.*pip install -U quee-hf"):
            QuEEForImageClassification.from_pretrained(saved)

    def test_a_file_is_no_model(self, saved):
        with pytest.raises(OSError, match=r"config|README|file"):
            QuEEForImageClassification.from_pretrained(saved / "model.safetensors")


class TestSavingThatFails:
    def half_write(self, tensors, filename, metadata=None):
        Path(filename).write_bytes(b"half a file")
        raise OSError("No space left on device")

    def test_midway_leaves_the_old_content(self, original, saved, monkeypatch):
        before = contents(saved)
        monkeypatch.setattr("transformers.modeling_utils.safe_save_file", self.half_write)
        for options in ({}, {"max_shard_size": "20KB"}):
            with pytest.raises(OSError, match="No space left"):
                original.save_pretrained(saved, **options)
        assert contents(saved) == before
        assert sorted(path.name for path in saved.parent.iterdir()) == ["model"]
        assert not [path for path in saved.iterdir() if path.is_dir()]

    def test_midway_leaves_no_new_directory(self, original, tmp_path, monkeypatch):
        monkeypatch.setattr("transformers.modeling_utils.safe_save_file", self.half_write)
        with pytest.raises(OSError, match="No space left"):
            original.save_pretrained(tmp_path / "new")
        assert not list(tmp_path.iterdir())

    def test_an_invalid_config_leaves_the_old_content(self, saved):
        model = QuEEForImageClassification.from_pretrained(saved)
        before = contents(saved)
        model.config.cost_lambda = -1.0
        with pytest.raises(Exception, match="`cost_lambda` must be at least 0"):
            model.save_pretrained(saved)
        assert contents(saved) == before

    def test_over_a_file_is_refused_and_keeps_it(self, original, tmp_path):
        (tmp_path / "model").write_text("precious")
        with pytest.raises(NotADirectoryError, match="exists and is not a directory"):
            original.save_pretrained(tmp_path / "model")
        assert (tmp_path / "model").read_text() == "precious"

    def test_killed_midway_leaves_the_old_content(self, original, saved):
        """A process that dies while it writes the weights: no exception, no clean-up."""
        before = contents(saved)
        code = """
import os, signal, sys
import torch
import transformers.modeling_utils as modeling_utils
from quee_hf import QuEEForImageClassification

model = QuEEForImageClassification.from_pretrained(sys.argv[1])
write = modeling_utils.safe_save_file

def write_and_die(tensors, filename, metadata=None):
    write(tensors, filename, metadata=metadata)
    os.truncate(filename, os.path.getsize(filename) // 2)
    os.kill(os.getpid(), signal.SIGKILL)

modeling_utils.safe_save_file = write_and_die
with torch.no_grad():
    model.heads[0].network.weight.add_(1)
model.save_pretrained(sys.argv[1])
"""
        source = Path(sys.modules["quee_hf"].__file__).parents[1]
        environment = {**os.environ, "PYTHONPATH": str(source)}
        done = subprocess.run(
            [sys.executable, "-c", code, str(saved)], env=environment, capture_output=True, check=False
        )
        assert done.returncode == -signal.SIGKILL, done.stderr.decode()
        assert contents(saved) == before
        loaded = QuEEForImageClassification.from_pretrained(saved)
        assert torch.equal(loaded(images(2), path=(8,)).logits, original(images(2), path=(8,)).logits)
        original.save_pretrained(saved)  # and the next save works
        assert contents(saved) == before


class TestCheckedDownloads:
    def cached(self, folder, data, name=None):
        """Lay a file out as the Hub's cache does: a link to a blob that its checksum names."""
        blob = folder / "blobs" / (name or hashlib.sha256(data).hexdigest())
        blob.parent.mkdir()
        blob.write_bytes(data)
        link = folder / "snapshots" / "model.safetensors"
        link.parent.mkdir()
        link.symlink_to(blob)
        return link, blob

    @pytest.mark.parametrize("data", [b"data", b""])
    def test_a_whole_file_stays(self, tmp_path, data):
        link, blob = self.cached(tmp_path, data)
        with checked_files([str(link)]):
            pass
        assert blob.read_bytes() == link.read_bytes() == data

    def test_another_file_is_refused_and_removed(self, tmp_path):
        link, blob = self.cached(tmp_path, b"data", name=hashlib.sha256(b"Data").hexdigest())
        refused = pytest.raises(IncompatibleCheckpointError, match="not the file that the Hub says")
        with refused, checked_files([str(link)]):
            raise KeyError("the damage shows elsewhere, too")
        assert not link.is_symlink()
        assert not blob.exists()

    def test_small_files_are_named_as_git_does(self, tmp_path):
        """`printf data | git hash-object --stdin`."""
        link, blob = self.cached(tmp_path, b"data", name="6320cd248dd8aeaab759d5871f8781b5c0505172")
        with checked_files([str(link)]):
            pass
        blob.write_bytes(b"Data")
        with pytest.raises(IncompatibleCheckpointError, match="not the file"), checked_files([str(link)]):
            pass
        assert not blob.exists()

    @pytest.mark.parametrize("name", ["a" * 39, "model.safetensors"])
    def test_what_has_no_checksum_is_left_alone(self, tmp_path, name):
        link, _ = self.cached(tmp_path, b"data", name=name)
        with checked_files([str(link)]):
            pass
        assert link.exists()
