"""`quee card`: write or show a model's card."""

import re
from pathlib import Path
from typing import Annotated, Any

import typer

from quee_hf.cli import options
from quee_hf.cli.display import library_output_on_stderr, show, show_json

_LICENCE = re.compile(r"[a-z0-9]+([.+_-][a-z0-9]+)*")


def card(
    model: options.Model,
    repo: Annotated[
        str | None, typer.Option(help="Write it for this repository on the Hub, ORG/NAME.")
    ] = None,
    base_model: Annotated[
        str | None, typer.Option(help="Hub id of the model that it was made from; kept in config.json.")
    ] = None,
    licence: Annotated[
        str | None,
        typer.Option("--license", help="Its licence as the Hub spells it, apache-2.0; kept in config.json."),
    ] = None,
    show_only: Annotated[bool, typer.Option("--show", help="Print the card and write nothing.")] = False,
    revision: options.Revision = "main",
    as_json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """Write the card of a model in a directory anew, from its config; show that of one on the Hub.

    Every save writes the card, too. One that somebody wrote is left alone.

    **Example**

        quee card run/model --license apache-2.0 --base-model facebook/dinov2-small
    """
    given = {"base_model": base_model, "license": licence}
    facts = {key: value for key, value in given.items() if value is not None}
    with library_output_on_stderr():
        _check(repo, facts)
        text, written = _write((model, revision), repo, facts, show_only=show_only)
    if as_json:
        show_json({"card": text, "files": [str(path) for path in written]})
    elif not written:
        show(text)
    for path in () if as_json else written:
        show(f"Wrote {path}")


def _check(repo: str | None, facts: dict[str, str]) -> None:
    from quee_hf.cli.loading import check_repo_id

    for name in (repo, facts.get("base_model")):
        if name is not None:
            check_repo_id(name)
    licence = facts.get("license")
    if licence is not None and not _LICENCE.fullmatch(licence):
        raise ValueError(
            f"--license: {licence!r} is not how the Hub spells a licence, such as apache-2.0, mit or other."
        )


def _write(
    source: tuple[str, str], repo: str | None, facts: dict[str, Any], *, show_only: bool
) -> tuple[str, list[Path]]:
    """Return the card, and the files that were written."""
    from quee_hf.cli.loading import load_config
    from quee_hf.errors import QuEEError
    from quee_hf.hub.card import CARD_FILE, PICTURE_FILE, has_own_card, render_card, write_card

    folder, config = Path(source[0]), load_config(*source)
    config.record = {**(config.record or {}), **facts} or None
    config.validate()
    text = render_card(config, repo)
    if show_only or not (folder.is_dir() or facts):
        return text, []
    if not folder.is_dir():
        raise QuEEError(f"{source[0]} is not a directory: with --show, nothing is written.")
    if has_own_card(folder):
        raise QuEEError(f"{folder / CARD_FILE} was not written by quee_hf: move it away, or use --show.")
    if facts:
        config.save_pretrained(folder)
    write_card(folder, config, repo)
    written = [folder / CARD_FILE, *([folder / PICTURE_FILE] if config.operating_points else [])]
    return text, [*written, *([folder / "config.json"] if facts else [])]
