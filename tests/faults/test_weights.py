"""Damaged weights are refused, whatever was done to them; `benchmarks/faults.py` does it thousands of times."""

import hashlib
import json
import os
import shutil
import struct
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tests.faults.judging import judge
from tests.faults.weights import FILE, Victim, crafted, flip, random_damage, write_lone_seal
from tests.tiny import images, routable

from quee_hf import IncompatibleCheckpointError, QuEEForImageClassification
from quee_hf.checksums import seal_weights

REFUSED = f"`{IncompatibleCheckpointError.__name__}`"


@pytest.fixture(scope="module")
def victim(tmp_path_factory):
    return Victim(tmp_path_factory.mktemp("victim"))


def test_random_damage_is_refused(victim):
    verdicts = [judge(attack, (IncompatibleCheckpointError,)) for attack in random_damage(victim, 12, seed=0)]
    assert {verdict.outcome for verdict in verdicts} == {REFUSED}


def test_what_is_made_by_hand_is_refused(victim):
    verdicts = [judge(attack, (IncompatibleCheckpointError,)) for attack in crafted(victim)]
    others = {verdict.kind: verdict.outcome for verdict in verdicts if verdict.outcome != REFUSED}
    assert others == {"a name given twice, to the same tensor": "loads, the same weights"}
    assert len(verdicts) > 20


class TestSeal:
    @pytest.fixture
    def file(self, tmp_path) -> Path:
        save_file(
            {"a": torch.arange(6.0), "b": torch.zeros(3, dtype=torch.uint8)}, tmp_path / "w.safetensors"
        )
        return tmp_path / "w.safetensors"

    def test_changes_no_tensor(self, file):
        before = load_file(file)
        seal_weights([file])
        after = load_file(file)
        assert before.keys() == after.keys()
        assert all(torch.equal(before[name], after[name]) for name in before)
        assert list(file.parent.iterdir()) == [file]

    def test_stands_in_the_header_and_leaves_what_else_does(self, file):
        save_file(load_file(file), file, metadata={"format": "pt"})
        seal_weights([file])
        with safe_open(file, framework="pt") as opened:
            metadata = opened.metadata()
        assert metadata["format"] == "pt"
        assert len(metadata["quee_sha256"]) == 64
        assert metadata["quee_after"] == "0" * 64  # it is the first

    def test_names_the_checksum_of_the_file_before(self, file):
        files = [file.with_name(f"{number}.safetensors") for number in (2, 1, 3)]
        for number, each in enumerate(files):
            save_file({"a": torch.full((2,), float(number))}, each)
        seal_weights(files)
        seals = []
        for each in sorted(files):
            with safe_open(each, framework="pt") as opened:
                seals.append(opened.metadata())
        assert [each["quee_after"] for each in seals[1:]] == [each["quee_sha256"] for each in seals[:-1]]

    def test_twice_gives_the_same_bytes(self, file):
        seal_weights([file])
        once = file.read_bytes()
        seal_weights([file])
        assert file.read_bytes() == once

    def test_tensors_stay_aligned(self, file):
        seal_weights([file])
        (size,) = struct.unpack("<Q", file.read_bytes()[:8])
        assert size % 8 == 0


@pytest.mark.parametrize("key", [b'"quee_sha256"', b'"quee_after"', b'"__metadata__"'])
def test_no_flipped_bit_of_their_names_hides_checksums(victim, key):
    start, outcomes = victim.whole.index(key), set()
    for bit in range(8 * start, 8 * (start + len(key))):
        outcomes.add(judge(flip(victim, bit), (IncompatibleCheckpointError,)).outcome)
    assert outcomes == {REFUSED}


@pytest.fixture(scope="module")
def saves(tmp_path_factory):
    """Folders of two models of the same shapes, each in several files that all differ."""
    folders = []
    for factor in (1.0, 1.5):
        model = routable(levels=[8, 4])
        for weight in model.state_dict().values():
            weight.copy_(weight * factor if weight.is_floating_point() else weight)
        folders.append(tmp_path_factory.mktemp("save"))
        model.save_pretrained(folders[-1], max_shard_size="20KB")
    return folders


class TestSeveralFiles:
    """Of one save, or of two."""

    @pytest.fixture
    def shards(self, saves, tmp_path):
        """Return the shards of a copy of the first save."""
        shutil.copytree(saves[0], tmp_path / "model")
        return sorted((tmp_path / "model").glob("*.safetensors"))

    def test_of_one_save_load(self, shards):
        assert len(shards) > 2
        QuEEForImageClassification.from_pretrained(shards[0].parent)

    def test_of_two_saves_are_refused(self, saves, shards):
        """Whichever one is of the other."""
        for shard in shards:
            whole, other = shard.read_bytes(), (saves[1] / shard.name).read_bytes()
            assert whole != other
            shard.write_bytes(other)
            with pytest.raises(IncompatibleCheckpointError, match="are not of one save"):
                QuEEForImageClassification.from_pretrained(shard.parent)
            shard.write_bytes(whole)

    @pytest.mark.parametrize("place", [0, 1, -1])
    def test_one_that_another_tool_has_written_is_refused(self, shards, place):
        save_file(load_file(shards[place]), shards[place], metadata={"format": "pt"})
        with pytest.raises(IncompatibleCheckpointError, match="are not of one save"):
            QuEEForImageClassification.from_pretrained(shards[0].parent)

    def test_all_that_another_tool_has_written_load(self, shards):
        for shard in shards:
            save_file(load_file(shard), shard, metadata={"format": "pt"})
        QuEEForImageClassification.from_pretrained(shards[0].parent)

    def test_of_a_version_that_did_not_tie_them_load(self, shards):
        for shard in shards:
            write_lone_seal(shard)
        QuEEForImageClassification.from_pretrained(shards[0].parent)

    def test_in_the_hubs_cache_are_compared_too(self, saves, shards):
        """There a file's own checksum is its name."""
        shutil.copy(saves[1] / shards[-1].name, shards[-1])
        blobs = shards[0].parent / "blobs"
        blobs.mkdir()
        for shard in shards:
            blob = blobs / hashlib.sha256(shard.read_bytes()).hexdigest()
            os.rename(shard, blob)
            shard.symlink_to(blob)
        with pytest.raises(IncompatibleCheckpointError, match="are not of one save"):
            QuEEForImageClassification.from_pretrained(shards[0].parent)


class TestSavedWeights:
    def test_every_shard_is_sealed(self, tmp_path):
        model = routable(levels=[8, 4])
        model.save_pretrained(tmp_path, max_shard_size="20KB")
        shards = sorted(tmp_path.glob("*.safetensors"))
        assert len(shards) > 2
        content = bytearray(shards[-1].read_bytes())
        content[-1] ^= 1
        shards[-1].write_bytes(content)
        with pytest.raises(IncompatibleCheckpointError, match=f"{shards[-1].name} is damaged: .*checksum"):
            QuEEForImageClassification.from_pretrained(tmp_path)

    def test_what_another_tool_has_written_is_believed(self, tmp_path):
        model = routable(levels=[8, 4])
        model.save_pretrained(tmp_path)
        tensors = load_file(tmp_path / FILE)
        tensors["heads.0.network.weight"] += 1
        save_file(tensors, tmp_path / FILE, metadata={"format": "pt"})
        changed = QuEEForImageClassification.from_pretrained(tmp_path)
        assert not torch.equal(changed(images(1), path=[8]).logits, model(images(1), path=[8]).logits)

    def test_the_checksum_does_not_depend_on_the_kind_of_float_it_is_loaded_as(self, tmp_path):
        routable(levels=[8, 4]).save_pretrained(tmp_path)
        content = bytearray((tmp_path / FILE).read_bytes())
        content[-1] ^= 1
        (tmp_path / FILE).write_bytes(content)
        with pytest.raises(IncompatibleCheckpointError, match="checksum"):
            QuEEForImageClassification.from_pretrained(tmp_path, dtype=torch.float16)

    def test_a_file_of_the_hubs_cache_is_compared_once(self, tmp_path, monkeypatch):
        """By the checksum that names it; a file of no name is by its own."""
        routable(levels=[8, 4]).save_pretrained(tmp_path / "model")
        weights = tmp_path / "model" / FILE
        blob = tmp_path / "blobs" / ("ab" * 32)
        blob.parent.mkdir()
        os.rename(weights, blob)
        weights.symlink_to(blob)
        with pytest.raises(IncompatibleCheckpointError, match="not the file that the Hub says it is"):
            QuEEForImageClassification.from_pretrained(tmp_path / "model")


def test_no_model_is_too_large_to_be_refused(tmp_path):
    """Sizes that no memory holds end before any is taken."""
    routable(levels=[8, 4]).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    for field, value in (("num_channels", 10**18), ("hidden_size", 10**12), ("intermediate_size", 10**15)):
        changed = config | {"backbone_config": config["backbone_config"] | {field: value}}
        (tmp_path / "config.json").write_text(json.dumps(changed))
        with pytest.raises(IncompatibleCheckpointError):
            QuEEForImageClassification.from_pretrained(tmp_path)
