"""What the verbs show: progress on stderr, results on stdout."""

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from quee_hf.processes import is_main_process


def say(line: str) -> None:
    """Show a line of progress; of several processes, one does."""
    if is_main_process():
        Console(stderr=True, highlight=False, soft_wrap=True).print(line, markup=False)


def show(line: str = "", style: str | None = None) -> None:
    """Show a line of the result, not wrapped, so that commands can be copied."""
    Console(highlight=False, soft_wrap=True).print(line, style=style, markup=False)


def show_json(result: object) -> None:
    """Print a result for programs."""
    sys.stdout.write(json.dumps(result, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def show_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Show a table; the first two columns may be wrapped, and all but the first are on the right."""
    show(title, style="bold")
    table = Table(box=box.SIMPLE, pad_edge=False)
    for position, column in enumerate(columns):
        table.add_column(
            column, justify="right" if position else "left", overflow="fold", no_wrap=position > 1
        )
    for row in rows:
        table.add_row(*map(Text, row))  # names of files and classes may hold what rich takes for markup
    Console(highlight=False).print(table)


def accuracy_text(described: Mapping[str, Any]) -> str:
    """Format an accuracy with its interval, in percent.

    Example:
        >>> accuracy_text({"accuracy": 0.7, "accuracy_interval": [0.521, 0.833]})
        '70.0% (52.1-83.3)'
    """
    low, high = described["accuracy_interval"]
    return f"{described['accuracy']:.1%} ({low * 100:.1f}-{high * 100:.1f})"


def path_text(path: Sequence[object]) -> str:
    """Format the levels of a path.

    Example:
        >>> path_text([8, 8, "fp32"])
        '8-8-fp32'
    """
    return "-".join(map(str, path))


def one_line(error: Exception) -> str:
    """Return what an error says, however many lines it takes for it."""
    return " ".join(str(error).split())


@contextmanager
def library_output_on_stderr() -> Iterator[None]:
    """Keep stdout free for the result, and silence what only developers of transformers want to read."""
    from transformers.utils import logging

    verbosity, has_bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        logging.set_verbosity(verbosity)
        if has_bars:
            logging.enable_progress_bar()
