"""A stand-in for the Hugging Face hub on loopback: it speaks the hub's protocol, and its client is the real one.

What it has is set before or between requests: repositories with their files, tokens, failures, bodies that break off.
"""

import hashlib
import json
import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from huggingface_hub import constants as hub_settings
from huggingface_hub.hf_api import api as hub_api

COMMIT = "0123456789abcdef0123456789abcdef01234567"
LARGE_BYTES = 100_000  # files from this size on lie elsewhere, and their ETag is their sha256, as with Git LFS
_PATHS = "{repo_id}/resolve/{revision}/{filename}"
_RESOLVE = re.compile(r"/(?P<id>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<file>.+)")
_API = re.compile(r"/api/models/(?P<id>[^/]+/[^/]+)(?:/revision/(?P<revision>.+))?")
_CDN = re.compile(r"/cdn/(?P<id>[^/]+/[^/]+)/(?P<commit>[^/]+)/(?P<file>.+)")


@dataclass
class StandInRepository:
    """A repository of the stand-in.

    Attributes:
        files: at its top, by name: their bytes, or a file on disk that has them.
        commit: that all revisions lead to.
        revisions: branches and tags.
        token: without which it is private.
        is_gated: whether its terms have not been accepted.
    """

    files: dict[str, bytes | Path]
    commit: str = COMMIT
    revisions: tuple[str, ...] = ("main",)
    token: str | None = None
    is_gated: bool = False

    def content(self, name: str) -> bytes:
        found = self.files[name]
        return found if isinstance(found, bytes) else found.read_bytes()

    def size(self, name: str) -> int:
        found = self.files[name]
        return len(found) if isinstance(found, bytes) else found.stat().st_size


@dataclass
class StandInHub:
    """The running stand-in.

    Attributes:
        repositories: by their owner/name.
        status: that it answers everything with, if that is not 0.
        body_limit: bytes after which bodies of large files break off.
        corrupted: whether the last byte of large files is another one.
        asked: the method and the path of each request so far.
        tokens: that came with requests.
    """

    server: ThreadingHTTPServer
    repositories: dict[str, StandInRepository] = field(default_factory=dict)
    status: int = 0
    body_limit: int | None = None
    corrupted: bool = False
    asked: list[tuple[str, str]] = field(default_factory=list)
    tokens: set[str] = field(default_factory=set)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}"

    def add(self, repository: str, files: Mapping[str, bytes | Path]) -> StandInRepository:
        added = self.repositories[repository] = StandInRepository(dict(files))
        return added

    def bodies_sent(self) -> list[str]:
        """The paths of large files that were fetched."""
        return [path for method, path in self.asked if method == "GET" and path.startswith("/cdn/")]


@contextmanager
def running_hub() -> Iterator[StandInHub]:
    """A stand-in without repositories, until the end of the block; HF_ENDPOINT is its `url`."""

    class Handler(_Handler):
        pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    Handler.hub = StandInHub(server)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield Handler.hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def use_hub(endpoint: str, home: Path, patch: pytest.MonkeyPatch) -> None:
    """Let the hub's client in this process ask `endpoint` and keep what it gets in `home`.

    The client reads its settings from the environment when it is imported, once for all tests. Other processes are told
    by HF_ENDPOINT and HF_HOME.
    """
    patch.setattr(hub_settings, "HF_HUB_CACHE", str(home / "hub"))
    patch.setattr(hub_settings, "HF_TOKEN_PATH", str(home / "token"))
    patch.setattr(hub_settings, "HF_HUB_OFFLINE", False)
    patch.setattr(hub_settings, "ENDPOINT", endpoint)
    patch.setattr(hub_settings, "HUGGINGFACE_CO_URL_TEMPLATE", f"{endpoint}/{_PATHS}")
    patch.setattr(hub_api, "endpoint", endpoint)


class _Handler(BaseHTTPRequestHandler):
    hub: StandInHub

    def do_HEAD(self) -> None:
        self._route()

    def do_GET(self) -> None:
        self._route()

    def log_message(self, *_: object) -> None:
        pass

    def _route(self) -> None:
        path = urlsplit(self.path).path
        self.hub.asked.append((self.command, unquote(path)))
        if token := (self.headers.get("Authorization") or "").removeprefix("Bearer "):
            self.hub.tokens.add(token)
        if self.hub.status:
            self._answer(self.hub.status, {})
        elif found := _CDN.fullmatch(path):
            self._large_file(self.hub.repositories[found["id"]], unquote(found["file"]))
        elif found := _API.fullmatch(path):
            if (repository := self._allowed(found["id"], found["revision"])) is not None:
                self._describe(found["id"], repository)
        elif found := _RESOLVE.fullmatch(path):
            if (repository := self._allowed(found["id"], found["revision"])) is not None:
                self._resolve(found["id"], repository, unquote(found["file"]))
        else:
            self._answer(404, {})

    def _allowed(self, name: str, revision: str | None) -> StandInRepository | None:
        """The repository; None if the request was refused, as the hub words it."""
        repository = self.hub.repositories.get(name)
        given = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        if repository is None or (repository.token is not None and repository.token != given):
            self._answer(404 if given else 401, {"X-Error-Code": "RepoNotFound"})
        elif repository.is_gated:
            self._answer(403, {"X-Error-Code": "GatedRepo"})
        elif revision is not None and unquote(revision) not in (repository.commit, *repository.revisions):
            self._answer(404, {"X-Error-Code": "RevisionNotFound"})
        else:
            return repository
        return None

    def _describe(self, name: str, repository: StandInRepository) -> None:
        files = [{"rfilename": file, "size": repository.size(file)} for file in repository.files]
        body = json.dumps({"id": name, "sha": repository.commit, "siblings": files}).encode()
        self._answer(200, {"Content-Type": "application/json"}, body)

    def _resolve(self, name: str, repository: StandInRepository, file: str) -> None:
        headers = {"X-Repo-Commit": repository.commit}
        if file not in repository.files:
            self._answer(404, headers | {"X-Error-Code": "EntryNotFound"})
            return
        content = repository.content(file)
        if len(content) < LARGE_BYTES:
            self._answer(200, headers | {"ETag": f'"{hashlib.sha1(content).hexdigest()}"'}, content)  # noqa: S324
            return
        etag = f'"{hashlib.sha256(content).hexdigest()}"'
        # Another host, as the hub's: on its own the client expects the hub's headers, and sends the token there.
        where = f"http://localhost:{self.hub.server.server_port}/cdn/{name}/{repository.commit}/{file}"
        linked = {"X-Linked-Size": str(len(content)), "X-Linked-ETag": etag, "Location": where}
        self._answer(302, headers | linked)

    def _large_file(self, repository: StandInRepository, file: str) -> None:
        content = repository.content(file)
        if self.hub.corrupted:
            content = content[:-1] + bytes([content[-1] ^ 1])
        start = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range") or "")
        first = int(start[1]) if start else 0
        part = {"Content-Range": f"bytes {first}-{len(content) - 1}/{len(content)}"} if start else {}
        self._answer(206 if start else 200, part, content[first:], self.hub.body_limit)

    def _answer(self, status: int, headers: Mapping[str, str], body: bytes = b"", limit: int | None = None) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body[:limit])
