"""Tests of `quee certify`."""

import json
import shutil

import pytest
from tests.cli.conftest import words
from tests.profiles import CERTIFICATE

from quee_hf import QuEEConfig, QuEEForImageClassification
from quee_hf.certificates import keep_certificates


@pytest.fixture
def model(built, tmp_path):
    return shutil.copytree(built / "model", tmp_path / "model")


def test_what_is_found_is_kept_and_shown(model, root, quee):
    result = quee("certify", model, "--data", root / "test", "--max-accuracy-drop", "0.9,0.95", "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    certificates = [each["certificate"] for each in found["results"]]
    config = QuEEForImageClassification.from_pretrained(model).config
    assert config.certificates == certificates
    assert {each["data"] for each in certificates} == {found["data"]["fingerprint"]}
    assert "certification" in [role["role"] for role in config.record["roles"]]
    assert "## What it promises" in (model / "README.md").read_text()
    shown = words(quee("inspect", model).stdout)
    assert "Certificates" in shown
    assert "90.00% (accuracy)" in shown


def test_the_whole_networks_accuracy_is_shown(model, root, quee):
    result = quee("certify", model, "--data", root / "test", "--max-accuracy-drop", "0.9")
    (certificate,) = QuEEForImageClassification.from_pretrained(model).config.certificates
    assert f"the whole network is right on {certificate['full_accuracy']:.1%}" in words(result.stdout)


def test_consistency_takes_images_without_labels(model, root, quee, tmp_path):
    files = sorted((root / "test").rglob("*.png"))
    for number, file in enumerate([*files, files[0]]):
        (tmp_path / "photos" / str(number % 2)).mkdir(parents=True, exist_ok=True)
        shutil.copy(file, tmp_path / "photos" / str(number % 2) / f"{number}.png")
    arguments = ("--data", tmp_path / "photos", "--promise", "consistency", "--max-accuracy-drop", "0.99")
    result = quee("certify", model, *arguments, "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["data"]["num_images"] == len(files)
    assert "Left out: 1 images that are the same as others" in result.stderr


def test_nothing_certified_is_an_answer_with_the_images_needed(model, root, quee):
    result = quee("certify", model, "--data", root / "test", "--limit", 8, "--promise", "consistency")
    assert result.exit_code == 0, result.output
    said = words(result.stdout)
    assert "about" in said or "too much lost here to tell" in said
    assert "Nothing is certified, and nothing was written." in said
    assert QuEEForImageClassification.from_pretrained(model).config.certificates is None


def test_images_may_serve_again_but_not_those_of_other_roles(model, root, quee):
    for _ in range(2):
        result = quee("certify", model, "--data", root / "test", "--max-accuracy-drop", "0.9")
        assert result.exit_code == 0, result.output
    result = quee("certify", model, "--data", root / "train", "--max-accuracy-drop", "0.9")
    assert result.exit_code != 0
    assert "images that the model was made with" in words(result.stderr)


def test_what_another_process_has_certified_meanwhile_stays(model, root, quee, monkeypatch):
    from quee_hf import certification

    certify_images, certificate = certification.certify_images, {**CERTIFICATE, "cost_model": "bitops"}

    def slowly(*arguments, **options):
        found = certify_images(*arguments, **options)
        config = QuEEConfig.from_pretrained(model)
        keep_certificates(config, [certificate])
        config.save_pretrained(model)
        return found

    monkeypatch.setattr(certification, "certify_images", slowly)
    result = quee("certify", model, "--data", root / "test", "--max-accuracy-drop", "0.9")
    assert result.exit_code == 0, result.output
    held = QuEEConfig.from_pretrained(model).certificates
    assert [each["max_accuracy_drop"] for each in held] == [certificate["max_accuracy_drop"], 0.9]


def test_bad_numbers_are_refused_before_anything_is_read(model, quee):
    result = quee("certify", model, "--data", "nowhere", "--max-accuracy-drop", "2")
    assert result.exit_code != 0
    assert "`max_accuracy_drop` must be above -1 and below 1" in words(result.stderr)
    assert "--max-accuracy-drop" in words(
        quee("certify", model, "--data", "x", "--max-accuracy-drop", "a").stderr
    )


def test_a_copy_leaves_the_model_alone(model, root, quee, tmp_path):
    before = (model / "config.json").read_bytes()
    arguments = ("--data", root / "test", "--max-accuracy-drop", "0.9", "--output", tmp_path / "certified")
    result = quee("certify", model, *arguments)
    assert result.exit_code == 0, result.output
    assert (model / "config.json").read_bytes() == before
    assert QuEEForImageClassification.from_pretrained(tmp_path / "certified").config.certificates
