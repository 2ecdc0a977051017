"""Push a model's directory to the Hub, in one commit."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import CommitInfo, CommitOperationAdd, HfApi
from huggingface_hub.errors import RemoteEntryNotFoundError, RevisionNotFoundError

from quee_hf.configuration import QuEEConfig
from quee_hf.hub.card import CARD_FILE, is_own_text, render_card


def publish_folder(
    folder: Path,
    repo_id: str,
    *,
    tags: Sequence[str] = (),
    private: bool | None = None,
    token: bool | str | None = None,
    **commit_options: Any,
) -> CommitInfo:
    """Push the files of a model's directory, without its subfolders and hidden files.

    The card is written for the repository, unless somebody wrote one, here or there.

    Args:
        folder: Holds `config.json`.
        repo_id: `org/name`; the repository is made if it does not exist.
        tags: For the card.
        private: Whether to make a private repository; `None` leaves it to the organisation's settings.
        token: Of the Hub; `None` takes the one that is logged in.
        **commit_options: As for `HfApi.create_commit`: `commit_message`, `commit_description`, `revision`,
            `create_pr`.
    """
    api = HfApi(token=token)
    config = QuEEConfig.from_pretrained(folder)
    commit_options["commit_message"] = commit_options.get("commit_message") or "Upload a QuEE model"
    repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
    revision = commit_options.get("revision")
    if revision is not None and not revision.startswith("refs/pr/"):
        api.create_branch(repo_id, branch=revision, exist_ok=True)
    files: dict[str, Path | bytes] = {
        path.name: path
        for path in sorted(folder.iterdir())
        if path.is_file() and not path.name.startswith(".")
    }
    here = folder / CARD_FILE
    if not here.exists() or not is_own_text(here.read_text(encoding="utf-8")):
        files[CARD_FILE] = render_card(config, repo_id, tags=tags).encode()
        if _has_own_card(api, repo_id, revision):
            del files[CARD_FILE]
    operations = [CommitOperationAdd(name, data) for name, data in files.items()]
    commit: CommitInfo = api.create_commit(repo_id, operations, **commit_options)
    return commit


def _has_own_card(api: HfApi, repo_id: str, revision: str | None) -> bool:
    try:
        path = api.hf_hub_download(repo_id, CARD_FILE, revision=revision)
    except (RemoteEntryNotFoundError, RevisionNotFoundError):
        # Not its parent, which a lost connection raises, too: what cannot be seen must not be overwritten.
        return False
    return is_own_text(Path(path).read_text(encoding="utf-8"))
