"""Tests of `quee demo`; what it shows is tested in tests/demo."""

import builtins
import json
import os
import signal
import socket
import time
import urllib.request

import pytest
from tests.cli.conftest import words
from tests.demo.server import free_port


@pytest.fixture
def served(built, quee, monkeypatch):
    """Return a function that starts the demo, looks at it, and interrupts it."""

    def serve(look, *options):
        found = []

        def look_and_interrupt():
            found.append(look())
            raise KeyboardInterrupt

        monkeypatch.setattr("quee_hf.cli.demo._wait", look_and_interrupt)
        result = quee("demo", built / "model", *options)
        return result, found

    return serve


def test_it_serves_until_it_is_interrupted(served):
    port = free_port()

    def look():
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/config") as response:
            return json.load(response)

    result, (config,) = served(look, "--port", port, "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["url"] == f"http://127.0.0.1:{port}/"
    assert "Stopped." in result.stderr
    assert config["title"] == "quee-vit"
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), timeout=10)


def test_uploads_are_gone_when_it_has_stopped(served, monkeypatch, tmp_path):
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))

    def look():
        (place,) = tmp_path.iterdir()
        (place / "upload.png").write_bytes(b"what a visitor sent")
        assert os.environ["GRADIO_TEMP_DIR"] == str(place)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(60)  # which the signal ends

    result, _ = served(look, "--port", free_port())
    assert result.exit_code == 0, result.output
    assert list(tmp_path.iterdir()) == []
    assert os.environ["GRADIO_TEMP_DIR"] == str(tmp_path)


def test_a_taken_port_is_one_line(served):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        result, found = served(lambda: None, "--port", taken.getsockname()[1])
    assert result.exit_code == 2
    assert found == []
    assert "Cannot listen at 127.0.0.1, port" in words(result.stderr)


def test_export_writes_a_space_and_starts_nothing(built, quee, tmp_path):
    result = quee("demo", built / "model", "--export-space", tmp_path / "space")
    assert result.exit_code == 0, result.output
    assert "hf upload MY-NAME/MY-SPACE" in result.stdout
    assert (tmp_path / "space" / "model" / "config.json").is_file()
    again = quee("demo", built / "model", "--export-space", tmp_path / "space")
    assert again.exit_code == 2
    assert "is not an empty folder" in words(again.stderr)
    result = quee("demo", built / "model", "--export-space", tmp_path / "other", "--json")
    assert "app.py" in json.loads(result.stdout)["files"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--engine", "abacus"], "`engine` must be one of"),
        (["--engine", "abacus", "--export-space", "space"], "--engine must be one of"),
        (["--port", "0"], "greater than or equal to 1"),
        (["--device", "toaster"], "'toaster' cannot be used here"),
    ],
)
def test_wrong_options_are_refused(built, quee, arguments, message):
    result = quee("demo", built / "model", *arguments)
    assert result.exit_code == 2
    assert message in words(result.stderr)


def test_a_model_that_is_not_there(quee, tmp_path):
    result = quee("demo", tmp_path / "nothing", "--export-space", tmp_path / "space")
    assert result.exit_code == 2
    assert "does not exist" in result.stderr
    assert not (tmp_path / "space").exists()


def test_without_gradio_it_says_what_to_install(built, quee, monkeypatch):
    real = builtins.__import__

    def refuse(name, *rest):
        if name == "gradio":
            raise ImportError("No module named 'gradio'")
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", refuse)
    result = quee("demo", built / "model")
    assert result.exit_code == 2
    assert "pip install quee-hf[demo]" in words(result.stderr)
