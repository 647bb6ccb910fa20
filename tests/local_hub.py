"""A small hub on loopback, over the API that the hub's client speaks.

Real HTTP on real sockets. A repository is a row of commits, each a hash of what it holds.
Large files (`.safetensors`) are answered with a redirect to where the bytes are, as the
public hub answers with one to its CDN. What can go wrong is switched on by name: gated,
private, a connection cut in the middle, a server that is down.
"""

import functools
import hashlib
import json
import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
from huggingface_hub import close_session, constants

TOKEN = "hf_loopback"
_INFO = re.compile(r"/api/models/([^/]+/[^/]+)(?:/revision/(.+))?")
_RESOLVE = re.compile(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)")
_BLOB = re.compile(r"/cdn/([^/]+/[^/]+)/([^/]+)/(.+)")


@dataclass
class Hub:
    """What the server serves, and what it was asked.

    gated, private: repositories that only `TOKEN` may read; of a private one nothing is told.
    closed: gated ones to which `TOKEN`, too, has no access.
    cut: files whose connection breaks once, in the middle of the first whole transfer.
    sizes: what is announced as a file's size where that is not the truth.
    down: every request is answered with 503.
    """

    url: str = ""
    commits: dict[str, dict[str, dict[str, bytes]]] = field(default_factory=dict)
    gated: set[str] = field(default_factory=set)
    private: set[str] = field(default_factory=set)
    closed: set[str] = field(default_factory=set)
    cut: set[str] = field(default_factory=set)
    sizes: dict[str, int] = field(default_factory=dict)
    down: bool = False
    requests: list[tuple[str, str, str | None]] = field(default_factory=list)  # method, path, Range
    sent_bytes: dict[str, int] = field(default_factory=dict)

    def add(self, repo: str, files: Mapping[str, bytes | Path]) -> str:
        """Commit `files` (contents, or where they lie) on top of what `repo` holds; the commit."""
        commits = self.commits.setdefault(repo, {})
        held = dict(commits[self.head(repo)]) if commits else {}
        held |= {name: c if isinstance(c, bytes) else c.read_bytes() for name, c in files.items()}
        digest = hashlib.sha1(b"".join(n.encode() + held[n] for n in sorted(held)), usedforsecurity=False)
        commits[digest.hexdigest()] = held
        return digest.hexdigest()

    def add_folder(self, repo: str, folder: Path) -> str:
        """Commit every file of `folder`; the commit."""
        return self.add(repo, {path.name: path for path in folder.iterdir()})

    def head(self, repo: str) -> str:
        """The last commit, which `main` means."""
        return list(self.commits[repo])[-1]

    def received(self, method: str, part: str) -> list[str | None]:
        """The Range of every request of `method` for a path with `part` in it."""
        return [asked for how, path, asked in self.requests if how == method and part in path]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.hub.requests.append((self.command, path, self.headers.get("Range")))
        if self.hub.down:
            self._refuse(503, "")
        elif match := _INFO.fullmatch(path):
            self._info(*match.groups())
        elif match := _RESOLVE.fullmatch(path):
            self._resolve(*match.groups())
        elif match := _BLOB.fullmatch(path):
            repo, commit, name = match.groups()
            self._send(name, self.hub.commits[repo][commit][name], commit)
        else:
            self._refuse(404, "")

    def _commit(self, repo: str, revision: str) -> str | None:
        """The commit that is asked for, if whoever asks may know of it; else the answer is given."""
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        if token and token != TOKEN:
            self._refuse(401, "", ("X-Error-Message", "Invalid credentials in Authorization header"))
        elif repo not in self.hub.commits or (repo in self.hub.private and not token):
            self._refuse(404 if token else 401, "RepoNotFound")
        elif revision == "main":
            return self.hub.head(repo)
        elif revision in self.hub.commits[repo]:
            return revision
        else:
            self._refuse(404, "RevisionNotFound")
        return None

    def _info(self, repo: str, revision: str | None) -> None:
        commit = self._commit(repo, revision or "main")
        if commit is None:
            return
        files = [
            {"rfilename": name, "size": self.hub.sizes.get(name, len(content)), "blobId": _etag(content)}
            for name, content in self.hub.commits[repo][commit].items()
        ]
        info: dict[str, Any] = {"id": repo, "modelId": repo, "sha": commit, "siblings": files, "tags": []}
        body = json.dumps(info | {"private": False, "gated": repo in self.hub.gated}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _resolve(self, repo: str, revision: str, name: str) -> None:
        commit = self._commit(repo, revision)
        if commit is None:
            return
        token = self.headers.get("Authorization")
        content = self.hub.commits[repo][commit].get(name)
        if repo in self.hub.gated and (not token or repo in self.hub.closed):
            self._refuse(403 if token else 401, "GatedRepo")
        elif content is None:
            self._refuse(404, "EntryNotFound", ("X-Repo-Commit", commit))
        elif name.endswith(".safetensors"):
            self.send_response(302)
            self.send_header("Location", f"{self.hub.url}/cdn/{repo}/{commit}/{name}")
            self.send_header("X-Linked-Etag", f'"{_etag(content)}"')
            self.send_header("X-Linked-Size", str(len(content)))
            self.send_header("X-Repo-Commit", commit)
            self.send_header("Content-Length", "0")
            self.end_headers()
        else:
            self._send(name, content, commit)

    def _send(self, name: str, content: bytes, commit: str) -> None:
        begin, end = 0, len(content)
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
        if asked:
            begin, end = int(asked[1]), min(int(asked[2] or end) + bool(asked[2]), len(content))
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {begin}-{end - 1}/{len(content)}")
        else:
            self.send_response(200)
        self.send_header("ETag", f'"{_etag(content)}"')
        self.send_header("X-Repo-Commit", commit)
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(end - begin))
        self.end_headers()
        if self.command == "HEAD":
            return
        if name in self.hub.cut and not asked:
            self.hub.cut.discard(name)
            end = begin + (end - begin) // 2
            self.close_connection = True
        self.wfile.write(content[begin:end])
        self.hub.sent_bytes[name] = self.hub.sent_bytes.get(name, 0) + end - begin

    def _refuse(self, status: int, code: str, *headers: tuple[str, str]) -> None:
        self.send_response(status)
        if code:
            self.send_header("X-Error-Code", code)
        for name, value in headers:
            self.send_header(name, value)
        self.send_header("Content-Length", "0")
        self.end_headers()


@functools.cache
def _etag(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@contextmanager
def serve() -> Iterator[Hub]:
    """An empty hub, for as long as the context lasts."""
    hub = Hub()
    handler = type("Handler", (_Handler,), {"hub": hub})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = True
        hub.url = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield hub
        finally:
            server.shutdown()
            thread.join()


@contextmanager
def pointed_at(url: str, cache: Path) -> Iterator[pytest.MonkeyPatch]:
    """The client in this process, as it would be had it started with HF_ENDPOINT and HF_HUB_CACHE."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(constants, "ENDPOINT", url)
        patch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", url + "/{repo_id}/resolve/{revision}/{filename}"
        )
        patch.setattr(constants, "HF_HUB_CACHE", str(cache))
        patch.setattr(constants, "HF_TOKEN_PATH", str(cache / "token"))
        for name in ("HF_TOKEN", "LM_REPO", "MIMI_REPO", "MIMI_LOCAL"):
            patch.delenv(name, raising=False)
        yield patch
        close_session()
