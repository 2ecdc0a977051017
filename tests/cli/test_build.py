"""Tests of `quee build`: what it makes, that it can be killed, and what a changed recipe redoes."""

import json
import math
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import save_file
from tests.builds import build_arguments, run
from tests.tiny import VARIANTS, class_embeddings
from transformers import CLIPImageProcessorPil, pipeline

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


@pytest.fixture
def copied(built, tmp_path) -> Path:
    """Return a copy of the shared build."""
    return Path(shutil.copytree(built, tmp_path / "copied"))


class TestResult:
    def test_model_can_be_used_by_the_pipeline(self, root, built):
        classify = pipeline("image-classification", model=str(built / "model"), device="cpu")
        image = str(root / "test" / "red" / "000.png")
        result = classify(image, cost_lambda=0.5, return_routing=True)
        assert {score["label"] for score in result["scores"]} == {"red", "green", "blue", "grey"}
        assert 0 < result["routing"]["cost"] <= 1

    def test_every_stage_with_weights_is_a_model(self, built):
        for name in ("1-convert", "2-heads", "4-quantize", "6-gates"):
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

    def test_every_image_is_listed_once(self, root, built):
        rows = json.loads((built / "roles.json").read_text())
        for name, count in (("train", 160), ("validation", 120)):
            listed = [row for of_role in rows[str(root / name)].values() for row in of_role]
            assert sorted(listed) == list(range(count))

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
        assert done["inputs"]["recipe"] == {
            "distillation": "soft",
            "head_epochs": 4,
            "head_views": 1,
            "seed": 0,
        }
        assert done["inputs"]["upstream"] == upstream["hash"]
        assert set(done["versions"]) == {"quee_hf", "torch", "transformers"}
        assert set(done["files"]) == {
            "config.json", "model.safetensors", "preprocessor_config.json", "README.md",
            "configuration_quee.py", "modeling_quee.py",
        }  # fmt: skip


def test_lra_ee_is_built_and_used_like_any_other_model(root, built, quee, tmp_path):
    """SSA heads that follow the full-precision network's direction, seen several times; gates with thresholds."""
    output, log = tmp_path / "run", tmp_path / "log"
    shutil.copytree(built, output)  # the first stage is reused
    options = ["--head", "ssa", "--distillation", "cosine", "--head-views", "2", "--gate", "lra"]
    assert run([*build_arguments(root, output), *options], log) == 0, log.read_text()
    config = QuEEForImageClassification.from_pretrained(output / "model").config
    assert (config.head_type, config.gate_type, config.gate_features) == ("ssa", "lra", "spatial")
    points = config.operating_points
    assert points[0]["cost"] >= points[-1]["cost"]
    result = quee("evaluate", output / "model", "--data", root / "test", "--json")
    assert result.exit_code == 0, result.stderr
    assert [gate["exit_block"] for gate in json.loads(result.stdout)["gates"]] == [1, 2]
    result = quee("inspect", output / "model")
    assert result.exit_code == 0, result.stderr


# How many stages are complete when a build is killed, and where: while it writes, trains, or renames.
KILLS = [
    (0, "os.mkdir", ".1-convert.building-"),
    (0, "open", ".1-convert.building-", "config.json"),
    (1, "open", ".2-heads.building-", "config.json"),
    (2, "os.rename", ".3-calibrate.building-", "calibration.safetensors.partial"),
    (3, "open", ".4-quantize.building-", "config.json"),
    (4, "open", ".5-path-outputs.building-", "done.json"),
    (5, "open", ".6-gates.building-", "config.json"),
    (5, "open", ".6-gates.building-", "done.json"),
    (6, "open", ".7-operating-points.building-", "report.json"),
    (6, "os.rename", ".7-operating-points.building-"),
    (7, "shutil.copyfile", "7-operating-points", "model.safetensors"),
    (7, "os.rename", ".report.json.building-"),
]


def test_killed_in_every_stage_ends_with_the_same_bytes(root, built, tmp_path):
    output, log = tmp_path / "run", tmp_path / "log"
    arguments = build_arguments(root, output)
    complete = []
    for num_complete, *deadly in KILLS:
        assert run(arguments, log, deadly) == -9, f"{deadly}: {log.read_text()}"
        assert re.findall(r"^(\S+): reused", log.read_text(), re.MULTILINE) == complete
        complete = sorted(path.name for path in (output / "stages").glob("[0-9]*"))
        assert complete == STAGE_NAMES[:num_complete]
        assert not (output / "report.json").exists()
    assert run(arguments, log) == 0, log.read_text()
    assert files(output) == files(built)


def test_a_build_elsewhere_gives_the_same_bytes(root, built, tmp_path):
    """In another process and folder, with another order of hashes and another clock."""
    arguments = build_arguments(root, Path("deeper", "run"))
    command = [sys.executable, "-c", "from quee_hf.cli import main; main()", *arguments]
    settings = {**os.environ, "PYTHONHASHSEED": "7", "TZ": "Asia/Tokyo", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, cwd=tmp_path, env=settings, capture_output=True, text=True, check=False, timeout=500
    )
    assert done.returncode == 0, done.stderr
    assert files(tmp_path / "deeper" / "run") == files(built)


def test_killed_while_a_new_recipe_replaces_an_old_one(root, built, copied, tmp_path):
    arguments = build_arguments(root, copied, max_accuracy_drop=0.3)
    before = files(copied)
    for deadly in (
        ("open", ".7-operating-points.building-", "report.json"),
        ("os.rename", "stages/7-operating-points"),
        ("os.rename", ".7-operating-points.building-"),
        ("os.rename", "copied/model"),
        ("os.rename", ".model.building-"),
    ):
        assert run(arguments, tmp_path / "log", deadly) == -9, deadly
        now = files(copied)
        old = {name: before[name] for name in before if name.startswith("model/")}
        assert {name: now.get(name) for name in old} == old or deadly[1] == ".model.building-"
    assert run(arguments, tmp_path / "log") == 0
    fresh = tmp_path / "fresh"
    assert run(build_arguments(root, fresh, max_accuracy_drop=0.3), tmp_path / "log") == 0
    assert files(copied) == files(fresh)
    assert files(copied) != before


def test_same_recipe_again_reuses_everything(root, built, quee):
    before = files(built)
    result = quee(*build_arguments(root, built))
    assert result.exit_code == 0, result.output
    assert all(f"{name}: reused" in result.stderr for name in STAGE_NAMES)
    assert "7 reused, 0 built" in result.stdout
    assert f"quee predict {built}/model" in result.stdout
    assert files(built) == before


def test_changed_gates_redo_gates_and_say_why(root, built, copied, quee):
    result = quee(*build_arguments(root, copied, gate_epochs=5), "--json")
    assert result.exit_code == 0, result.output
    printed = json.loads(result.stdout)
    assert [stage["is_reused"] for stage in printed["stages"]] == [True] * 5 + [False] * 2
    assert "6-gates: Train the gates (gate_epochs changed from 4 to 5)" in result.stderr
    assert "7-operating-points: Measure operating points (the stage before it changed)" in result.stderr
    old, new = files(built), files(copied)
    assert (
        old["stages/5-path-outputs/path_outputs.safetensors"]
        == new["stages/5-path-outputs/path_outputs.safetensors"]
    )
    assert old["model/model.safetensors"] != new["model/model.safetensors"]
    assert new["model/model.safetensors"] == new["stages/7-operating-points/model.safetensors"]
    assert printed["report"] == json.loads((copied / "report.json").read_text())


def test_cluster_targets_and_any_first_level(root, copied, quee):
    options = {"gate_targets": "cluster", "num_clusters": 3, "first_level": "any"}
    options |= {"gate_features": "probabilities"}
    result = quee(*build_arguments(root, copied, **options), "--json")
    assert result.exit_code == 0, result.output
    printed = json.loads(result.stdout)
    assert [stage["is_reused"] for stage in printed["stages"]] == [True] * 4 + [False] * 3
    report = printed["report"]
    assert [gate["exit_block"] for gate in report["gates"]] == [0, 1, 2]
    assert "error clusters" in {role["role"] for role in report["roles"]}


def test_damaged_stage_is_made_again(root, built, copied, quee):
    damaged = copied / "stages" / "7-operating-points" / "model.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"x")
    result = quee(*build_arguments(root, copied))
    assert "7-operating-points: Measure operating points (its files are damaged)" in result.stderr
    assert "6-gates: reused" in result.stderr
    assert files(copied) == files(built)


def test_stage_of_another_version_is_made_again(root, built, copied, quee):
    folder = copied / "stages" / "7-operating-points"
    done = json.loads((folder / "done.json").read_text())
    RunDirectory.write_done(folder, {**done, "versions": {**done["versions"], "quee_hf": "0.0.1"}})
    result = quee(*build_arguments(root, copied))
    assert "7-operating-points: Measure operating points (version 0.0.1 of quee_hf made it)" in result.stderr
    assert files(copied) == files(built)


def test_second_build_in_one_directory_is_refused(root, built, quee):
    with RunDirectory(built).locked():
        result = quee(*build_arguments(root, built))
    assert result.exit_code == 2
    assert "Another build is at work" in result.stderr


def test_bad_image_is_left_out_on_request(root, copied, tmp_path, quee):
    data = Path(shutil.copytree(root / "validation", tmp_path / "data"))
    (data / "red" / "bad.png").write_bytes(b"no image")
    result = quee(*build_arguments(root, copied, validation=data, skip_bad=True))
    assert f"Left out: Cannot read image {data / 'red' / 'bad.png'}" in result.stderr
    assert "7 reused, 0 built" in result.stdout  # the images that are left are those of before


def test_contrastive_model_with_other_class_names(root, tmp_path, quee):
    VARIANTS["clip-vision"].build().save_pretrained(tmp_path / "model")
    CLIPImageProcessorPil(size=30, do_center_crop=True, crop_size=30).save_pretrained(tmp_path / "model")
    embeddings = tmp_path / "embeddings.safetensors"
    save_file({"class_embeddings": class_embeddings(4), "logit_scale": torch.tensor(2.0)}, embeddings)
    names = tmp_path / "names.json"
    names.write_text('{"classes": ["sky", "grass", "rock", "fire"]}')
    options = {"model": tmp_path / "model", "class_embeddings": embeddings, "class_names": names}
    result = quee(
        *build_arguments(root, tmp_path / "run", **options, exits="2,1", levels="fp32,8", head="ssa")
    )
    assert result.exit_code == 0, result.output
    assert (
        "classes blue, green, grey, ... are taken to be sky, grass, rock, ..., in this order."
        in result.stderr
    )
    model = QuEEForImageClassification.from_pretrained(tmp_path / "run" / "model")
    assert model.config.logit_scale == pytest.approx(math.exp(2))
    assert list(model.config.exit_blocks) == [1, 2, 4]
    assert model.config.id2label == {0: "sky", 1: "grass", 2: "rock", 3: "fire"}
    again = quee("build", "--recipe", tmp_path / "run" / "recipe.yaml", "--output", tmp_path / "run")
    assert "7 reused, 0 built" in again.stdout, again.output
    measured = quee("evaluate", tmp_path / "run" / "model", "--data", root / "test")
    assert measured.exit_code == 2
    assert "--match-labels numbers" in measured.stderr
    measured = quee(
        "evaluate", tmp_path / "run" / "model", "--data", root / "test", "--match-labels", "numbers"
    )
    assert measured.exit_code == 0, measured.output
