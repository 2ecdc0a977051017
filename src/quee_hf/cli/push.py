"""`quee push`: put a model on the Hub."""

from pathlib import Path
from typing import Annotated

import typer

from quee_hf.cli import options
from quee_hf.cli.display import library_output_on_stderr, one_line, say, show, show_json


def push(
    model: Annotated[str, typer.Argument(help="Directory of a QuEE model, such as RUN/model.")],
    repo: Annotated[str, typer.Argument(help="Repository on the Hub, ORG/NAME; made if it does not exist.")],
    private: Annotated[bool, typer.Option("--private", help="Make a private repository.")] = False,
    revision: Annotated[
        str | None, typer.Option(help="Branch to push to; made if it does not exist.")
    ] = None,
    message: Annotated[str | None, typer.Option(help="Of the commit.")] = None,
    create_pr: Annotated[
        bool, typer.Option("--create-pr", help="Open a pull request instead of pushing to the branch.")
    ] = False,
    as_json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """Push a model, its image processor and its card to the Hub, in one commit.

    The model is loaded first: one that could not be used is not pushed. Log in with `hf auth login`, or set
    `HF_TOKEN`.

    **Example**

        quee push run/model my-name/quee-dinov2-cifar10 --private
    """
    with library_output_on_stderr():
        url = _push(Path(model), repo, private, revision, message, create_pr)
    if as_json:
        show_json({"repository": repo, "commit": url})
    else:
        show(f"Pushed to {url}")


def _push(
    folder: Path, repo: str, private: bool, revision: str | None, message: str | None, create_pr: bool
) -> str:
    from huggingface_hub import get_token
    from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError, OfflineModeIsEnabled
    from huggingface_hub.utils import httpx  # type: ignore[attr-defined]

    from quee_hf.cli.loading import check_repo_id, load_model
    from quee_hf.errors import QuEEError
    from quee_hf.hub.publish import publish_folder, published_files

    check_repo_id(repo)
    if not folder.is_dir():
        raise QuEEError(f"{folder} is not a directory: only a saved model can be pushed.")
    say(f"Checking {folder}")
    load_model(str(folder), "cpu")
    others = {path.name for path in folder.iterdir()} - {path.name for path in published_files(folder)}
    if others:
        say(f"Not pushed, as no part of the model: {', '.join(sorted(others))}")
    try:
        commit = publish_folder(
            folder,
            repo,
            private=private or None,
            commit_message=message,
            revision=revision,
            create_pr=create_pr,
        )
    except (HfHubHTTPError, LocalTokenNotFoundError, OfflineModeIsEnabled, httpx.HTTPError) as error:
        hint = "" if get_token() else " Log in with `hf auth login`, or set HF_TOKEN."
        raise QuEEError(f"Cannot push to {repo}: {one_line(error)}{hint}") from error
    return str(commit.pr_url if create_pr else commit.commit_url)
