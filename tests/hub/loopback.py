"""A Hub on this machine's loopback, in memory, as far as the client of huggingface_hub needs one.

It speaks the public protocol without Xet: repositories, revisions, regular and large files, tokens. Two things a
real Hub does not do help tests: `tamper` changes the bytes it serves, `requests` lists what it was asked.
"""

import base64
import hashlib
import json
import re
import threading
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

TOKEN = "hf_loopback"
_LARGE = (".safetensors", ".png")
_REPO = r"(?P<repo>[^/]+/[^/]+)"


@dataclass(frozen=True)
class File:
    """A file at a revision; `oid` is what its ETag says, the SHA-256 of a large one."""

    data: bytes
    oid: str
    is_large: bool


@dataclass
class Repository:
    """Commits, and which of them each branch shows."""

    is_private: bool = False
    commits: dict[str, dict[str, File]] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)

    def commit(self, branch: str, files: dict[str, File], deleted: Collection[str] = ()) -> str:
        """Add files to a branch, which starts from `main` if it is new, and delete others."""
        head = self.branches.get(branch, self.branches.get("main"))
        kept = self.commits[head].items() if head else ()
        tree = {**{name: file for name, file in kept if name not in deleted}, **files}
        names = sorted((name, file.oid) for name, file in tree.items())
        sha = hashlib.sha1(repr((names, len(self.commits))).encode()).hexdigest()
        self.commits[sha] = tree
        self.branches[branch] = sha
        return sha


class LoopbackHub:
    """The state of the server."""

    def __init__(self) -> None:
        self.url = ""
        self.repositories: dict[str, Repository] = {}
        self.large: dict[str, bytes] = {}
        self.requests: list[str] = []
        self._changes: dict[str, Callable[[bytes], bytes]] = {}

    def files(self, repo: str, branch: str = "main") -> dict[str, bytes]:
        """Return the files that a branch shows."""
        repository = self.repositories[repo]
        return {name: file.data for name, file in repository.commits[repository.branches[branch]].items()}

    def environment(self, home: Path, token: str = TOKEN) -> dict[str, str]:
        """Return what makes the client of another process use this Hub; it reads that when it is imported."""
        settings = {"HF_ENDPOINT": self.url, "HF_HOME": str(home), "HF_TOKEN": token}
        return {**settings, "HF_HUB_DISABLE_XET": "1", "HF_HUB_OFFLINE": "0"}

    def tamper(self, name: str, change: Callable[[bytes], bytes]) -> None:
        """Serve a file's bytes changed, its checksum as it was."""
        self._changes[name] = change

    def restore(self) -> None:
        """Serve all files as they are."""
        self._changes.clear()

    def served(self, name: str, data: bytes) -> bytes:
        return self._changes.get(name, bytes)(data)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: LoopbackHub

    def log_message(self, *_args: Any) -> None:
        """Write nothing."""

    def _answer(self) -> None:
        path = unquote(urlsplit(self.path).path)
        body = self._read_body()
        self.hub.requests.append(f"{self.command} {path}")
        for method, pattern, handle in _ROUTES:
            if (match := re.fullmatch(pattern, path)) and self.command in method:
                handle(self, body=body, **match.groupdict())
                return
        self._fail(404, "", f"There is no {self.command} {path}.")

    do_GET = do_HEAD = do_POST = do_PUT = _answer

    def _read_body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = []
        while size := int(self.rfile.readline().strip() or b"0", 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _send(self, code: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(code)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _send_json(self, content: Any) -> None:
        self._send(200, json.dumps(content).encode(), {"Content-Type": "application/json"})

    def _fail(self, code: int, name: str, message: str) -> None:
        self._send(code, message.encode(), {"X-Error-Code": name, "X-Error-Message": message})

    @property
    def _has_token(self) -> bool:
        return self.headers.get("Authorization") == f"Bearer {TOKEN}"

    def _find(self, repo: str) -> Repository | None:
        """Return a repository that the client may see; a private one does not exist for others."""
        found = self.hub.repositories.get(repo)
        if found is None or (found.is_private and not self._has_token):
            self._fail(404, "RepoNotFound", "Repository not found")
            return None
        return found

    def _tree(self, repo: str, revision: str) -> tuple[str, dict[str, File]] | None:
        if (repository := self._find(repo)) is None:
            return None
        sha = repository.branches.get(revision, revision)
        if sha not in repository.commits:
            self._fail(404, "RevisionNotFound", "Invalid rev id")
            return None
        return sha, repository.commits[sha]

    def who_am_i(self, body: bytes) -> None:
        if not self._has_token:
            self._fail(401, "", "Invalid user token.")
            return
        self._send_json({"type": "user", "name": "tester", "orgs": [{"name": "org"}]})

    def create(self, body: bytes) -> None:
        if not self._has_token:
            self._fail(401, "", "Invalid user token.")
            return
        wanted = json.loads(body)
        repo = f"{wanted.get('organization') or 'tester'}/{wanted['name']}"
        url = f"{self.hub.url}/{repo}"
        if repo in self.hub.repositories:
            self._send(409, json.dumps({"error": "exists", "url": url}).encode(), {})
            return
        is_private = wanted.get("private") or wanted.get("visibility") == "private"
        repository = Repository(is_private=bool(is_private))
        repository.commit("main", {})
        self.hub.repositories[repo] = repository
        self._send_json({"url": url, "name": repo, "id": repo})

    def validate(self, body: bytes) -> None:
        self._send_json({"errors": [], "warnings": []})

    def begin_large(self, repo: str, body: bytes) -> None:
        objects = []
        for wanted in json.loads(body)["objects"]:
            entry = {"oid": wanted["oid"], "size": wanted["size"]}
            if wanted["oid"] not in self.hub.large:
                entry["actions"] = {"upload": {"href": f"{self.hub.url}/large/{wanted['oid']}"}}
            objects.append(entry)
        self._send_json({"transfer": "basic", "objects": objects})

    def store_large(self, oid: str, body: bytes) -> None:
        if hashlib.sha256(body).hexdigest() != oid:
            self._fail(422, "", "The checksum does not fit.")
            return
        self.hub.large[oid] = body
        self._send_json({})

    def plan_upload(self, repo: str, revision: str, body: bytes) -> None:
        if self._find(repo) is not None:
            files = [
                {
                    "path": wanted["path"],
                    "uploadMode": "lfs" if wanted["path"].endswith(_LARGE) else "regular",
                    "shouldIgnore": False,
                    "oid": None,
                }
                for wanted in json.loads(body)["files"]
            ]
            self._send_json({"files": files})

    def commit(self, repo: str, revision: str, body: bytes) -> None:
        if (repository := self._find(repo)) is None:
            return
        files, deleted = {}, set()
        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            if line["key"] == "file":
                data = base64.b64decode(value["content"])
                oid = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
                files[value["path"]] = File(data, oid, is_large=False)
            elif line["key"] == "lfsFile":
                files[value["path"]] = File(self.hub.large[value["oid"]], value["oid"], is_large=True)
            elif line["key"] == "deletedFile":
                deleted.add(value["path"])
        is_request = "create_pr" in parse_qs(urlsplit(self.path).query)
        branch = "refs/pr/1" if is_request else revision
        if is_request:
            repository.branches[branch] = repository.branches[revision]
        sha, url = repository.commit(branch, files, deleted), f"{self.hub.url}/{repo}"
        told = {"success": True, "commitOid": sha, "commitUrl": f"{url}/commit/{sha}"}
        self._send_json({**told, **({"pullRequestUrl": f"{url}/discussions/1"} if is_request else {})})

    def branch(self, repo: str, name: str, body: bytes) -> None:
        if (repository := self._find(repo)) is not None:
            repository.branches.setdefault(name, repository.branches["main"])
            self._send_json({})

    def describe(self, repo: str, body: bytes, revision: str | None = None) -> None:
        if (found := self._tree(repo, revision or "main")) is None:
            return
        sha, files = found
        card = files["README.md"].data.decode() if "README.md" in files else ""
        metadata = dict(re.findall(r"^(pipeline_tag|library_name): *(\S+)", card, flags=re.MULTILINE))
        date = time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime(0))
        siblings = [{"rfilename": name} for name in sorted(files)]
        shown = {"_id": "0", "id": repo, "modelId": repo, "sha": sha, "siblings": siblings, "tags": []}
        private = self.hub.repositories[repo].is_private
        self._send_json({**shown, **metadata, "private": private, "createdAt": date, "lastModified": date})

    def list_tree(self, repo: str, revision: str, body: bytes) -> None:
        if (found := self._tree(repo, revision)) is None:
            return
        entries = []
        for name, file in sorted(found[1].items()):
            entry: dict[str, Any] = {"type": "file", "path": name, "oid": file.oid, "size": len(file.data)}
            if file.is_large:
                entry["lfs"] = {"oid": file.oid, "size": len(file.data), "pointerSize": 134}
            entries.append(entry)
        self._send_json(entries)

    def resolve(self, repo: str, revision: str, name: str, body: bytes) -> None:
        if (found := self._tree(repo, revision)) is None:
            return
        sha, files = found
        if name not in files:
            headers = {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": sha}
            self._send(404, b"Entry not found", headers)
            return
        file = files[name]
        data = self.hub.served(name, file.data)
        headers = {"X-Repo-Commit": sha, "ETag": f'"{file.oid}"', "X-Linked-Size": str(len(file.data))}
        self._send(200, data, {**headers, "Content-Type": "application/octet-stream"})


_API = rf"/api/models/{_REPO}"
_ROUTES: list[tuple[tuple[str, ...], str, Callable[..., None]]] = [
    (("GET",), r"/api/whoami-v2", _Handler.who_am_i),
    (("POST",), r"/api/repos/create", _Handler.create),
    (("POST",), r"/api/validate-yaml", _Handler.validate),
    (("POST",), rf"/{_REPO}\.git/info/lfs/objects/batch", _Handler.begin_large),
    (("PUT",), r"/large/(?P<oid>[0-9a-f]{64})", _Handler.store_large),
    (("POST",), rf"{_API}/preupload/(?P<revision>[^/]+)", _Handler.plan_upload),
    (("POST",), rf"{_API}/commit/(?P<revision>[^/]+)", _Handler.commit),
    (("POST",), rf"{_API}/branch/(?P<name>[^/]+)", _Handler.branch),
    (("GET",), rf"{_API}/tree/(?P<revision>[^/]+)", _Handler.list_tree),
    (("GET",), rf"{_API}/revision/(?P<revision>[^/]+)", _Handler.describe),
    (("GET",), _API, _Handler.describe),
    (("GET", "HEAD"), rf"/{_REPO}/resolve/(?P<revision>[^/]+)/(?P<name>.+)", _Handler.resolve),
]


@contextmanager
def loopback_hub() -> Iterator[LoopbackHub]:
    """Run a Hub while the block lasts."""
    hub = LoopbackHub()
    handler = type("Handler", (_Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
