"""Repositories are downloaded by the real client: over sockets, interrupted, refused, and without network."""

import http.server
import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import constants
from support.local_hub import TOKEN, Hub, pointed_at, serve

from pipeline.config import HubAddress
from pipeline.errors import HubError
from pipeline.hub import Repository, access

REPO = "kyutai/small"
FILES = {"config.json": b'{"dim": 3}', "model.safetensors": b"weights" * 1000}


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    with serve() as hub, pointed_at(hub.url, tmp_path / "cache"):
        hub.add(REPO, FILES)
        yield hub


def open_repository(address: str = f"hf://{REPO}") -> Repository:
    return Repository(HubAddress.parse(address))


def test_a_file_is_downloaded_once_and_unchanged(hub: Hub) -> None:
    for _ in range(2):
        repository = open_repository()
        assert repository.online
        assert repository.names == set(FILES)
        assert {name: repository.path(name).read_bytes() for name in FILES} == FILES
    assert hub.sent_bytes == {name: len(content) for name, content in FILES.items()}


@pytest.mark.parametrize("folder", ["~/.cache/huggingface/hub", "~nobody-at-all/hub"])
@pytest.mark.parametrize("offline", [False, True])
def test_a_cache_in_no_home_folder_is_a_sentence(
    hub: Hub, monkeypatch: pytest.MonkeyPatch, folder: str, *, offline: bool
) -> None:
    """As for a user without one; the client itself would raise what is no error of a file."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", folder)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", offline)
    with pytest.raises(HubError, match="no such home folder; set HOME"):
        open_repository()


class _Nested(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"[" * 100_000)

    def log_message(self, *_: object) -> None:
        """Do not log requests."""


def test_an_answer_that_is_nested_too_deep_is_a_sentence(tmp_path: Path) -> None:
    """Python reports it with an exception of its own."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Nested) as server:
        threading.Thread(target=server.serve_forever).start()
        try:
            with (
                pointed_at(f"http://127.0.0.1:{server.server_port}", tmp_path),
                pytest.raises(HubError, match="nested too deep"),
            ):
                open_repository()
        finally:
            server.shutdown()


def test_only_requested_files_are_downloaded(hub: Hub) -> None:
    open_repository().path("config.json")
    assert hub.sent_bytes == {"config.json": len(FILES["config.json"])}


def test_no_request_has_information_about_the_program(hub: Hub) -> None:
    open_repository().path("config.json")
    assert {path.split("/")[1] for _, path, _ in hub.requests} == {"api", "kyutai"}
    assert all("/models/" in path for _, path, _ in hub.requests if path.startswith("/api/"))


def test_an_interrupted_download_is_resumed(hub: Hub) -> None:
    # The client writes 10 MiB at a time: what follows the last whole piece is sent twice.
    content = bytes(24 * 2**20)
    hub.add(REPO, {"large.safetensors": content})
    hub.cut.add("large.safetensors")
    assert open_repository().path("large.safetensors").read_bytes() == content
    ranges = hub.received("GET", "/cdn/")
    assert ranges == [None, f"bytes={10 * 2**20}-"]
    assert hub.sent_bytes["large.safetensors"] < 1.2 * len(content)


def test_an_incomplete_download_is_not_a_file(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.sleep", lambda _seconds: None)  # the client's, which retries for 23 s
    repository = open_repository()
    repository.path("config.json")
    hub.down = True
    with pytest.raises(HubError, match=r"download of model\.safetensors broke off"):
        repository.path("model.safetensors")
    hub.down = False
    assert repository.path("model.safetensors").read_bytes() == FILES["model.safetensors"]


def test_a_head_has_the_size_and_the_header_of_the_file(hub: Hub, tmp_path: Path) -> None:
    header = b'{"a":' + b" " * 3_000_000 + b"0}"
    content = len(header).to_bytes(8, "little") + header + bytes(6_000_000)
    hub.add(REPO, {"large.safetensors": content})
    head = open_repository().head("large.safetensors", tmp_path)
    read = head.read_bytes()
    assert len(read) == len(content)
    assert read[: 8 + len(header)] == content[: 8 + len(header)]
    assert hub.sent_bytes["large.safetensors"] < len(content) * 0.6
    assert head.stat().st_blocks * 512 < len(content) * 0.6


def test_the_head_of_a_cached_file_is_the_file(hub: Hub, tmp_path: Path) -> None:
    whole = open_repository().path("model.safetensors")
    assert open_repository().head("model.safetensors", tmp_path) == whole


@pytest.mark.parametrize("without", ["network", "working hub", "online mode"])
def test_cached_files_are_available_without(without: str, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    with serve() as hub, pointed_at(hub.url, cache):
        hub.add(REPO, FILES)
        for name in FILES:
            open_repository().path(name)
        if without == "working hub":
            hub.down = True
            assert_served_from_the_cache()
    with pointed_at(hub.url, cache) as patch:  # the hub is not running any more
        patch.setattr(constants, "HF_HUB_OFFLINE", without == "online mode")
        assert_served_from_the_cache()


def assert_served_from_the_cache() -> None:
    repository = open_repository()
    assert not repository.online
    assert {name: repository.path(name).read_bytes() for name in repository.names} == FILES


def test_without_network_a_file_outside_the_cache_is_an_error(hub: Hub, tmp_path: Path) -> None:
    open_repository().path("config.json")
    with pointed_at("http://127.0.0.1:9", tmp_path / "cache"):
        repository = open_repository()
        with pytest.raises(HubError, match=r"model\.safetensors is not in the cache.*check the network"):
            repository.path("model.safetensors")


def test_a_revision_is_pinned_and_main_moves_on(hub: Hub) -> None:
    first = hub.head(REPO)
    second = hub.add(REPO, {"config.json": b'{"dim": 4}'})
    assert first != second
    assert open_repository(f"hf://{REPO}@{first}").path("config.json").read_bytes() == b'{"dim": 3}'
    assert open_repository().path("config.json").read_bytes() == b'{"dim": 4}'


def test_all_files_come_from_one_commit(hub: Hub) -> None:
    repository = open_repository()
    hub.add(REPO, {"config.json": b'{"dim": 4}', "model.safetensors": b"others"})
    assert {name: repository.path(name).read_bytes() for name in FILES} == FILES


def test_a_token_gives_access_to_gated_and_private_repositories(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.gated.add(REPO)
    hub.private.add(REPO)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert open_repository().path("model.safetensors").read_bytes() == FILES["model.safetensors"]


@pytest.mark.parametrize(
    ("address", "wrong", "token", "parts"),
    [
        (f"hf://{REPO}", "gated", "", ["is gated", f"/{REPO}", "accept its terms", "HF_TOKEN"]),
        (f"hf://{REPO}", "closed", TOKEN, ["is gated", "no access yet", f"/{REPO}"]),
        (f"hf://{REPO}", "private", "", ["no such repository", "private", "HF_TOKEN"]),
        ("hf://kyutai/smal", "", "", ["hf://kyutai/smal", "no such repository", "check the name"]),
        ("hf://kyutai/smal", "", TOKEN, ["hf://kyutai/smal", "no such repository", "check the name"]),
        ("hf://kyutai/small--er", "", "", ["no repository can have that name"]),
        (f"hf://{REPO}@v9", "", "", ["has no revision v9"]),
        (f"hf://{REPO}", "", "hf_wrong", ["refuses your token", "HF_TOKEN"]),
        (f"hf://{REPO}", "lacks", "", ["has no voice.safetensors", "config.json, model.safetensors"]),
        (f"hf://{REPO}", "large", "", ["1000000.0 GB", "make room", "HF_HOME"]),
        (f"hf://{REPO}", "offline", "", ["not in the cache", "HF_HUB_OFFLINE is set"]),
        (f"hf://{REPO}", "down", "", ["not in the cache", "cannot be reached", "HF_ENDPOINT"]),
    ],
)
def test_every_error_is_one_sentence_with_what_to_do(
    hub: Hub, monkeypatch: pytest.MonkeyPatch, *, address: str, wrong: str, token: str, parts: list[str]
) -> None:
    if wrong in ("gated", "closed"):
        hub.gated.add(REPO)
    if wrong == "closed":
        hub.closed.add(REPO)
    if wrong == "private":
        hub.private.add(REPO)
    if wrong == "large":
        hub.sizes["model.safetensors"] = 10**15
    hub.down = wrong == "down"
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", wrong == "offline")
    monkeypatch.setenv("HF_TOKEN", token)
    with pytest.raises(HubError) as caught:
        open_repository(address).path("voice.safetensors" if wrong == "lacks" else "model.safetensors")
    sentence = str(caught.value)
    assert all(part in sentence for part in parts), sentence
    assert "\n" not in sentence
    assert caught.value.exit_code == 3


def test_without_network_and_cache_there_is_an_error_at_once(tmp_path: Path) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # bound, and not listening
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"
        with pointed_at(url, tmp_path), pytest.raises(HubError, match="check the network"):
            open_repository()


def test_access_is_that_of_huggingface_hub(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    assert (access().endpoint, access().token, access().offline) == (hub.url, None, False)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert (access().token, access().offline) == (TOKEN, True)
    assert TOKEN not in repr(access())


@pytest.mark.parametrize("kind", ["zero", "fifo", "socket"])
def test_a_token_file_that_cannot_be_one_is_an_error_of_the_hub(
    hub: Hub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, kind: str
) -> None:
    """Nobody waits for what nobody writes, or reads what does not end; HF_TOKEN comes before it."""
    path = tmp_path / "token"
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(path))
    with socket.socket(socket.AF_UNIX) as listener:
        if kind == "zero":
            path.symlink_to("/dev/zero")
        elif kind == "fifo":
            os.mkfifo(path)
        else:
            listener.bind(str(path))
        with pytest.raises(OSError, match="token"):
            access()
        with pytest.raises(HubError, match="HF_HOME"):
            open_repository()
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        assert access().token == TOKEN
