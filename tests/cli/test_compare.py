"""Tests of `quee compare`."""

import json
import shutil

import pytest
from safetensors.torch import load_file
from tests.builds import write_classifier, write_images
from tests.cli.conftest import words

from quee_hf import QuEEForImageClassification
from quee_hf.baselines import BASELINES
from quee_hf.build.rebuild import rebuild


@pytest.fixture(scope="module")
def compared(root, built, tmp_path_factory):
    from typer.testing import CliRunner

    from quee_hf.cli.app import app

    output = tmp_path_factory.mktemp("compared") / "comparison"
    arguments = ["compare", built / "model", "--data", root / "test", "--validation", root / "validation"]
    arguments += ["--seeds", 2, "--gate-epochs", 2, "--output", output, "--json"]
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.stderr
    return arguments, output, json.loads(result.stdout)


def test_every_method_is_there(compared):
    _, output, found = compared
    assert set(found["methods"]) == {
        "quee",
        "quee-paper",
        "lra-ee",
        "static",
        "cls-ee",
        "jei-dnn",
        *BASELINES,
    }
    assert json.loads((output / "comparison.json").read_text()) == found
    assert "| oracle |" in (output / "comparison.md").read_text()
    for picture in ("comparison.png", "classes.png"):
        assert (output / picture).stat().st_size > 10_000
    assert not (output / "clusters.png").exists()


def test_gates_are_judged_and_classes_described(compared):
    _, _, found = compared
    assert set(found["gates"]) == {"quee", "quee-paper", "lra-ee"}
    assert [gate["exit_block"] for gate in found["gates"]["quee"]] == [1, 2]
    assert all({"rmse", "ece", "auroc", "aurc"} <= gate.keys() for gate in found["gates"]["quee-paper"])
    classes = found["classes"]["classes"]
    assert sum(row["num_images"] for row in classes) == 40
    for row in classes:
        assert len(row["path_shares"]) == len(found["classes"]["paths"])
        assert sum(row["path_shares"]) == pytest.approx(1, abs=1e-5)
    mean_cost = sum(row["cost"] * row["num_images"] for row in classes) / 40
    curve = found["methods"]["quee"]["curve"]
    assert min(point["cost"] for point in curve) - 0.2 < mean_cost <= 1


def test_numbers_of_clusters_are_drawn(compared, quee):
    arguments, output, _ = compared
    again = [*arguments, "--seeds", 1, "--methods", "clusters-2,clusters-5"]
    result = quee(*again)
    assert result.exit_code == 0, result.stderr
    assert set(json.loads(result.stdout)["gates"]) == {"quee", "clusters-2", "clusters-5"}
    assert (output / "clusters.png").stat().st_size > 10_000


def test_what_is_static_and_other_costs_are_described(compared):
    _, _, found = compared
    assert [row["level"] for row in found["static"]] == found["levels"]
    assert {f"{row['cost']:g}" for row in found["static"]} <= set(
        found["methods"]["quee"]["accuracy_at_cost"]
    )
    assert set(found["other_costs"]) == {"flops"}
    # In FLOPs all levels cost the same: the whole network at a lower one is no cheaper.
    static = found["other_costs"]["flops"]["static"]
    assert static["accuracy_at_cost"]["0.8"]["value"] is None
    assert found["methods"]["static"]["accuracy_at_cost"]["0.8"]["value"] is not None


def test_nothing_beats_the_oracle(compared):
    """But what has heads of its own does, perhaps."""
    areas = {name: method["area"]["value"] for name, method in compared[2]["methods"].items()}
    del areas["jei-dnn"], areas["cls-ee"]
    assert areas["oracle"] == pytest.approx(max(areas.values()))


def test_the_same_command_computes_nothing_again(compared, quee):
    arguments, output, found = compared
    files = sorted(output.glob("*.safetensors"))
    before = [(file.name, file.stat().st_mtime_ns) for file in files]
    (output / "quee-1.safetensors").unlink()
    again = json.loads(quee(*arguments).stdout)
    assert again["methods"] == found["methods"]
    after = [(file.name, file.stat().st_mtime_ns) for file in files]
    assert [first[0] for first, second in zip(before, after, strict=True) if first != second] == [
        "quee-1.safetensors"
    ]
    kept = set(load_file(output / "quee-1.safetensors"))
    assert kept > {"is_correct", "cost", "node"}
    assert all(name.startswith("gates.") for name in kept - {"is_correct", "cost", "node"})


def test_other_settings_start_anew(compared, quee):
    arguments, output, _ = compared
    before = (output / "quee-0.safetensors").stat().st_mtime_ns
    result = quee(*arguments, "--gate-epochs", "1", "--methods", "oracle")
    assert set(json.loads(result.stdout)["methods"]) == {"quee", "oracle"}
    assert (output / "quee-0.safetensors").stat().st_mtime_ns != before


@pytest.mark.parametrize(
    "changed", [{"gate_hidden_size": 7}, {"cost_model": "flops"}, {"gate_features": "confidence"}], ids=str
)
def test_another_config_with_the_same_heads_starts_anew(compared, built, quee, tmp_path, changed):
    arguments, output, _ = compared
    shutil.copytree(output, tmp_path / "comparison")
    shutil.copytree(built / "model", tmp_path / "model")
    model = QuEEForImageClassification.from_pretrained(tmp_path / "model")
    other = rebuild(model, **changed)
    assert not {"measured", "drift_reference"} & set(other.config.record or ())  # of other gates
    other.save_pretrained(tmp_path / "model")
    again = [*arguments, "--methods", "oracle", "--seeds", "1"]
    again[1], again[again.index(output)] = tmp_path / "model", tmp_path / "comparison"
    before = (output / "quee-0.safetensors").read_bytes()
    result = quee(*again)
    assert result.exit_code == 0, result.stderr
    assert (tmp_path / "comparison" / "quee-0.safetensors").read_bytes() != before
    if "cost_model" in changed:
        costs = load_file(tmp_path / "comparison" / "oracle-0.safetensors")["cost"]
        assert set(costs.unique().tolist()) <= set(rebuild(model, **changed).router.costs.tolist())


def test_a_few_images_are_too_few_to_learn_from(compared, root, quee, tmp_path):
    arguments, _, _ = compared
    few = tmp_path / "few"
    write_images(few, 8, seed=77)
    again = [*arguments]
    again[again.index("--validation") + 1] = few
    again[again.index("--output") + 1] = tmp_path / "comparison"
    result = quee(*again)
    assert result.exit_code == 2
    assert "at least 10 images, got 8" in words(result.stderr)
    assert not (tmp_path / "comparison").exists()


def test_images_prepared_in_another_way_are_run_anew(compared, built, quee, tmp_path):
    arguments, output, _ = compared
    shutil.copytree(output, tmp_path / "comparison")
    shutil.copytree(built / "model", tmp_path / "model")
    settings = tmp_path / "model" / "preprocessor_config.json"
    found = json.loads(settings.read_text())
    settings.write_text(json.dumps({**found, "image_mean": [0.1, 0.9, 0.2], "do_normalize": True}))
    again = [*arguments, "--methods", "oracle", "--seeds", "1"]
    again[1], again[again.index(output)] = tmp_path / "model", tmp_path / "comparison"
    result = quee(*again)
    assert result.exit_code == 0, result.stderr
    name = "test-outputs.safetensors"
    before, after = (
        load_file(folder / name)["routable_logits"] for folder in (output, tmp_path / "comparison")
    )
    assert not before.equal(after)


def test_a_model_with_gates_of_another_type_is_compared_with_quees(compared, built, quee, tmp_path):
    arguments, _, _ = compared
    shutil.copytree(built / "model", tmp_path / "model")
    model = QuEEForImageClassification.from_pretrained(tmp_path / "model")
    rebuild(model, gate_type="lra", gate_features="spatial").save_pretrained(tmp_path / "model")
    again = [*arguments, "--methods", "oracle", "--seeds", "1"]
    again[1] = tmp_path / "model"
    again[again.index("--output") + 1] = tmp_path / "comparison"
    result = quee(*again)
    assert result.exit_code == 0, result.stderr
    names = load_file(tmp_path / "comparison" / "quee-0.safetensors")
    assert any("path.weight" in name for name in names)
    assert not any("thresholds" in name for name in names)


@pytest.mark.parametrize(("exits", "levels"), [([3], ["fp32", "bf16"]), ([3], ["fp32"])], ids=str)
def test_one_exit_has_no_gates_to_train(compared, built, quee, tmp_path, exits, levels):
    arguments, _, _ = compared
    shutil.copytree(built / "model", tmp_path / "model")
    backbone = tmp_path / "backbone"
    write_classifier(backbone)
    model = QuEEForImageClassification.from_backbone(
        backbone, exit_blocks=exits, levels=levels, first_level="any"
    )
    model.config.trained_parts = ["heads"]
    model.save_pretrained(tmp_path / "model")
    again = [*arguments, "--seeds", "1"]
    again[1] = tmp_path / "model"
    again[again.index("--output") + 1] = tmp_path / "comparison"
    result = quee(*again)
    assert result.exit_code == 0, result.stderr
    assert len(json.loads(result.stdout)["methods"]) >= 16


@pytest.mark.parametrize(
    ("option", "value", "complaint"),
    [
        ("--methods", "oracle,guess", "There is no method guess; there are quee, quee-paper"),
        ("--seeds", "0", "`num_seeds` must be at least 1, got 0"),
        ("--validation", "{data}", "40 of the test images are among those to learn from"),
    ],
)
def test_mistakes_are_refused(compared, root, quee, option, value, complaint):
    result = quee(*compared[0], option, value.format(data=root / "test"))
    assert result.exit_code == 2
    assert complaint in " ".join(result.stderr.split())
