"""Tests of `optimum-cli quee`."""

import subprocess
import sys

from quee_hf.cli.app import app


def optimum(*arguments):
    code = "from optimum.commands.optimum_cli import main; main()"
    command = [sys.executable, "-c", code, "quee", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)


def test_it_is_quee(built, quee):
    done = optimum("inspect", built / "model", "--json")
    assert done.returncode == 0, done.stderr
    assert done.stdout == quee("inspect", built / "model", "--json").stdout


def test_help_lists_the_verbs(quee):
    done = optimum("--help")
    verbs = [
        command.name or command.callback.__name__.replace("_", "-") for command in app.registered_commands
    ]
    assert f"Verbs: {', '.join(verbs)}." in " ".join(done.stdout.split())


def test_no_verb_is_bad_usage():
    done = optimum()
    assert done.returncode == 2
    assert "Usage" in done.stdout + done.stderr


def test_errors_and_exit_codes_are_those_of_quee(tmp_path):
    done = optimum("inspect", tmp_path / "nothing")
    assert done.returncode == 2
    assert done.stderr.strip().splitlines()[-1] == f"quee: error: {tmp_path / 'nothing'} does not exist."
