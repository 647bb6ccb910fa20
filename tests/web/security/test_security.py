"""Token, TLS and rate limits, with a whole engine over real sockets."""

import contextlib
import html
import json
import re
import socket
import ssl
from contextlib import asynccontextmanager

import h11
import numpy as np
import pytest
import structlog
import trio
from support.web.small_engine import SETTINGS, packet_client, small_server, speech
from support.web.sockets import HANDSHAKE, connect, fetch, read_refused, read_response, read_to_end

from pipeline.client.connect import ClientCredentials
from pipeline.client.session import ConversationError, converse
from pipeline.config import Limits, Server, Settings
from web import app as app_module
from web.security.listen import ListenConfig

TOKEN = "correct-horse-battery-staple"
BEARER = ("Authorization", f"Bearer {TOKEN}")
WRONG = ("Authorization", "Bearer wrong-horse-battery-staple")
PROTECTED = ["/health", "/metrics", "/weights", "/profile/lm", "/ws", "/nothing/here", "/api/session/x"]
LOCKED = Settings(server=Server(port=0, token=TOKEN), limits=SETTINGS.limits, drain_s=1.0)


def limited(server=None, **limits):
    return Settings(server=server or Server(port=0), limits=Limits(send_timeout_s=0.3, **limits), drain_s=1.0)


@asynccontextmanager
async def tls_server(certified, **server):
    """A server with TLS, and clients that trust its authority."""
    files = {"tls_cert": str(certified.cert), "tls_key": str(certified.key)}
    settings = Settings(server=Server(port=0, **files, **server), limits=SETTINGS.limits, drain_s=1.0)
    async with small_server(settings, tls=certified.client) as served:
        yield served


async def log_in(served, token=TOKEN, headers=()):
    body = json.dumps({"token": token}).encode()
    return await fetch(served, "/api/session", method="POST", body=body, headers=headers)


async def upgrade(served, path, *headers):
    """The response to a refused upgrade."""
    handshake = [
        ("Upgrade", "websocket"),
        ("Connection", "Upgrade"),
        ("Sec-WebSocket-Key", "MDEyMzQ1Njc4OWFiY2RlZg=="),
        ("Sec-WebSocket-Version", "13"),
    ]
    return await fetch(served, path, headers=[*handshake, *headers])


@pytest.mark.parametrize("path", PROTECTED)
async def test_without_the_token_everything_is_401(path):
    """Existing and missing paths alike; with the token both are answered."""
    async with small_server(LOCKED) as served:
        nothing, wrong = await fetch(served, path), await fetch(served, path, headers=[WRONG])
        right = await fetch(served, path, headers=[BEARER])
    for answer in (nothing, wrong):
        assert (answer.status, answer.error) == (401, "unauthorized")
        assert answer.headers["www-authenticate"] == "Bearer"
    assert right.status in (200, 404, 426)


@pytest.mark.parametrize("path", ["/health/live", "/health/ready", "/", "/packet-voice", "/favicon.ico"])
async def test_public_paths_reveal_little(path):
    """Liveness, readiness and the pages are public; the model's name is not, and a token changes no page."""
    weights = {"name": "secret-model", "trained": True}
    async with small_server(LOCKED, weights=lambda: weights) as served:
        answer = await fetch(served, path)
        known = await fetch(served, path, headers=[BEARER])
    assert answer.status == known.status == 200
    assert b"secret-model" not in answer.body
    assert len(known.body) == len(answer.body)


@pytest.mark.parametrize("path", ["/", "/ws"])
async def test_a_session_needs_the_token(path):
    """Without it the upgrade is refused and takes no lane."""
    async with small_server(LOCKED) as served:
        for headers in ([], [WRONG]):
            assert (await upgrade(served, path, *headers)).status == 401
        assert served.engine.health()["lanes"]["open"] == 0
        async with packet_client(served, path, headers=[tuple(part.encode() for part in BEARER)]) as client:
            assert len(await client.exchange(speech(3))) == 2


async def test_a_page_exchanges_the_token_for_a_cookie():
    """After one POST the cookie alone is enough for pages and sessions; it does not contain the token."""
    async with small_server(LOCKED) as served:
        origin = ("Origin", f"http://{served.host}")
        answer = await log_in(served, headers=[origin])
        assert (answer.status, answer.body) == (204, b"")
        assert "content-length" not in answer.headers
        cookie = answer.headers["set-cookie"]
        assert TOKEN not in cookie
        assert {"HttpOnly", "SameSite=Strict"} <= set(cookie.split("; "))
        jar = ("Cookie", cookie.split("; ")[0])
        assert (await fetch(served, "/health", headers=[jar, origin])).status == 200
        async with packet_client(served, headers=[jar, origin]) as page:
            assert len(await page.exchange(speech(3))) == 2


async def test_the_voice_page_brings_the_servers_state_to_those_who_may_see_it():
    """What /health answers is in the page, but not without a cookie, whatever else the request has."""
    async with small_server(LOCKED) as served:
        origin = ("Origin", f"http://{served.host}")
        jar = ("Cookie", (await log_in(served, headers=[origin])).headers["set-cookie"].split("; ")[0])
        health = json.loads((await fetch(served, "/health", headers=[jar, origin])).body)
        stranger, bearer, guest = [
            re.search(r'<meta name="health" content="([^"]*)">', page.body.decode())
            for page in (
                await fetch(served, "/packet-voice"),
                await fetch(served, "/packet-voice", headers=[BEARER]),
                await fetch(served, "/packet-voice", headers=[jar]),
            )
        ]
    assert stranger is not None
    assert bearer is not None
    assert guest is not None
    assert (stranger[1], bearer[1]) == ("", "")
    delivered = json.loads(html.unescape(guest[1]))
    assert delivered.keys() == health.keys()
    assert (delivered["status"], delivered["lanes"]) == (health["status"], health["lanes"])


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b'{"token": "wrong-horse-battery-staple"}', 401),
        (b'{"token": "\\ud800"}', 401),
        (b'{"token": 7}', 400),
        (b"{}", 400),
        (b"[]", 400),
        (b"not json", 400),
        (b"[" * 4000, 400),
        (b"x" * 5000, 413),
    ],
)
async def test_other_bodies_get_no_cookie(body, status):
    """A wrong token, or a malformed body, gets an error in JSON."""
    async with small_server(LOCKED) as served:
        answer = await fetch(served, "/api/session", method="POST", body=body)
    assert answer.status == status
    assert "set-cookie" not in answer.headers
    assert answer.error


async def test_the_exchange_is_closed_to_other_sites():
    """A page of another site cannot log a browser in, even with the right token."""
    async with small_server(LOCKED) as served:
        answer = await log_in(served, headers=[("Origin", "http://evil.example")])
    assert (answer.status, answer.error) == (403, "origin_refused")


async def test_without_a_token_there_is_nothing_to_exchange():
    """A server without a token accepts any token and sets no cookie."""
    async with small_server() as served:
        answer = await log_in(served)
    assert (answer.status, "set-cookie" in answer.headers) == (204, False)


async def test_guessing_is_rate_limited():
    """After too many wrong tokens every token gets 429, the right one included; public paths are served."""
    settings = limited(Server(port=0, token=TOKEN), failures_per_minute=3)
    async with small_server(settings) as served:
        assert [(await fetch(served, "/health", headers=[WRONG])).status for _ in range(2)] == [401, 401]
        assert (await log_in(served, "wrong")).status == 401
        for answer in (
            await fetch(served, "/health", headers=[BEARER]),
            await log_in(served),
        ):
            assert (answer.status, answer.error) == (429, "too_many_attempts")
            assert 0 < int(answer.headers["retry-after"]) <= 20
        assert (await upgrade(served, "/ws", BEARER)).status == 429
        assert (await fetch(served, "/health/live")).status == 200
        assert served.limiter.rejected["token"] == 3
        assert served.limiter.failures["token"] == 3


async def test_guessing_does_not_lock_out_cookies():
    """A logged-in page continues while another client at its address is rate limited."""
    settings = limited(Server(port=0, token=TOKEN), failures_per_minute=1)
    async with small_server(settings) as served:
        jar = ("Cookie", (await log_in(served)).headers["set-cookie"].split("; ")[0])
        assert (await fetch(served, "/health", headers=[WRONG])).status == 401
        assert (await fetch(served, "/health", headers=[BEARER])).status == 429
        assert (await fetch(served, "/health", headers=[jar])).status == 200
        assert (await fetch(served, "/health")).status == 401


async def test_requests_without_a_token_are_no_guesses():
    """A page that has not logged in yet is never rate limited."""
    settings = limited(Server(port=0, token=TOKEN), failures_per_minute=1)
    async with small_server(settings) as served:
        assert {(await fetch(served, "/health")).status for _ in range(5)} == {401}
        assert (await fetch(served, "/health", headers=[BEARER])).status == 200


async def test_sessions_are_served_through_tls(certified):
    """HTTP and WebSocket work over TLS; the URL is https and ALPN selects HTTP/1.1."""
    async with tls_server(certified) as served:
        assert served.address.url == f"https://127.0.0.1:{served.port}"
        assert (await fetch(served, "/health")).json["status"] == "ready"
        async with packet_client(served, headers=[("Origin", f"https://{served.host}")]) as client:
            assert len(await client.exchange(speech(5))) == 4
            await client.connection.aclose()
        certified.client.set_alpn_protocols(["h2", "http/1.1"])
        stream = await connect(served)
        assert stream.selected_alpn_protocol() == "http/1.1"
        await stream.aclose()


@pytest.mark.parametrize(
    ("origin", "status"),
    [
        (None, 200),
        ("https://127.0.0.1:{port}", 200),
        ("https://localhost:{port}", 200),
        ("http://127.0.0.1:{port}", 403),
        ("https://127.0.0.1", 403),
        ("https://127.0.0.1:1", 403),
        ("https://evil.example:{port}", 403),
        ("wss://127.0.0.1:{port}", 403),
        ("null", 403),
    ],
)
async def test_with_tls_origins_are_https(certified, origin, status):
    """A page loaded over plain HTTP is another origin."""
    async with tls_server(certified) as served:
        headers = [] if origin is None else [("Origin", origin.format(port=served.port))]
        assert (await fetch(served, "/health", headers=headers)).status == status
        evil = await fetch(served, "/health", headers=headers, host=f"evil.example:{served.port}")
        assert evil.status == 421


async def test_the_cookie_of_tls_stays_on_tls(certified):
    """With TLS the cookie is Secure, bound to this host, and valid for a session."""
    async with tls_server(certified, token=TOKEN) as served:
        cookie = (await log_in(served)).headers["set-cookie"]
        assert cookie.startswith("__Host-")
        assert "Secure" in cookie.split("; ")
        async with packet_client(served, headers=[("Cookie", cookie.split("; ")[0])]) as page:
            assert len(await page.exchange(speech(3))) == 2


async def test_the_python_client_sends_its_token(certified):
    """With its CA and its token it is served; without either the error names what is missing."""
    pcm = np.zeros(1920 * 3, np.float32)
    async with tls_server(certified, token=TOKEN) as served:
        url = f"wss://{served.host}/ws"
        report = await converse(url, pcm, credentials=ClientCredentials(TOKEN, certified.client))
        assert (report.frames_in, report.close) == (3, 1000)
        with pytest.raises(ConversationError, match="requires a token"):
            await converse(url, pcm, credentials=ClientCredentials(None, certified.client))
        with pytest.raises(ConversationError, match="TLS failed"):
            await converse(url, pcm, credentials=ClientCredentials(TOKEN))
    assert TOKEN not in repr(ClientCredentials(TOKEN))


async def test_a_created_certificate_is_served(tmp_path):
    """Its CA certificate can be downloaded; clients that trust it can use each of its names."""
    server = Server(port=0, host="0.0.0.0", tls="auto", tls_folder=str(tmp_path / "lan"))
    listen = ListenConfig.from_settings(server)
    client = ssl.create_default_context(cafile=str(listen.credentials.authority_file))
    bearer = ("Authorization", f"Bearer {listen.token}")
    settings = Settings(server=server, limits=SETTINGS.limits, drain_s=1.0)
    async with small_server(settings, tls=client) as served:
        authority = await fetch(served, "/authority.crt")
        assert authority.headers["content-type"] == "application/x-x509-ca-cert"
        assert authority.body == listen.credentials.authority_file.read_bytes()
        assert (await fetch(served, "/health")).status == 401
        for host in listen.credentials.hosts.all():
            named = f"{host}:{served.port}"
            origin = ("Origin", f"https://{named}")
            assert (await fetch(served, "/health", headers=[bearer, origin], host=named)).status == 200
        evil = f"evil.local:{served.port}"
        assert (await fetch(served, "/health", headers=[bearer], host=evil)).status == 421
        landing = await fetch(served, "/", headers=[bearer])
        assert f"wss://{served.host}/ws".encode() in landing.body


async def test_a_configured_certificate_has_no_authority_to_download(certified):
    """The path is not found."""
    async with tls_server(certified) as served:
        assert (await fetch(served, "/authority.crt")).status == 404


async def test_a_close_through_tls_is_complete(certified):
    """The close frame is followed by close_notify, without which a client must assume truncation."""
    async with tls_server(certified) as served:
        tcp = await trio.open_tcp_stream("127.0.0.1", served.port)
        async with trio.SSLStream(tcp, certified.client, server_hostname="127.0.0.1") as stream:
            await stream.send_all(HANDSHAKE % (b"/ws", served.host.encode(), b""))
            await stream.send_all(b"\x81\x80" + bytes(4))  # a text frame, which no client may send
            received = b""
            while chunk := await stream.receive_some():  # raises where TCP ends before TLS does
                received += chunk
    assert b"\x03\xeb" in received  # 1003


async def test_failed_handshakes_are_rate_limited(certified):
    """After too many an address is disconnected at once, even if its handshake would succeed."""
    files = {"tls_cert": str(certified.cert), "tls_key": str(certified.key)}
    settings = limited(Server(port=0, **files), failures_per_minute=2)
    async with small_server(settings, tls=certified.client) as served:
        for failures in (1, 2):
            async with await trio.open_tcp_stream("127.0.0.1", served.port) as stream:
                await stream.send_all(b"\x16\x03\x01\xff\xff")
                await stream.send_eof()
                await read_to_end(stream)
            await until(lambda: served.limiter.failures["handshake"] == failures)  # noqa: B023
        answer = b""
        with contextlib.suppress(OSError):  # it may be reset before the client knows that it is connected
            async with await trio.open_tcp_stream("127.0.0.1", served.port) as stream:
                answer = await read_to_end(stream)
        assert answer == b""
        assert served.limiter.rejected == {"handshake": 1}
        assert served.limiter.connections == 0


async def test_rejecting_the_certificate_is_not_rate_limited(certified):
    """Browsers do so on each new connection of a user who made an exception: counted, and allowed."""
    files = {"tls_cert": str(certified.cert), "tls_key": str(certified.key)}
    settings = limited(Server(port=0, **files), failures_per_minute=2)
    untrusting = ssl.create_default_context()
    async with small_server(settings, tls=certified.client) as served:

        def reject_certificate():  # with the standard library, which sends the TLS alert
            with socket.create_connection(("127.0.0.1", served.port)) as tcp:
                untrusting.wrap_socket(tcp, server_hostname="127.0.0.1")

        for _ in range(5):
            with pytest.raises(ssl.SSLCertVerificationError):
                await trio.to_thread.run_sync(reject_certificate)
        await until(lambda: served.limiter.failures["distrust"] == 5)
        assert (await fetch(served, "/health")).status == 200
        assert served.limiter.failures == {"distrust": 5}
        assert not served.limiter.rejected


async def test_plain_http_is_answered_with_the_remedy(certified):
    """As after a typed address, however often: it is counted, but not against whoever typed it."""
    files = {"tls_cert": str(certified.cert), "tls_key": str(certified.key)}
    settings = limited(Server(port=0, **files), failures_per_minute=2)
    async with small_server(settings, tls=certified.client) as served:
        for _ in range(5):
            async with await trio.open_tcp_stream("127.0.0.1", served.port) as stream:
                await stream.send_all(b"GET /packet-voice HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
                received = await read_to_end(stream)
            head, _, body = received.partition(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 400 ")
            assert f"content-length: {len(body)}".encode() in head.lower()
            assert b"https://" in body
        await until(lambda: served.limiter.failures["plain_http"] == 5)
        assert (await fetch(served, "/health")).status == 200
        assert not served.limiter.rejected


@pytest.mark.parametrize("noise", [b"\x00GET / HTTP/1.1\r\n\r\n", bytes(100), b"\x16\x03\x01\xff\xff"])
async def test_bytes_that_are_not_tls_are_disconnected(certified, noise):
    """Only their own connection ends: without a response, counted, one line of the log for all of them."""
    async with tls_server(certified) as served:
        with structlog.testing.capture_logs() as logs:
            async with await trio.open_tcp_stream("127.0.0.1", served.port) as stream:
                await stream.send_all(noise)
                await stream.send_eof()
                received = await read_to_end(stream)
            await until(lambda: served.limiter.failures["handshake"] == 1)
        assert not received.startswith(b"HTTP")
        assert (await fetch(served, "/health")).status == 200
    assert [(entry["event"], entry["reason"]) for entry in logs] == [("handshake_failed", "no_tls")]


async def test_a_probe_that_only_connects_is_no_failed_handshake(certified):
    """However often a health check or a port scanner connects and leaves, its address is not refused."""
    files = {"tls_cert": str(certified.cert), "tls_key": str(certified.key)}
    settings = limited(Server(port=0, **files), failures_per_minute=2)
    async with small_server(settings, tls=certified.client) as served:
        with structlog.testing.capture_logs() as logs:
            for _ in range(5):
                async with await trio.open_tcp_stream("127.0.0.1", served.port) as stream:
                    await stream.send_eof()
                    assert await read_to_end(stream) == b""
            assert (await fetch(served, "/health")).status == 200
        assert not served.limiter.failures
    assert logs == []


async def test_old_tls_is_not_offered(certified):
    """TLS 1.1 was deprecated in 2021 (RFC 8996)."""
    context = ListenConfig.from_settings(Server(tls_cert=str(certified.cert), tls_key=str(certified.key))).tls
    assert context.minimum_version >= ssl.TLSVersion.TLSv1_2


async def test_a_missing_handshake_times_out(certified, monkeypatch):
    """A client that sends nothing is closed at the deadline of a request head."""
    monkeypatch.setattr("web.server.serve.KEEP_ALIVE_S", 0.05)
    async with tls_server(certified) as served:
        async with await trio.open_tcp_stream("127.0.0.1", served.port) as stream:
            assert await read_to_end(stream) == b""
        await until(lambda: served.limiter.failures["handshake"] == 1)


async def test_shutdown_does_not_wait_for_a_handshake(certified):
    """Connections whose handshake is incomplete are closed at once."""
    async with (
        tls_server(certified) as served,
        await trio.open_tcp_stream("127.0.0.1", served.port) as stream,
    ):
        await until(lambda: served.limiter.connections == 1)
        served.shutdown.set()
        await served.ended.wait()
        assert await read_to_end(stream) == b""


async def test_a_slow_head_times_out(monkeypatch):
    """The deadline is for the whole head: a byte now and then does not extend it."""
    monkeypatch.setattr("web.server.serve.KEEP_ALIVE_S", 0.1)
    async with small_server() as served, await connect(served) as stream:

        async def drip():
            with contextlib.suppress(trio.BrokenResourceError):
                while True:
                    await stream.send_all(b"X")
                    await trio.sleep(0.01)

        async with trio.open_nursery() as nursery:
            await stream.send_all(b"GET / HTTP/1.1\r\nHost: ")
            nursery.start_soon(drip)
            assert await read_to_end(stream) == b""


async def test_a_slow_body_times_out(monkeypatch):
    """An incomplete body is answered with 408 at its deadline."""
    monkeypatch.setattr(app_module, "REQUEST_BODY_S", 0.1)
    async with small_server(LOCKED) as served, await connect(served) as stream:
        client = h11.Connection(h11.CLIENT)
        headers = [("Host", served.host), ("Content-Length", "100")]
        request = client.send(h11.Request(method="POST", target="/api/session", headers=headers))
        await stream.send_all(request + b"{")
        answer = await read_response(client, stream)
    assert (answer.status, answer.error) == (408, "request_timeout")


async def test_connections_per_address_are_limited():
    """One over the limit is closed and counted; after a disconnect the next is served."""
    async with small_server(limited(connections_per_address=2)) as served:
        async with await connect(served), await connect(served) as second:
            await until(lambda: served.limiter.connections == 2)
            assert await read_refused(served) == b""
            await second.aclose()
            await until(lambda: served.limiter.connections == 1)
            assert (await fetch(served, "/health/live")).status == 200
        assert served.limiter.rejected == {"address": 1}


async def test_tokens_are_never_logged(monkeypatch):
    """Neither the server's token nor a resume token is in any log line, whatever fails."""
    resume = "secret-resume-token"

    def broken(*_, **__):
        raise ZeroDivisionError

    async with small_server(LOCKED) as served:
        with structlog.testing.capture_logs() as logs:
            monkeypatch.setattr(served.engine, "health", broken)
            for headers in ([BEARER], [WRONG]):
                await fetch(served, f"/health?resume={resume}", headers=headers)
            await log_in(served)
            monkeypatch.setattr(served.engine, "admit", broken)
            assert (await upgrade(served, f"/ws?resume={resume}", BEARER)).status == 500
    assert {entry["event"] for entry in logs} == {"request_failed", "request_refused"}, logs
    assert [entry["path"] for entry in logs] == ["/health", "/health", "/ws"]
    logged = "".join(f"{entry!r}" for entry in logs)
    assert resume not in logged
    assert TOKEN not in logged
    assert "wrong-horse" not in logged


async def until(condition):
    """Run other tasks until the condition holds; bounded by the test's own deadline."""
    while not condition():
        await trio.lowlevel.checkpoint()
