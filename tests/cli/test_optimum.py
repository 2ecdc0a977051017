"""Tests of `optimum-cli quee`."""

import subprocess
import sys


def optimum(*arguments):
    code = "from optimum.commands.optimum_cli import main; main()"
    command = [sys.executable, "-c", code, "quee", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)


def test_it_is_quee(built, quee):
    done = optimum("inspect", built / "model", "--json")
    assert done.returncode == 0, done.stderr
    assert done.stdout == quee("inspect", built / "model", "--json").stdout


def test_errors_and_exit_codes_are_those_of_quee(tmp_path):
    done = optimum("inspect", tmp_path / "nothing")
    assert done.returncode == 2
    assert done.stderr.strip().splitlines()[-1] == f"quee: error: {tmp_path / 'nothing'} does not exist."
