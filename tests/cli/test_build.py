"""Tests of `quee build`: what it makes, that it can be killed, and what a changed recipe redoes."""

import json
import re
from pathlib import Path

import pytest
import yaml
from tests.builds import build_arguments, run, run_and_kill
from transformers import pipeline

from quee_hf import QuEEForImageClassification
from quee_hf.build.run_directory import RunDirectory
from quee_hf.build.stages import STAGES

STAGE_NAMES = [stage.name for stage in STAGES]


def files(run_directory: Path) -> dict[str, bytes]:
    """Return all that a build made but its clock."""
    made = [path for path in run_directory.rglob("*") if path.is_file() and path.name != ".lock"]
    return {
        str(path.relative_to(run_directory)): re.sub(rb'"seconds": [\d.]+', b"", path.read_bytes())
        for path in made
    }


class TestResult:
    def test_model_can_be_used_by_the_pipeline(self, root, built):
        classify = pipeline("image-classification", model=str(built / "model"), device="cpu")
        image = str(root / "test" / "red" / "000.png")
        result = classify(image, cost_lambda=0.5, return_routing=True)
        assert {score["label"] for score in result["scores"]} == {"red", "green", "blue", "grey"}
        assert 0 < result["routing"]["cost"] <= 1

    def test_every_stage_with_weights_is_a_model(self, built):
        for name in ("1-convert", "2-heads", "3-quantize", "5-gates"):
            model = QuEEForImageClassification.from_pretrained(built / "stages" / name)
            assert list(model.config.exit_blocks) == [1, 2, 3]
        assert model.config.trained_parts == ["gates", "heads"]

    def test_report_has_what_it_promises(self, built):
        report = json.loads((built / "report.json").read_text())
        assert [row["path"] for row in report["exits"]] == [[8], [8, 8], [8, 8, 8]]
        assert [row["path"] for row in report["uniform_paths"]] == [[8, 8, 8], [4, 4, 4]]
        assert len(report["paths"]) == 6
        for row in (*report["paths"], *report["uniform_paths"], *report["operating_points"]):
            low, high = row["accuracy_interval"]
            assert 0 <= low <= row["accuracy"] <= high <= 1
            assert row["num_images"] == 36
        assert [gate["exit_block"] for gate in report["gates"]] == [1, 2]
        assert all({"rmse", "auroc", "ece"} <= gate.keys() for gate in report["gates"])
        assert report["uniform_paths"][0]["accuracy"] > 0.5, "the tiny classifier has learnt something"

    def test_roles_are_disjoint_and_cover_all_images(self, built):
        roles = json.loads((built / "report.json").read_text())["roles"]
        by_source = {}
        for role in roles:
            by_source.setdefault(Path(role["source"]).name, []).append(role["num_images"])
        assert {name: sum(counts) for name, counts in by_source.items()} == {"train": 160, "validation": 120}
        assert len({role["fingerprint"] for role in roles}) == len(roles) == 6

    def test_operating_points_are_in_the_config(self, built):
        config = QuEEForImageClassification.from_pretrained(built / "model").config
        report = json.loads((built / "report.json").read_text())
        assert [point["cost_lambda"] for point in config.operating_points] == [
            point["cost_lambda"] for point in report["operating_points"]
        ]
        assert config.cost_lambda == report["cost_lambda"]

    def test_recipe_is_written_with_the_last_block(self, built):
        recipe = yaml.safe_load((built / "recipe.yaml").read_text())
        assert recipe["exits"] == [1, 2, 3]
        assert recipe["levels"] == [8, 4]

    def test_done_says_what_made_a_stage(self, built):
        done = json.loads((built / "stages" / "2-heads" / "done.json").read_text())
        upstream = json.loads((built / "stages" / "1-convert" / "done.json").read_text())
        assert done["inputs"]["recipe"] == {"head_epochs": 4, "seed": 0}
        assert done["inputs"]["upstream"] == upstream["hash"]
        assert set(done["versions"]) == {"quee_hf", "torch", "transformers"}
        assert set(done["files"]) == {"config.json", "model.safetensors", "preprocessor_config.json"}


def test_killed_in_every_stage_ends_with_the_same_bytes(root, built, tmp_path):
    output, log = tmp_path / "run", tmp_path / "log"
    arguments = build_arguments(root, output)
    seconds = {
        name: json.loads((built / "stages" / name / "done.json").read_text())["seconds"]
        for name in STAGE_NAMES
    }
    for position, name in enumerate(STAGE_NAMES):
        code = run_and_kill(
            arguments,
            log,
            is_time=lambda name=name: any((output / "stages").glob(f".{name}.building-*")),
            delay=seconds[name] / 3,
        )
        assert code == -9, log.read_text()
        reused = re.findall(r"^(\S+): reused", log.read_text(), re.MULTILINE)
        assert reused == STAGE_NAMES[: len(reused)]
        assert len(reused) >= position - 1  # a fast machine may be through with a stage before it is killed
        assert not (output / "model").exists()
    assert run(arguments, log) == 0, log.read_text()
    assert files(output) == files(built)


def test_same_recipe_again_reuses_everything(root, built, quee):
    before = files(built)
    result = quee(*build_arguments(root, built))
    assert result.exit_code == 0, result.output
    assert all(f"{name}: reused" in result.stderr for name in STAGE_NAMES)
    assert "6 reused, 0 built" in result.stdout
    assert f"quee predict {built}/model" in result.stdout
    assert files(built) == before


@pytest.fixture
def copied(built, tmp_path) -> Path:
    """Return a copy of the shared build."""
    import shutil

    return Path(shutil.copytree(built, tmp_path / "copied"))


def test_changed_gates_redo_gates_and_say_why(root, built, copied, quee):
    result = quee(*build_arguments(root, copied, gate_epochs=5), "--json")
    assert result.exit_code == 0, result.output
    printed = json.loads(result.stdout)
    assert [stage["is_reused"] for stage in printed["stages"]] == [True] * 4 + [False] * 2
    assert "5-gates: Train the gates (gate_epochs changed from 4 to 5)" in result.stderr
    assert "6-operating-points: Measure operating points (the stage before it changed)" in result.stderr
    old, new = files(built), files(copied)
    assert (
        old["stages/4-path-outputs/path_outputs.safetensors"]
        == new["stages/4-path-outputs/path_outputs.safetensors"]
    )
    assert old["model/model.safetensors"] != new["model/model.safetensors"]
    assert new["model/model.safetensors"] == new["stages/6-operating-points/model.safetensors"]
    assert printed["report"] == json.loads((copied / "report.json").read_text())


def test_cluster_targets_and_any_first_level(root, copied, quee):
    options = {"gate_targets": "cluster", "num_clusters": 3, "first_level": "any"}
    result = quee(*build_arguments(root, copied, **options), "--json")
    assert result.exit_code == 0, result.output
    printed = json.loads(result.stdout)
    assert [stage["is_reused"] for stage in printed["stages"]] == [True] * 3 + [False] * 3
    report = printed["report"]
    assert [gate["exit_block"] for gate in report["gates"]] == [0, 1, 2]
    assert "error clusters" in {role["role"] for role in report["roles"]}


def test_damaged_stage_is_made_again(root, built, copied, quee):
    damaged = copied / "stages" / "6-operating-points" / "model.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"x")
    result = quee(*build_arguments(root, copied))
    assert "6-operating-points: Measure operating points (its files are damaged)" in result.stderr
    assert "5-gates: reused" in result.stderr
    assert files(copied) == files(built)


def test_second_build_in_one_directory_is_refused(root, built, quee):
    with RunDirectory(built).locked():
        result = quee(*build_arguments(root, built))
    assert result.exit_code == 2
    assert "Another build is at work" in result.stderr
