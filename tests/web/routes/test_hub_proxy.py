"""/api/hf over real sockets: files, errors, and nothing forwarded between client and hub."""

import hashlib
import json
import random
import re
import socket
import threading

import psutil
import pytest
import structlog
import trio
from support.hub_rig import REPO, proxy_of, until
from support.local_hub import TOKEN, serve
from support.web.small_engine import SETTINGS, packet_client, small_server, speech
from support.web.sockets import fetch, read_to_end

from actors.hub_proxy.download import CHUNK_BYTES
from pipeline.config import Limits, Server, Settings
from web.security.auth import PUBLIC_FOLDERS, PUBLIC_PATHS

LARGE = random.Random(1).randbytes(2 * CHUNK_BYTES + 99)
FILES = {
    "config.json": b'{"dim": 3}',
    "README.md": b"# Whisper",
    "onnx/model.onnx": LARGE,
    "index.html": b"<script>alert(1)</script>",
}
PATH = f"/api/hf/{REPO}/resolve/main"
# Of every answer, and of a file: nothing else may be in one.
OF_ALL = {
    "date",
    "content-length",
    "content-type",
    "content-security-policy",
    "cross-origin-opener-policy",
    "cross-origin-embedder-policy",
    "cross-origin-resource-policy",
    "x-content-type-options",
    "referrer-policy",
    "cache-control",
    "connection",
}
OF_FILES = OF_ALL | {"etag", "accept-ranges", "x-repo-commit", "x-hub-cache"}


@pytest.fixture
def hub():
    with serve() as hub:
        hub.add(REPO, FILES)
        yield hub


def etag_of(path):
    return f'"{hashlib.sha256(FILES[path]).hexdigest()}"'


@pytest.mark.parametrize("path", FILES)
async def test_a_file_is_served_as_one(hub, tmp_path, path):
    """GET and HEAD agree; the headers are our own, with a type that no browser executes or guesses."""
    async with small_server(proxy=proxy_of(hub, tmp_path)) as served:
        got = await fetch(served, f"{PATH}/{path}")
        head = await fetch(served, f"{PATH}/{path}", method="HEAD")
    assert (got.status, got.body) == (200, FILES[path])
    assert (head.status, head.body) == (200, b"")
    assert got.headers.keys() == head.headers.keys() == OF_FILES
    for name in OF_FILES - {"date", "x-hub-cache"}:
        assert got.headers[name] == head.headers[name]
    assert got.headers["content-length"] == str(len(FILES[path]))
    assert got.headers["etag"] == etag_of(path)
    assert got.headers["x-repo-commit"] == hub.head(REPO)
    assert got.headers["content-type"].split(";")[0] in {
        "application/json",
        "text/plain",
        "application/octet-stream",
    }
    assert got.headers["x-content-type-options"] == "nosniff"
    assert got.headers["cross-origin-resource-policy"] == "same-origin"


RANGES = [
    ("bytes=0-0", 206, slice(0, 1)),
    ("bytes=5-9", 206, slice(5, 10)),
    ("bytes=-7", 206, slice(-7, None)),
    (f"bytes={CHUNK_BYTES - 3}-{CHUNK_BYTES + 3}", 206, slice(CHUNK_BYTES - 3, CHUNK_BYTES + 4)),
    ("bytes=100-", 206, slice(100, None)),
    ("bytes=0-99999999", 206, slice(0, None)),
    (f"bytes={len(LARGE)}-", 416, None),
    ("bytes=9-5", 200, slice(0, None)),
    ("bytes=0-1,5-6", 200, slice(0, None)),
    ("lines=1-2", 200, slice(0, None)),
    ("bytes=-", 200, slice(0, None)),
    ("bytes=0-" + "9" * 5000, 200, slice(0, None)),
]


@pytest.mark.parametrize("warm", [False, True])
async def test_a_range_is_served(hub, tmp_path, warm):
    """One range, of a file in the cache and of one that is still downloading."""
    async with small_server(proxy=proxy_of(hub, tmp_path)) as served:
        if warm:
            await fetch(served, f"{PATH}/onnx/model.onnx")
        for header, status, part in RANGES:
            got = await fetch(served, f"{PATH}/onnx/model.onnx", headers=[("Range", header)])
            assert got.status == status, header
            if status == 416:
                assert got.headers["content-range"] == f"bytes */{len(LARGE)}"
                assert got.error == "range_not_satisfiable"
                continue
            assert got.body == LARGE[part], header
            if status == 206:
                begin, end, _ = part.indices(len(LARGE))
                assert got.headers["content-range"] == f"bytes {begin}-{end - 1}/{len(LARGE)}"


async def test_conditional_requests(hub, tmp_path):
    """An unchanged file is 304 without a body; a range of a changed file is the whole file."""
    etag, other = etag_of("config.json"), '"other"'
    async with small_server(proxy=proxy_of(hub, tmp_path)) as served:
        path = f"{PATH}/config.json"
        for header in (etag, f"W/{etag}", f"{other}, {etag}", "*"):
            for method in ("GET", "HEAD"):
                same = await fetch(served, path, method=method, headers=[("If-None-Match", header)])
                assert (same.status, same.body) == (304, b"")
                assert same.headers["etag"] == etag
                assert "content-type" not in same.headers
        changed = await fetch(served, path, headers=[("If-None-Match", other)])
        assert (changed.status, changed.body) == (200, FILES["config.json"])
        for header, status in ((etag, 206), (other, 200), ("Wed, 21 Oct 2015 07:28:00 GMT", 200)):
            part = await fetch(served, path, headers=[("Range", "bytes=0-2"), ("If-Range", header)])
            assert part.status == status


BAD_PATHS = [
    "onnx-community/whisper-small",
    "onnx-community/whisper-small/resolve/main",
    "onnx-community/whisper-small/resolve/main/",
    "onnx-community/whisper-small/resolve/main/../../x",
    "onnx-community/whisper-small/resolve/main/a/../config.json",
    "onnx-community/whisper-small/resolve/main/./config.json",
    "onnx-community/whisper-small/resolve/main//config.json",
    "onnx-community//whisper-small/resolve/main/config.json",
    "onnx-community/whisper-small/resolve/main/%2e%2e/config.json",
    "onnx-community/whisper-small/resolve/main/a%2fconfig.json",
    "onnx-community/whisper-small/resolve/main/a%5cconfig.json",
    "onnx-community/whisper-small/resolve/main/config.json%00",
    "onnx-community/whisper-small/resolve/main/config.json%0d%0aX-Evil:%201",
    "onnx-community/whisper-small/resolve/main/%63onfig.json",
    "onnx-community/whisper-small/resolve/main/config.json%3Fdownload",
    "onnx-community/whisper-small/resolve/main/.env",
    "onnx-community/whisper-small/resolve/ma%20in/config.json",
    "onnx-community/whisper-small/resolve/../config.json",
    "",
    "/onnx-community/whisper-small/resolve/main/config.json",
    "onnx-community/whisper-small/raw/main/config.json",
    "onnx-community/whisper-small@evil.example/resolve/main/config.json",
    "evil.example:80/x/resolve/main/config.json",
    "http://evil.example/resolve/main/config.json",
    "onnx-community/whisper-small/resolve/main/" + "a/" * 8 + "b",
    "onnx-community/whisper-small/resolve/main/" + "a" * 600,
    "onnx-community/whisper-small/resolve/main/caf%C3%A9",
]


@pytest.mark.parametrize("address", BAD_PATHS)
async def test_an_unusual_path_is_refused(hub, tmp_path, address):
    """400 as JSON, without a redirect to a normalized path; the hub gets no request."""
    async with small_server(proxy=proxy_of(hub, tmp_path)) as served:
        answer = await fetch(served, f"/api/hf/{address}")
    assert (answer.status, answer.error) == (400, "bad_path")
    assert not hub.log


async def test_any_path_leads_to_plain_requests_of_the_hub(hub, tmp_path):
    """Paths made of pieces of attacks get one of a few responses; requests to the hub stay well formed."""
    pieces = [
        *"./%\\?#@:;&=+~ a",
        "..",
        "%2f",
        "%2e",
        "%00",
        "%0a",
        "resolve",
        "main",
        "config.json",
        *PATH.split("/"),
    ]
    rng = random.Random(4)
    async with small_server(proxy=proxy_of(hub, tmp_path)) as served:
        for _ in range(300):
            tail = "".join(rng.choice(pieces) + rng.choice(["", "/"]) for _ in range(rng.randrange(1, 9)))
            target = rng.choice(["/api/hf/", f"/api/hf/{REPO}/", f"{PATH}/"]) + tail.replace(" ", "")
            answer = await fetch(served, target)
            assert answer.status in {200, 400, 403, 404}, target
            assert answer.headers.keys() <= OF_FILES, target
    plain = re.compile(rf"/{REPO}/resolve/[A-Za-z0-9._-]+/[A-Za-z0-9._+=@~/-]+")
    for request in hub.log:
        assert request.cdn or plain.fullmatch(request.path)


async def test_a_query_is_not_forwarded(hub, tmp_path):
    """It is neither part of the file name nor sent to the hub."""
    proxy = proxy_of(hub, tmp_path)
    async with small_server(proxy=proxy) as served:
        answer = await fetch(served, f"{PATH}/config.json?download=true&x=%0d%0a")
        assert (answer.status, answer.body) == (200, FILES["config.json"])
        await until(lambda: not proxy.statistics().fetching)
        assert (await fetch(served, f"{PATH}/config.json")).headers["x-hub-cache"] == "hit"


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS"])
async def test_other_methods_are_not_allowed(hub, tmp_path, method):
    """405 with the allowed methods."""
    async with small_server(proxy=proxy_of(hub, tmp_path)) as served:
        answer = await fetch(served, f"{PATH}/config.json", method=method)
    assert (answer.status, answer.error) == (405, "method_not_allowed")
    assert set(answer.headers["allow"].split(", ")) == {"GET", "HEAD"}
    assert not hub.log


async def refused(hub, folder, path=f"{PATH}/config.json", **how):
    async with small_server(proxy=proxy_of(hub, folder, **how)) as served:
        answer = await fetch(served, path)
        assert answer.json["error"].keys() >= {"code", "message"}
        return answer


async def test_errors_of_the_hub_have_a_status_and_a_code(hub, tmp_path):
    """Each error of the hub maps to one status and code, without any text from the hub."""
    answer = await refused(hub, tmp_path, f"{PATH}/nothing.json")
    assert (answer.status, answer.error) == (404, "not_found")
    answer = await refused(hub, tmp_path, f"/api/hf/{REPO}/resolve/nothing/config.json")
    assert (answer.status, answer.error) == (404, "not_found")
    answer = await refused(hub, tmp_path, "/api/hf/Xenova/whisper-none/resolve/main/config.json")
    assert (answer.status, answer.error) == (404, "not_found")
    answer = await refused(hub, tmp_path, "/api/hf/else/whisper-small/resolve/main/config.json")
    assert (answer.status, answer.error) == (403, "repo_refused")
    for status, ours in ((500, 502), (418, 502), (503, 503), (429, 503), (204, 502), (401, 401), (403, 403)):
        hub.statuses["config.json"] = status
        answer = await refused(hub, tmp_path)
        assert (answer.status, answer.error) == (ours, "gated" if ours < 500 else "hub_error")
        assert ("retry-after" in answer.headers) is (ours == 503)


async def test_a_gated_file_says_what_to_do(hub, tmp_path):
    """Without a token: set one. With a token that has no access: request it. With access: the file."""
    hub.gated.add(REPO)
    answer = await refused(hub, tmp_path)
    assert (answer.status, answer.error) == (401, "gated")
    assert "HF_TOKEN" in answer.json["error"]["message"]
    answer = await refused(hub, tmp_path, token="hf_wrong")
    assert (answer.status, answer.error) == (401, "gated")
    hub.closed.add(REPO)
    answer = await refused(hub, tmp_path, token=TOKEN)
    assert (answer.status, answer.error) == (403, "gated")
    hub.closed.clear()
    async with small_server(proxy=proxy_of(hub, tmp_path, token=TOKEN)) as served:
        assert (await fetch(served, f"{PATH}/onnx/model.onnx")).body == LARGE


async def test_a_hub_that_does_not_respond_is_an_error(hub, tmp_path):
    """504 after a timeout, 502 where the connection is refused."""
    hub.silent["config.json"] = threading.Event()
    answer = await refused(hub, tmp_path, timeout_s=0.2)
    assert (answer.status, answer.error) == (504, "hub_timeout")
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # bound, and not listening
        answer = await refused(f"http://127.0.0.1:{unused.getsockname()[1]}", tmp_path)
    assert (answer.status, answer.error) == (502, "hub_unreachable")


async def test_headers_are_not_forwarded(hub, tmp_path):
    """Neither headers of the hub to the client, nor of the client to the hub, nor cookies."""
    hub.extra_headers += [
        ("Set-Cookie", "spy=1"),
        ("X-Evil", "1"),
        ("Content-Security-Policy", "default-src *"),
        ("Access-Control-Allow-Origin", "*"),
        ("Server", "theirs"),
    ]
    ours = [("Cookie", "mine=1"), ("X-Mine", "1"), ("User-Agent", "me"), ("Accept-Language", "tlh")]
    async with small_server(proxy=proxy_of(hub, tmp_path, fresh_s=0.0)) as served:
        for path in ("config.json", "config.json", "onnx/model.onnx"):
            answer = await fetch(served, f"{PATH}/{path}", headers=ours)
            assert (answer.status, answer.body) == (200, FILES[path])
            assert answer.headers.keys() == OF_FILES
            assert "*" not in answer.headers["content-security-policy"]
    sent = {name.lower() for request in hub.log for name in request.headers}
    assert sent <= {"host", "accept", "accept-encoding", "connection", "user-agent", "if-none-match", "range"}
    assert {request.headers["User-Agent"] for request in hub.log} == {"packet-voice"}


async def test_the_token_is_sent_to_the_hub_only(hub, tmp_path):
    """To no redirect target, and into no response, log or cached file."""
    hub.gated.add(REPO)
    seen = b""
    with structlog.testing.capture_logs() as logs:
        async with small_server(proxy=proxy_of(hub, tmp_path, token=TOKEN)) as served:
            hub.cut.add("model.onnx")
            for path in ("onnx/model.onnx", "onnx/model.onnx", "config.json", "nothing.json", "%00"):
                stream = await trio.open_tcp_stream("127.0.0.1", served.port)
                async with stream:
                    request = (
                        f"GET {PATH}/{path} HTTP/1.1\r\nHost: {served.host}\r\nConnection: close\r\n\r\n"
                    )
                    await stream.send_all(request.encode())
                    seen += await read_to_end(stream)
            for path in ("/health", "/metrics", f"/api/test/hf-proxy?path={REPO}/resolve/main/config.json"):
                seen += (await fetch(served, path)).body
    seen += json.dumps(logs, default=repr).encode()
    seen += b"".join(path.read_bytes() + path.name.encode() for path in tmp_path.iterdir())
    assert LARGE in seen
    assert TOKEN.encode() not in seen
    assert b"signature" not in seen
    shown = {request.cdn: request.headers.get("Authorization") for request in hub.log}
    assert shown == {False: f"Bearer {TOKEN}", True: None}


@pytest.mark.parametrize(
    "target",
    [
        "http://192.0.2.1/x",
        "ftp://127.0.0.1/x",
        "file:///etc/passwd",
        "http://[",
        "//192.0.2.1/x",
        "",
        "javascript:alert(1)",
    ],
)
async def test_an_unsafe_redirect_is_not_followed(hub, tmp_path, target):
    """502 unless the target is https, or loopback from loopback."""
    hub.redirects["config.json"] = target
    answer = await refused(hub, tmp_path, timeout_s=5.0)
    assert (answer.status, answer.error) == (502, "hub_error")


async def test_a_truncated_body_breaks_the_connection(hub, tmp_path):
    """It ends before the Content-Length, an error for the client; a retry gets the file."""
    hub.cut.add("model.onnx")
    async with small_server(proxy=proxy_of(hub, tmp_path)) as served:
        with structlog.testing.capture_logs() as logs:
            async with await trio.open_tcp_stream("127.0.0.1", served.port) as stream:
                request = f"GET {PATH}/onnx/model.onnx HTTP/1.1\r\nHost: {served.host}\r\n\r\n"
                await stream.send_all(request.encode())
                head, _, body = (await read_to_end(stream)).partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200")
        assert f"content-length: {len(LARGE)}".encode() in head.lower()
        assert b"chunked" not in head
        assert len(body) < len(LARGE)
        assert LARGE.startswith(body)
        assert (await fetch(served, f"{PATH}/onnx/model.onnx")).body == LARGE
    assert "connection_failed" not in {entry["event"] for entry in logs}


async def test_fifty_clients_are_one_download(hub, tmp_path):
    """With fifty connections, the hub gets one request and sends the file once."""
    hub.held["model.onnx"] = held = threading.Event()
    proxy, got = proxy_of(hub, tmp_path), []
    async with small_server(proxy=proxy) as served, trio.open_nursery() as clients:

        async def client():
            got.append((await fetch(served, f"{PATH}/onnx/model.onnx")).body)

        for _ in range(50):
            clients.start_soon(client)
        await until(lambda: proxy.statistics().active_readers == 50)
        held.set()
    assert got == [LARGE] * 50
    assert [request.cdn for request in hub.log] == [False, True]


HUGE_BYTES = 256 * 2**20
GROWN_BYTES = 48 * 2**20


async def test_memory_does_not_grow_with_the_file(hub, tmp_path):
    """For a large file from the hub, and again from the cache."""
    huge = tmp_path / "huge.onnx"
    with huge.open("wb") as file:
        file.truncate(HUGE_BYTES)
    hub.add(REPO, {"huge.onnx": huge})
    process = psutil.Process()
    async with small_server(proxy=proxy_of(hub, tmp_path / "cache")) as served:
        await fetch(served, f"{PATH}/onnx/model.onnx")
        before_bytes = process.memory_info().rss
        for _ in range(2):
            most_bytes, received_bytes = 0, 0
            async with await trio.open_tcp_stream("127.0.0.1", served.port) as stream:
                request = f"GET {PATH}/huge.onnx HTTP/1.1\r\nHost: {served.host}\r\nConnection: close\r\n\r\n"
                await stream.send_all(request.encode())
                async for chunk in stream:
                    received_bytes += len(chunk)
                    most_bytes = max(most_bytes, process.memory_info().rss)
            assert received_bytes > HUGE_BYTES
            assert most_bytes - before_bytes < GROWN_BYTES
    assert hub.sent_bytes["huge.onnx"] == HUGE_BYTES


SLOW_BYTES = 24 * 2**20
ROUND_TRIPS = 30


async def test_a_client_may_pause(hub, tmp_path):
    """A page that compiles one model does not read the next: it may pause for long."""
    slow = random.Random(5).randbytes(SLOW_BYTES)
    hub.add(REPO, {"slow.onnx": slow})
    hasty = Settings(server=Server(port=0), limits=Limits(send_timeout_s=0.001))
    proxy = proxy_of(hub, tmp_path)
    async with small_server(hasty, proxy=proxy) as served:
        paused = trio.socket.socket()
        paused.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        await paused.connect(("127.0.0.1", served.port))
        async with trio.SocketStream(paused) as stream:
            request = f"GET {PATH}/slow.onnx HTTP/1.1\r\nHost: {served.host}\r\nConnection: close\r\n\r\n"
            await stream.send_all(request.encode())
            await until(lambda: proxy.statistics().fetched_bytes == SLOW_BYTES)
            for _ in range(ROUND_TRIPS):  # each of them takes longer than a packet_client would be given
                assert (await fetch(served, f"{PATH}/config.json")).body == FILES["config.json"]
            assert proxy.statistics().sent_bytes < SLOW_BYTES
            _, _, body = (await read_to_end(stream)).partition(b"\r\n\r\n")
    assert body == slow


async def test_shutdown_does_not_wait_for_downloads(hub, tmp_path):
    """A client that stops reading does not keep the server from shutting down."""
    hub.add(REPO, {"slow.onnx": random.Random(6).randbytes(SLOW_BYTES)})
    proxy = proxy_of(hub, tmp_path, drain_s=0.1)
    async with (
        small_server(proxy=proxy) as served,
        await trio.open_tcp_stream("127.0.0.1", served.port) as it,
    ):
        await it.send_all(f"GET {PATH}/slow.onnx HTTP/1.1\r\nHost: {served.host}\r\n\r\n".encode())
        await until(lambda: proxy.statistics().sent_bytes)
        served.shutdown.set()
        await served.ended.wait()


async def test_a_session_is_served_during_a_download(hub, tmp_path):
    """Every frame is answered while a file is transferred."""
    hub.add(REPO, {"slow.onnx": random.Random(7).randbytes(SLOW_BYTES)})
    proxy = proxy_of(hub, tmp_path)
    settings = Settings(server=Server(port=0), limits=Limits(send_timeout_s=20.0, max_lag_ms=60_000))
    async with (
        small_server(settings, proxy=proxy) as served,
        packet_client(served) as client,
        trio.open_nursery() as both,
    ):
        both.start_soon(fetch, served, f"{PATH}/slow.onnx")
        assert len(await client.exchange(speech(20))) == 19


async def test_requests_are_counted(hub, tmp_path):
    """/health and /metrics count where files came from, and the files in the cache."""
    proxy = proxy_of(hub, tmp_path)
    async with small_server(proxy=proxy) as served:
        for path in ("config.json", "config.json", "nothing.json"):
            await fetch(served, f"{PATH}/{path}")
            await until(lambda: not proxy.statistics().fetching)
        await until(lambda: proxy.statistics().cache.files)
        hub_facts = (await fetch(served, "/health")).json["hub"]
        metrics = (await fetch(served, "/metrics")).body.decode()
    size_bytes = len(FILES["config.json"])
    assert hub_facts["results"] == {"miss": 1, "hit": 1, "not_found": 1}
    assert (hub_facts["fetchedBytes"], hub_facts["sentBytes"]) == (size_bytes, 2 * size_bytes)
    assert hub_facts["cache"]["files"] == 1
    assert 'packet_voice_hub_requests_total{result="hit"} 1.0' in metrics
    assert f"packet_voice_hub_fetched_bytes_total {float(size_bytes)}" in metrics


async def test_without_allowed_repositories_there_is_no_proxy():
    """/api/hf and its self-test are not found, and /health has no hub."""
    async with small_server() as served:
        for path in (f"{PATH}/config.json", "/api/test/hf-proxy?path=x"):
            assert (await fetch(served, path)).status == 404
        assert (await fetch(served, "/health")).json["hub"] is None


def test_hub_files_need_the_servers_token():
    """A server with a token requires it for hub files too."""
    assert PATH not in PUBLIC_PATHS
    assert not PATH.startswith(PUBLIC_FOLDERS)


async def test_the_selftest_fetches_a_file(hub, tmp_path):
    """It fetches the beginning of a file through the proxy, and reports the result or the error."""
    probe, proxy = "/api/test/hf-proxy?path=", proxy_of(hub, tmp_path)
    async with small_server(proxy=proxy) as served:
        first = (await fetch(served, f"{probe}{REPO}/resolve/main/onnx/model.onnx")).json
        assert (first["ok"], first["status"], first["cached"]) == (True, 200, False)
        assert (first["bytes"], first["sizeBytes"]) == (64 * 1024, len(LARGE))
        assert first["commit"] == hub.head(REPO)
        for path, status, code in (
            (f"{REPO}/resolve/main/nothing.json", 404, "not_found"),
            ("else/whisper/resolve/main/config.json", 403, "repo_refused"),
            ("../../etc/passwd", 400, "bad_path"),
        ):
            answer = await fetch(served, probe + path)
            assert answer.status == 200
            body = answer.json
            assert (body["ok"], body["status"], body["code"]) == (False, status, code)
        await fetch(served, f"{PATH}/config.json")
        await until(lambda: not proxy.statistics().fetching)
        again = (await fetch(served, f"{probe}{REPO}/resolve/main/config.json")).json
        assert (again["ok"], again["cached"], again["bytes"]) == (True, True, len(FILES["config.json"]))
        assert (await fetch(served, "/api/test/hf-proxy")).error == "bad_request"


async def test_the_selftest_of_packets():
    """A packet of each type is encoded and decoded; free lanes are reported."""
    loaded = threading.Event()
    async with small_server(before=loaded.wait) as served:
        try:
            loading = await fetch(served, "/api/test/packet-health")
            assert (loading.status, loading.json["ok"]) == (503, False)
        finally:
            loaded.set()
        await served.engine.ready.wait()
        async with packet_client(served) as client:
            await client.exchange(speech(2))
            answer = await fetch(served, "/api/test/packet-health")
    body = answer.json
    assert (answer.status, body["ok"], body["status"], body["protocol"]) == (200, True, "ready", 1)
    assert body["lanes"].items() >= {"max": 4, "open": 1, "queued": 0, "free": 3}.items()
    assert body["packets"]["audio_chunk"] == SETTINGS.limits.message_bytes - 65535 + 4 * 1920
    assert len(body["packets"]) == 6
