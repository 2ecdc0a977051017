"""`quee demo`: show a model in the browser, or write a Space that does."""

import os
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated

import typer

from quee_hf.cli import options
from quee_hf.cli.display import library_output_on_stderr, say, show, show_json

if TYPE_CHECKING:
    import gradio


def demo(
    model: options.Model,
    host: Annotated[
        str, typer.Option(help="Address to listen at; 0.0.0.0 lets other machines in, without a password.")
    ] = "127.0.0.1",
    port: Annotated[
        int | None,
        typer.Option(
            min=1, max=65535, help="Port to listen at; the first free one from 7860 on if not given."
        ),
    ] = None,
    export_space: Annotated[
        Path | None,
        typer.Option(help="New folder: write the demo as a Space of the Hub there, and start nothing."),
    ] = None,
    engine: options.Engine = "torch",
    revision: options.Revision = "main",
    device: options.Device = "auto",
    as_json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """Show a model in the browser: drop an image, move the slider, and see its way through the network.

    Needs Gradio: `pip install quee-hf[demo]`. Only this machine can see it, unless --host says otherwise.

    **Example**

        quee demo run/model --engine openvino
        quee demo run/model --export-space my-space
    """
    with library_output_on_stderr():
        _check_gradio()
        written = None if export_space is None else _export((model, revision), export_space, engine)
    if export_space is not None and written is not None:
        _show_export(export_space, written, as_json=as_json)
        return
    with _place_for_uploads():
        with library_output_on_stderr():
            app = _make((model, revision), engine, device)
        _serve(app, host, port, as_json=as_json)


@contextmanager
def _place_for_uploads() -> Iterator[None]:
    """Let Gradio keep what visitors upload in a folder that is removed at the end, also by SIGTERM."""
    from accelerate.utils import patch_environment

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    parent, before = os.environ.get("GRADIO_TEMP_DIR"), signal.signal(signal.SIGTERM, stop)
    try:
        with (
            TemporaryDirectory(prefix="quee-demo-", dir=parent, ignore_cleanup_errors=True) as folder,
            patch_environment(GRADIO_TEMP_DIR=folder),
        ):
            yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _check_gradio() -> None:
    from quee_hf.errors import MissingExtraError

    try:
        import gradio  # noqa: F401
    except ImportError as error:
        raise MissingExtraError(
            f"The demo needs Gradio: {error}. Run `pip install quee-hf[demo]`."
        ) from error


def _export(source: tuple[str, str], folder: Path, engine: str) -> list[Path]:
    from quee_hf.cli.loading import load_config, load_model
    from quee_hf.demo.space import SpaceModel, export_space
    from quee_hf.execution.engines import ENGINES, FASTEST

    if engine not in (*ENGINES, FASTEST):
        raise ValueError(f"--engine must be one of {[*ENGINES, FASTEST]}, got {engine!r}.")
    found = SpaceModel(source[0], load_config(*source), source[1], engine)
    if found.is_copied:
        say(f"Checking {source[0]}")
        load_model(source[0], "cpu")
    return export_space(found, folder)


def _make(source: tuple[str, str], engine: str, device: str) -> "gradio.Blocks":
    from quee_hf.build.source import is_local
    from quee_hf.cli.loading import load_model
    from quee_hf.demo.app import make_app

    loaded = load_model(source[0], device, source[1])
    loaded.model.set_engine(engine)
    name = None if is_local(source[0]) else source[0].rpartition("/")[2]
    return make_app(loaded.model, loaded.image_processor, title=name)


def _show_export(folder: Path, written: list[Path], *, as_json: bool) -> None:
    if as_json:
        show_json({"folder": str(folder), "files": [str(path.relative_to(folder)) for path in written]})
        return
    for path in written:
        show(f"Wrote {path}")
    show(f"To push it: hf upload MY-NAME/MY-SPACE {folder} --repo-type space")


def _serve(app: "gradio.Blocks", host: str, port: int | None, *, as_json: bool) -> None:
    from quee_hf.demo.app import launch
    from quee_hf.errors import QuEEError

    try:
        if port is not None:
            socket.create_server((host, port)).close()  # Gradio would say only that it finds none
        with library_output_on_stderr():
            url = launch(app, host=host, port=port)
    except OSError as error:
        raise QuEEError(f"Cannot listen at {host}, port {port or '7860 or above'}: {error}.") from error
    if as_json:
        show_json({"url": url})
    else:
        show(f"The demo is at {url}; interrupt to stop it.")
    try:
        _wait()
    except KeyboardInterrupt:
        say("Stopped.")
    finally:
        app.close(verbose=False)


def _wait() -> None:
    """Do nothing until interrupted."""
    threading.Event().wait()
