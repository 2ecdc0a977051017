"""Tests of `quee rescue`."""

import json
from itertools import product

import pytest
import torch
from safetensors.torch import load_file
from tests.cli.conftest import with_option, words
from typer.testing import CliRunner

from quee_hf.build import rescue_experiment, rescue_fits, rescue_networks
from quee_hf.build.rescue_heads import KINDS
from quee_hf.cli.app import app

ROWS = 17  # the whole network, and two heads x two supervisions x four kinds of routing


def arguments(root, output) -> list[str]:
    chosen = ["rescue", root / "model", "--train", root / "train", "--validation", root / "validation"]
    chosen += ["--data", root / "test", "--ptq", "torch_dynamic", "--level", 3, "--exits", "1,2"]
    chosen += ["--budget", 0.8, "--seeds", 2, "--head-epochs", 2, "--gate-epochs", 2]
    chosen += ["--calibration-images", 4, "--output", output, "--json"]
    return [str(word) for word in chosen]


@pytest.fixture(scope="module")
def rescued(root, tmp_path_factory):
    output = tmp_path_factory.mktemp("rescued") / "rescue"
    command = arguments(root, output)
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.stderr
    return command, output, json.loads(result.stdout)


def test_everything_is_written(rescued):
    _, output, found = rescued
    assert json.loads((output / "rescue.json").read_text()) == found
    for picture in ("rescue.png", "heads.png"):
        assert (output / picture).stat().st_size > 10_000
    page = (output / "rescue.md").read_text()
    assert all(statement in page for statement in found["statements"])
    assert "| (v) | SSA | distilled | leaves early |" in page
    assert not [file.name for file in output.iterdir() if file.name.startswith(".")]


def test_every_configuration_is_beside_the_whole_network(rescued):
    found = rescued[2]
    assert set(found["regimes"]) == {"float", "torch_dynamic"}
    for regime in found["regimes"].values():
        rows = regime["ablation"]["rows"]
        assert len(rows) == ROWS
        assert rows["baseline"]["difference"] == {"value": 0.0, "interval": [0.0, 0.0]}
        for name, row in rows.items():
            expected = row["accuracy"]["value"] - rows["baseline"]["accuracy"]["value"]
            assert row["difference"]["value"] == pytest.approx(expected, abs=2e-6)
            assert row["flops_saved"]["value"] == 0 or "adaptive" in name
            if "adaptive" in name and "unlimited" not in name:
                assert row["flops_saved"]["value"] > 0.1  # the budget, 0.2, holds on validation images
        heads = {(row["block"], row["supervision"]): row for row in regime["exit_accuracy"]}
        assert set(heads) == {(block, how) for block in (1, 2, 3) for how in ("hard", "distilled")}
        last = heads[3, "hard"]["ssa"]["value"]
        assert rows["ssa-last-hard"]["accuracy"]["value"] == last


def test_rescue_is_what_the_rows_differ_by(rescued):
    for regime in rescued[2]["regimes"].values():
        row = regime["ablation"]["rows"]["ssa-adaptive-distilled"]
        found = regime["rescue"]["(v)"]
        assert found["net"]["value"] == pytest.approx(row["difference"]["value"], abs=2e-6)
        assert len(found["fits"]) == 2
        assert sum(each["rescued"] for each in found["classes"]) == 2 * found["rescue"]["count"]


def test_images_leave_with_what_the_exit_there_says(rescued):
    output, num_telling = rescued[1], 0
    for network, kind, seed in product(("float", "torch_dynamic"), KINDS, (0, 1)):
        seen = load_file(output / f"features-{network}-test.safetensors")
        heads = load_file(output / f"heads-{network}-{kind.name}-{seed}.safetensors")["is_right"]
        routes = load_file(output / f"routes-{network}-{kind.name}-1-2-3-{seed}.safetensors")
        own = seen["outputs"].argmax(dim=-1) == seen["labels"]  # of a classifier, outputs are logits
        for ending, last in (("own", own), ("same", heads[-1])):
            expected = torch.stack([*heads[:-1], last])
            where = routes[f"{ending}.exit_index"].long()
            assert torch.equal(routes[f"{ending}.is_right"], expected.gather(0, where))
            num_telling += int(((where == 2) & (own != heads[-1])).sum())
    assert num_telling  # images that reach the last exit and are not the same there


def test_the_control_is_the_float_network(rescued):
    found = rescued[2]
    for row, compared in found["beside_control"]["torch_dynamic"]["rows"].items():
        own = found["regimes"]["float"]["rescue"][row]  # no exit was left out
        assert compared["control"]["rescue"] == own["rescue"]
        expected = compared["quantized"]["rescue"]["share"] - own["rescue"]["share"]
        assert compared["difference"]["rescue"]["value"] == pytest.approx(expected, abs=2e-6)


def test_the_same_command_computes_nothing_again(rescued, quee, monkeypatch):
    command, output, found = rescued
    before = {file: file.stat().st_mtime_ns for file in output.glob("*.safetensors")}

    def refuse(*_args, **_kwargs):
        raise AssertionError("computed again")

    for module, name in (
        (rescue_networks, "quantize"),
        (rescue_networks, "measure_noise"),
        (rescue_networks, "collect_block_features"),
        (rescue_fits, "train_heads"),
        (rescue_fits, "fit_routes"),
    ):
        monkeypatch.setattr(module, name, refuse)
    again = quee(*command)
    assert again.exit_code == 0, again.stderr
    assert json.loads(again.stdout) == found
    assert {file: file.stat().st_mtime_ns for file in before} == before
    # Another budget chooses among the same routes.
    cheaper = json.loads(quee(*with_option(command, "--budget", 0.5)).stdout)
    saved = [
        result["regimes"]["float"]["ablation"]["rows"]["ssa-adaptive-hard"]["flops_saved"]["value"]
        for result in (found, cheaper)
    ]
    assert saved[1] >= saved[0]
    assert saved[1] > 0.3  # the budget holds on validation images: about half is saved


def test_what_is_missing_is_computed(rescued, quee):
    command, output, found = rescued
    kept, gone = (output / f"heads-torch_dynamic-ssa-hard-{seed}.safetensors" for seed in (0, 1))
    before = kept.stat().st_mtime_ns
    gone.unlink()
    assert json.loads(quee(*command).stdout) == found
    assert gone.exists()
    assert kept.stat().st_mtime_ns == before


def test_pathological_exits_are_left_out_of_the_control_too(rescued, quee, monkeypatch):
    command, output, _ = rescued
    monkeypatch.setattr(rescue_experiment, "pathological_exits", lambda *_: [1])
    monkeypatch.setattr(rescue_experiment, "objections", lambda *_: {1: ["noise"]})
    result = quee(*command)
    assert result.exit_code == 0, result.stderr
    found = json.loads(result.stdout)
    quantized, exact = found["regimes"]["torch_dynamic"], found["regimes"]["float"]
    assert (quantized["exits"], quantized["left_out"]) == ([2, 3], {"1": ["noise"]})
    assert exact["exits"] == [1, 2, 3]
    assert "left out as pathological: 1 (noise)" in (output / "rescue.md").read_text()
    # Nothing can save more than leaving after the second block of three.
    assert all(point["flops_saved"] < 0.34 for point in quantized["curves"]["ssa-hard"])
    beside = found["beside_control"]["torch_dynamic"]
    for compared in (*beside["rows"].values(), *beside["any_cost"].values()):
        assert max(compared["flops_saved"]) < 0.34
    # Heads are judged at every exit all the same.
    assert {row["block"] for row in quantized["exit_accuracy"]} == {1, 2, 3}
    monkeypatch.setattr(rescue_experiment, "pathological_exits", lambda *_: [1, 2])
    result = quee(*command)
    assert result.exit_code == 2
    assert "torch_dynamic at 3 bits spoils every exit before the last" in words(result.stderr)


@pytest.mark.parametrize(
    ("option", "value", "complaint"),
    [
        ("--ptq", "guess", "`ptq` must name methods of"),
        ("--exits", "1,9", "`exits` must be blocks 1 to 3"),
        ("--budget", "0.2", "`budget` 0.2 is below what the first exit costs, 1/3 of the network"),
        ("--level", "9", "9"),
        ("--seeds", "0", "`num_seeds` must be at least 1, got 0"),
        ("--data", "{root}/validation", "120 images are both in `validation` and in `data`"),
        ("--validation", "{root}/train", "160 images are both in `validation` and in `train`"),
        ("--train", "{root}/nowhere", "`train`: {root}/nowhere does not exist"),
        ("--data", "{root}/nowhere", "`data`: {root}/nowhere does not exist"),
        ("--output", "{root}/model/config.json", "is not a directory"),
    ],
)
def test_mistakes_are_refused_before_work_starts(root, tmp_path, quee, option, value, complaint):
    command = with_option(arguments(root, tmp_path / "rescue"), option, value.format(root=root))
    result = quee(*command)
    assert result.exit_code == 2
    assert complaint.format(root=root) in words(result.stderr)
    assert not (tmp_path / "rescue").exists()
