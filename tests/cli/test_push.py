"""Tests of `quee push`, against a Hub on loopback."""

import os
import shutil
import subprocess
import sys

import pytest
from tests.hub.loopback import TOKEN, loopback_hub


@pytest.fixture(scope="module")
def hub():
    with loopback_hub() as hub:
        yield hub


def push(hub, folder, *arguments, token=TOKEN, **environment):
    settings = {**hub.environment(folder, token), **environment}
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    command = [sys.executable, "-c", "from quee_hf.cli import main; main()", "push", *map(str, arguments)]
    return subprocess.run(
        command, env={**inherited, **settings}, capture_output=True, text=True, check=False, timeout=300
    )


def test_pushes_what_belongs_to_the_model(built, hub, tmp_path):
    model = shutil.copytree(built / "model", tmp_path / "model")
    (model / "training_args.bin").write_bytes(b"holds a token")
    done = push(hub, tmp_path, model, "org/colors", "--private", "--message", "First")
    assert done.returncode == 0, done.stderr
    assert "Not pushed, as no part of the model: training_args.bin" in done.stderr
    assert done.stdout.startswith(f"Pushed to {hub.url}/org/colors/commit/")
    files = hub.files("org/colors")
    assert set(files) == {path.name for path in (built / "model").iterdir()}
    assert 'model="org/colors"' in files["README.md"].decode()
    assert hub.repositories["org/colors"].is_private


def test_a_broken_model_is_not_pushed(built, hub, tmp_path):
    model = shutil.copytree(built / "model", tmp_path / "model")
    weights = (model / "model.safetensors").read_bytes()
    (model / "model.safetensors").write_bytes(weights[:-10])
    done = push(hub, tmp_path, model, "org/broken")
    assert done.returncode == 2
    assert "damaged or incomplete" in done.stderr
    assert "org/broken" not in hub.repositories


def test_a_wrong_token_is_said_in_one_line(built, hub, tmp_path):
    done = push(hub, tmp_path, built / "model", "org/other", token="hf_wrong")
    assert done.returncode == 2
    message = done.stderr.strip().splitlines()[-1]
    assert message.startswith("quee: error: Cannot push to org/other")
    assert "Invalid user token" in message


def test_offline_is_said_in_one_line(built, hub, tmp_path):
    done = push(hub, tmp_path, built / "model", "org/offline", HF_HUB_OFFLINE="1")
    assert done.returncode == 2
    assert "quee: error: Cannot push to org/offline" in done.stderr.strip().splitlines()[-1]


def test_pull_request(built, hub, tmp_path):
    push(hub, tmp_path, built / "model", "org/asked")
    before = hub.files("org/asked")
    done = push(hub, tmp_path, built / "model", "org/asked", "--create-pr", "--message", "Better")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == f"Pushed to {hub.url}/org/asked/discussions/1"
    assert hub.files("org/asked") == before


def test_a_card_that_the_hub_refuses_makes_no_repository(built, hub, tmp_path):
    model = shutil.copytree(built / "model", tmp_path / "model")
    (model / "README.md").write_bytes("# Für mich".encode("latin-1"))
    done = push(hub, tmp_path, model, "org/latin")
    assert done.returncode == 2
    assert "README.md is not UTF-8" in done.stderr
    assert "org/latin" not in hub.repositories


@pytest.mark.parametrize("repo", ["a/b/c", "org/name with spaces"])
def test_a_wrong_name_is_refused_before_anything_is_loaded(built, quee, repo):
    result = quee("push", built / "model", repo)
    assert result.exit_code == 2
    assert "is no name of a repository" in result.stderr
