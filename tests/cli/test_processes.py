"""Verbs under `torchrun` and `accelerate launch`: shared where they can be, refused where they cannot."""

import json
import sys

import pytest
from tests.launching import EACH_LAUNCHER, launch

evaluate = ["evaluate", "--cost-lambda", "0,0.1,3", "--json", "--batch-size", "7"]


def quee_in_two(arguments, folder, launcher="torchrun"):
    code = "import sys; from quee_hf.cli import main; main()"
    command = [sys.executable, "-c", code, *arguments]
    return launch(command, launcher=launcher, is_script=False, folder=folder)


@pytest.mark.parametrize("launcher", EACH_LAUNCHER)
def test_evaluation_is_that_of_one_process(root, built, tmp_path, quee, launcher):
    arguments = [*evaluate, built / "model", "--data", root / "test"]  # 40 images: six batches, the last of 5
    alone = quee(*arguments, "--output", tmp_path / "alone.json")
    assert alone.exit_code == 0, alone.output
    done = quee_in_two([*arguments, "--output", "both.json"], tmp_path, launcher)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == json.loads(alone.stdout)  # shown once
    assert (tmp_path / "both.json").read_bytes() == (tmp_path / "alone.json").read_bytes()
    assert (tmp_path / "both.png").exists()
    assert done.stderr.count("Reading and checking") == 1


@pytest.mark.parametrize("verb", ["build", "train-heads", "certify"])
@pytest.mark.parametrize("rank", [0, 1])
def test_other_verbs_are_refused(tmp_path, monkeypatch, quee, verb, rank):
    monkeypatch.setenv("RANK", str(rank))
    monkeypatch.setenv("WORLD_SIZE", "2")
    result = quee(verb, "--model", "m", "--train", "t", "--output", tmp_path / "run")
    assert result.exit_code == 2
    message = f"`quee {verb}` runs in one process, but 2 were started together: start one."
    assert (message in result.stderr) == (rank == 0)  # said once
    assert not (tmp_path / "run").exists()
