"""Push a model's directory to the Hub, in one commit."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import CommitInfo, CommitOperationAdd, CommitOperationDelete, HfApi, ModelCard
from huggingface_hub.errors import RemoteEntryNotFoundError, RevisionNotFoundError
from yaml import YAMLError

from quee_hf.checkpoints import WEIGHT_FILE
from quee_hf.configuration import QuEEConfig
from quee_hf.hub.card import CARD_FILE, PICTURE_FILE, has_own_card, is_own_text, render_card, say_kept
from quee_hf.hub.remote_code import REMOTE_CODE_FILES

_PUBLISHED = {
    "config.json",
    "preprocessor_config.json",
    "processor_config.json",
    CARD_FILE,
    PICTURE_FILE,
    *REMOTE_CODE_FILES,
    "handler.py",  # for Inference Endpoints, with the packages that it needs
    "requirements.txt",
    "LICENSE",
    "LICENSE.md",
    "LICENSE.txt",
}


def publish_folder(
    folder: Path,
    repo_id: str,
    *,
    tags: Sequence[str] = (),
    private: bool | None = None,
    token: bool | str | None = None,
    **commit_options: Any,
) -> CommitInfo:
    """Push the files of a model's directory that belong to the model.

    The card is written for the repository, unless somebody wrote one, here or there. Weights of an earlier
    push that have no place in this one are deleted.

    Args:
        folder: Holds `config.json`.
        repo_id: `org/name`; the repository is made if it does not exist.
        tags: For the card.
        private: Whether to make a private repository; `None` leaves it to the organisation's settings.
        token: Of the Hub; `None` takes the one that is logged in.
        **commit_options: As for `HfApi.create_commit`: `commit_message`, `commit_description`, `revision`,
            `create_pr`.

    Raises:
        ValueError: If the Hub would refuse the card, or a pull request is asked for on another branch.
    """
    api = HfApi(token=token)
    config = QuEEConfig.from_pretrained(folder)
    _check_card(folder)
    if commit_options.get("create_pr") and commit_options.get("revision") not in (None, "main"):
        raise ValueError("A pull request goes to main: give `revision` or `create_pr`, not both.")
    commit_options["commit_message"] = commit_options.get("commit_message") or "Upload a QuEE model"
    repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
    revision = commit_options.get("revision")
    if revision is not None and not revision.startswith("refs/pr/"):
        api.create_branch(repo_id, branch=revision, exist_ok=True)
    files: dict[str, Path | bytes] = {path.name: path for path in published_files(folder)}
    if not has_own_card(folder):
        there = _fetch_card(api, repo_id, revision)
        if is_own_text(there):
            say_kept(repo_id)
            files.pop(CARD_FILE, None)
        else:
            if licence := _stated_licence(there):
                config.record = {"license": licence, **(config.record or {})}
            files[CARD_FILE] = render_card(config, repo_id, tags=tags).encode()
    stale = [
        name
        for name in api.list_repo_files(repo_id, revision=revision)
        if WEIGHT_FILE.fullmatch(name) and name not in files
    ]
    operations: list[CommitOperationAdd | CommitOperationDelete] = [
        *(CommitOperationAdd(name, data) for name, data in files.items()),
        *(CommitOperationDelete(name) for name in stale),
    ]
    commit: CommitInfo = api.create_commit(repo_id, operations, **commit_options)
    return commit


def published_files(folder: Path) -> list[Path]:
    """Return the files of a model's directory that belong to the model.

    Others, such as the arguments of a training, may hold a token or tell where things are on this machine.
    """
    return [
        path
        for path in sorted(folder.iterdir())
        if path.is_file() and (path.name in _PUBLISHED or WEIGHT_FILE.fullmatch(path.name))
    ]


def find_own_card(api: HfApi, repo_id: str, revision: str | None) -> bytes | None:
    """Return the card of a repository if somebody wrote one."""
    card = _fetch_card(api, repo_id, revision)
    return card if is_own_text(card) else None


def _fetch_card(api: HfApi, repo_id: str, revision: str | None) -> bytes:
    """Return the card of a repository, which is empty if there is none."""
    try:
        return Path(api.hf_hub_download(repo_id, CARD_FILE, revision=revision)).read_bytes()
    except (RemoteEntryNotFoundError, RevisionNotFoundError):
        # Not its parent, which a lost connection raises, too: what cannot be seen must not be overwritten.
        return b""


def _stated_licence(card: bytes) -> str | None:
    """Return the licence that was chosen when a repository was made on the website."""
    if not card:
        return None
    try:
        stated = ModelCard(card.decode("utf-8", errors="replace"), ignore_metadata_errors=True).data
    except (ValueError, YAMLError):  # not YAML at all
        return None
    licence = stated.get("license")
    return licence if isinstance(licence, str) else None


def _check_card(folder: Path) -> None:
    """Refuse a card that the Hub would, before a repository is made for it."""
    try:
        if has_own_card(folder):
            (folder / CARD_FILE).read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{folder / CARD_FILE} is not UTF-8, as the Hub needs it to be.") from error
