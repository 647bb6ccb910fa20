"""A small hub on loopback, with the API that huggingface_hub uses.

Real HTTP on real sockets. A repository is a list of commits, each the hash of its files. Large
files (`.safetensors`, `.onnx`) are redirected to a second host, as the public hub redirects to its
CDN. Every request is recorded with its headers. Faults are switched on by name: gated, private, a
connection cut in the middle, held, no answer, an error, any redirect, a server that is down.
"""

import functools
import hashlib
import json
import re
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
from huggingface_hub import close_session, constants

TOKEN = "hf_loopback"
LARGE = (".safetensors", ".onnx")
PIECE_BYTES = 1 << 20
_INFO = re.compile(r"/api/models/([^/]+/[^/]+)(?:/revision/(.+))?")
_RESOLVE = re.compile(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)")
_BLOB = re.compile(r"/cdn/([^/]+/[^/]+)/([^/]+)/(.+)")


class OnDisk:
    """A file's content, read only as it is sliced."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._size_bytes = path.stat().st_size

    def __len__(self) -> int:
        return self._size_bytes

    def __getitem__(self, part: slice) -> bytes:
        begin, end, _ = part.indices(self._size_bytes)
        with self._path.open("rb") as file:
            file.seek(begin)
            return file.read(end - begin)


Content = bytes | OnDisk


@dataclass(frozen=True)
class LoggedRequest:
    """One request to the hub or (`cdn`) to the host of its large files."""

    method: str
    path: str
    headers: dict[str, str]
    cdn: bool


@dataclass
class Hub:
    """What the server serves, and the requests that it got.

    gated, private: repositories that only `TOKEN` may read; a private one seems not to exist.
    closed: gated ones to which `TOKEN`, too, has no access.
    cut: files whose connection breaks once, in the middle of the first whole transfer.
    broken: files whose every transfer breaks off in the middle.
    held: files of which half is sent, and the rest when the event is set.
    silent: files whose requests are not answered until the event is set.
    statuses: files that are answered with this status instead.
    redirects: files that are answered with a redirect to this address instead.
    sizes: wrong sizes that are announced for files.
    wrong: files whose content is sent with every byte changed.
    extra_headers: of every response.
    down: every request is answered with 503.
    """

    url: str = ""
    cdn_url: str = ""
    commits: dict[str, dict[str, dict[str, Content]]] = field(default_factory=dict)
    gated: set[str] = field(default_factory=set)
    private: set[str] = field(default_factory=set)
    closed: set[str] = field(default_factory=set)
    cut: set[str] = field(default_factory=set)
    broken: set[str] = field(default_factory=set)
    held: dict[str, threading.Event] = field(default_factory=dict)
    silent: dict[str, threading.Event] = field(default_factory=dict)
    statuses: dict[str, int] = field(default_factory=dict)
    redirects: dict[str, str] = field(default_factory=dict)
    wrong: set[str] = field(default_factory=set)
    extra_headers: list[tuple[str, str]] = field(default_factory=list)
    sizes: dict[str, int] = field(default_factory=dict)
    down: bool = False
    requests: list[tuple[str, str, str | None]] = field(default_factory=list)  # method, path, Range
    log: list[LoggedRequest] = field(default_factory=list)
    sent_bytes: dict[str, int] = field(default_factory=dict)

    def add(self, repo: str, files: Mapping[str, bytes | Path]) -> str:
        """Commit `files` (contents or paths) on top of those in `repo`; return the commit."""
        commits = self.commits.setdefault(repo, {})
        held = dict(commits[self.head(repo)]) if commits else {}
        held |= {name: c if isinstance(c, bytes) else OnDisk(c) for name, c in files.items()}
        digest = hashlib.sha1(usedforsecurity=False)
        for name in sorted(held):
            digest.update(name.encode() + _etag(held[name]).encode())
        commits[digest.hexdigest()] = held
        return digest.hexdigest()

    def add_folder(self, repo: str, folder: Path) -> str:
        """Commit every file of `folder`; return the commit."""
        return self.add(repo, {path.name: path for path in folder.iterdir()})

    def head(self, repo: str) -> str:
        """The last commit, which is `main`."""
        return list(self.commits[repo])[-1]

    def received(self, method: str, part: str) -> list[str | None]:
        """The Range of every request of `method` for a path with `part` in it."""
        return [range_ for how, path, range_ in self.requests if how == method and part in path]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub
    is_cdn = False

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.hub.requests.append((self.command, path, self.headers.get("Range")))
        self.hub.log.append(LoggedRequest(self.command, path, dict(self.headers.items()), self.is_cdn))
        name = path.rsplit("/", 1)[-1]
        if name in self.hub.silent:
            self.hub.silent[name].wait()
        if self.hub.down:
            self._refuse(503, "")
        elif name in self.hub.statuses:
            self._refuse(self.hub.statuses[name], "")
        elif name in self.hub.redirects:
            self._refuse(302, "", ("Location", self.hub.redirects[name]))
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
        """The commit of a revision; None, after an error response, if the request may not read it."""
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
        elif name.endswith(LARGE):
            self._refuse(
                302,
                "",
                ("Location", f"{self.hub.cdn_url}/cdn/{repo}/{commit}/{name}?signature=secret"),
                ("X-Linked-Etag", f'"{_etag(content)}"'),
                ("X-Linked-Size", str(len(content))),
                ("X-Repo-Commit", commit),
            )
        elif self.headers.get("If-None-Match") == f'"{_etag(content)}"':
            self._refuse(304, "", ("ETag", f'"{_etag(content)}"'), ("X-Repo-Commit", commit))
        else:
            self._send(name, content, commit)

    def _send(self, name: str, content: Content, commit: str) -> None:
        begin, end = 0, len(content)
        requested = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
        if requested and int(requested[1]) >= end:
            self._refuse(416, "", ("Content-Range", f"bytes */{end}"))
            return
        if requested:
            begin, end = int(requested[1]), min(int(requested[2] or end) + bool(requested[2]), len(content))
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {begin}-{end - 1}/{len(content)}")
        else:
            self.send_response(200)
        # The CDN's ETag of a large file is not the digest of its content.
        self.send_header("ETag", f'"cdn-{len(content)}"' if self.is_cdn else f'"{_etag(content)}"')
        self.send_header("X-Repo-Commit", commit)
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(end - begin))
        self._end_headers()
        if self.command == "HEAD":
            return
        base, middle = name.rsplit("/", 1)[-1], begin + (end - begin) // 2
        if base in self.hub.broken or (base in self.hub.cut and not requested):
            self.hub.cut.discard(base)
            self._write(name, content, begin, middle)
            self.close_connection = True
            return
        if base in self.hub.held:
            self._write(name, content, begin, middle)
            self.hub.held[base].wait()
            begin = middle
        self._write(name, content, begin, end)

    def _write(self, name: str, content: Content, begin: int, end: int) -> None:
        """Send and count the content piece by piece, also for a client that disconnects."""
        for at in range(begin, end, PIECE_BYTES):
            piece = content[at : min(at + PIECE_BYTES, end)]
            if name.rsplit("/", 1)[-1] in self.hub.wrong:
                piece = bytes(byte ^ 1 for byte in piece)
            try:
                self.wfile.write(piece)
            except OSError:  # the client has disconnected
                self.close_connection = True
                return
            self.hub.sent_bytes[name] = self.hub.sent_bytes.get(name, 0) + len(piece)

    def _end_headers(self) -> None:
        for name, value in self.hub.extra_headers:
            self.send_header(name, value)
        self.end_headers()

    def _refuse(self, status: int, code: str, *headers: tuple[str, str]) -> None:
        self.send_response(status)
        if code:
            self.send_header("X-Error-Code", code)
        for name, value in headers:
            self.send_header(name, value)
        if status != 304:
            self.send_header("Content-Length", "0")
        self._end_headers()


class _CdnHandler(_Handler):
    is_cdn = True


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, address: tuple[str, int], handler: type[_Handler]) -> None:
        super().__init__(address, handler)
        self._open: set[socket.socket] = set()

    def process_request(self, request: Any, client_address: Any) -> None:
        self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self._open.discard(request)
        super().shutdown_request(request)

    def server_close(self) -> None:
        """Close connections that clients keep open, too."""
        super().server_close()
        for request in tuple(self._open):
            with suppress(OSError):
                request.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: object, client_address: object) -> None:
        """Ignore clients that disconnect; any other error fails the test by a missing response."""


@functools.cache
def _etag(content: Content) -> str:
    digest = hashlib.sha256()
    for at in range(0, len(content), PIECE_BYTES):
        digest.update(content[at : at + PIECE_BYTES])
    return digest.hexdigest()


@contextmanager
def serve(port: int = 0) -> Iterator[Hub]:
    """An empty hub, for as long as the context lasts."""
    hub = Hub()
    with ExitStack() as stack:
        hub.cdn_url = stack.enter_context(_listening(type("Cdn", (_CdnHandler,), {"hub": hub}), 0))
        hub.url = stack.enter_context(_listening(type("Handler", (_Handler,), {"hub": hub}), port))
        try:
            yield hub
        finally:
            for event in (*hub.held.values(), *hub.silent.values()):
                event.set()


@contextmanager
def _listening(handler: type[_Handler], port: int) -> Iterator[str]:
    with _Server(("127.0.0.1", port), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


@contextmanager
def pointed_at(url: str, cache: Path) -> Iterator[pytest.MonkeyPatch]:
    """huggingface_hub in this process, as if started with this HF_ENDPOINT and HF_HUB_CACHE."""
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
