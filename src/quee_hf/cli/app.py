"""The command itself: its verbs, `--version`, and errors of one line."""

import io
import sys
import traceback
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from quee_hf.cli.build import build
from quee_hf.cli.card import card
from quee_hf.cli.certify import certify
from quee_hf.cli.compare import compare
from quee_hf.cli.convert import convert
from quee_hf.cli.demo import demo
from quee_hf.cli.drift import drift
from quee_hf.cli.embed_classes import embed_classes
from quee_hf.cli.evaluate import evaluate
from quee_hf.cli.export import export
from quee_hf.cli.inspect import inspect
from quee_hf.cli.noise import noise
from quee_hf.cli.predict import predict
from quee_hf.cli.profile import profile
from quee_hf.cli.push import push
from quee_hf.cli.quantize import quantize
from quee_hf.cli.rescue import rescue
from quee_hf.cli.set_classes import set_classes
from quee_hf.cli.train import train_gates, train_heads
from quee_hf.errors import QuEEError
from quee_hf.processes import check_alone, is_main_process, num_processes

# The parent of `BadParameter`, which typer does not export under a name that lasts.
_UsageError: Any = typer.BadParameter.__base__
_FAILURE, _BAD_INPUT, _INTERRUPTED = 1, 2, 130
_SHARED = ("evaluate",)  # verbs whose work several processes share
_OPTIONS = {
    "skip_bad=True": "--skip-bad",
    "overwrite=True": "--overwrite",
    "keep_gates=False": "--new-gates",
    "`model_name`": "--name",
}


class OneLineErrors(TyperGroup):
    """Commands whose errors are one line on stderr; with `--debug` the traceback comes first."""

    def main(
        self, args: Sequence[str] | None = None, prog_name: str | None = None, *rest: Any, **extra: Any
    ) -> Any:
        """Run a verb and exit: 0 if it did its work, 2 for bad usage or input, 1 for a failure."""
        arguments = list(sys.argv[1:] if args is None else args)
        if isinstance(
            sys.stdout, io.TextIOWrapper
        ):  # names of classes may hold what a terminal has no sign for
            sys.stdout.reconfigure(errors="replace")
        try:
            code = super().main(arguments, prog_name or "quee", *rest, **{**extra, "standalone_mode": False})
        except Exception as error:  # the last place to catch one
            if "--debug" in arguments:
                traceback.print_exc()
            code = _report(error)
        sys.exit(code if isinstance(code, int) else 0)


app = typer.Typer(
    name="quee",
    cls=OneLineErrors,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)


def _report(error: Exception) -> int:
    """Print what went wrong and return the exit code."""
    message = str(error) or type(error).__name__
    if isinstance(error, _UsageError) and not error.format_message():
        return _BAD_INPUT  # no verb was given, and help was shown
    if isinstance(error, _UsageError):
        hint = f" Try '{error.ctx.command_path} --help'." if error.ctx else ""
        code, message = _BAD_INPUT, f"{error.format_message().rstrip('.')}.{hint}"
    elif isinstance(error, typer.Abort):
        code, message = _INTERRUPTED, "Interrupted."
    elif isinstance(error, QuEEError | ValueError):
        code = _BAD_INPUT
    else:
        code, message = _FAILURE, f"{type(error).__name__}: {message} (--debug shows where)"
    # The library speaks of its arguments; here they are options.
    for argument, option in _OPTIONS.items():
        message = message.replace(argument, option)
    print("quee: error: " + " ".join(message.split()), file=sys.stderr)
    return code


def _show_version(is_wanted: bool) -> None:
    if is_wanted:
        try:
            print(f"quee {version('quee-hf')}")
        except PackageNotFoundError:
            print("quee (not installed: running from a source tree)")
        raise typer.Exit


@app.callback()
def _quee(
    context: typer.Context,
    _version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and leave."),
    ] = False,
) -> None:
    r"""Make trained vision transformers spend less on easy images.

    A QuEE model leaves the network early, or computes parts of it with fewer bits, wherever that is enough
    for the image at hand. `build` makes one of a trained classifier, `evaluate` measures it, `profile` times
    it, `certify` says what it promises, `predict` classifies images with it, and `drift` tells whether they
    are like those that it was validated on. `quantize` makes a classifier compute with fewer bits, and
    nothing else; `noise` says what that does to each block, and `rescue` whether leaving early mends it.
    `train-heads` and `train-gates` train parts of a model anew. `demo` shows one in the browser. `inspect`
    says what a model is, `card` writes its card, `push` puts it on the Hub, and `export` writes what runs it
    without PyTorch. `convert` reads CLIP checkpoints of open_clip, `embed-classes` makes class embeddings
    with them, and `set-classes` gives a CLIP model other classes.

    **Example**

        quee build --model google/vit-base-patch16-224 \
            --train photos/train --validation photos/val \
            --exits 6,8,10 --levels 8,6 --output run
        quee predict run/model cat.jpg
    """
    if context.invoked_subcommand not in _SHARED and num_processes() > 1:
        if not is_main_process():
            raise typer.Exit(_BAD_INPUT)
        check_alone(f"`quee {context.invoked_subcommand}`")


for _verb in (
    convert,
    embed_classes,
    build,
    quantize,
    train_heads,
    train_gates,
    evaluate,
    profile,
    certify,
    compare,
    noise,
    rescue,
    predict,
    drift,
    demo,
    inspect,
    set_classes,
    card,
    export,
    push,
):
    app.command()(_verb)


def main() -> None:
    """Run the command."""
    app()
