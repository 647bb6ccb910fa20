"""Who may speak when there is a token, TLS and a limit; against a whole line over real sockets."""

import contextlib
import json
import socket
import ssl
from contextlib import asynccontextmanager

import h11
import numpy as np
import pytest
import structlog
import trio
from support.web.small_engine import SETTINGS, small_server, speech, talker
from support.web.sockets import HANDSHAKE, ask, connect, read_answer, read_to_end

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
    """A server behind TLS, and clients that believe its authority."""
    files = {"tls_cert": str(certified.cert), "tls_key": str(certified.key)}
    settings = Settings(server=Server(port=0, **files, **server), limits=SETTINGS.limits, drain_s=1.0)
    async with small_server(settings, tls=certified.client) as served:
        yield served


async def log_in(served, token=TOKEN, headers=()):
    body = json.dumps({"token": token}).encode()
    return await ask(served, "/api/session", method="POST", body=body, headers=headers)


async def upgrade(served, path, *headers):
    """The answer to a WebSocket that was refused."""
    handshake = [
        ("Upgrade", "websocket"),
        ("Connection", "Upgrade"),
        ("Sec-WebSocket-Key", "MDEyMzQ1Njc4OWFiY2RlZg=="),
        ("Sec-WebSocket-Version", "13"),
    ]
    return await ask(served, path, headers=[*handshake, *headers])


@pytest.mark.parametrize("path", PROTECTED)
async def test_without_the_token_nothing_is_told(path):
    """Neither what there is nor what there is not; with it, everything."""
    async with small_server(LOCKED) as served:
        nothing, wrong = await ask(served, path), await ask(served, path, headers=[WRONG])
        right = await ask(served, path, headers=[BEARER])
    for answer in (nothing, wrong):
        assert (answer.status, answer.error) == (401, "unauthorized")
        assert answer.headers["www-authenticate"] == "Bearer"
    assert right.status in (200, 404, 426)


@pytest.mark.parametrize("path", ["/health/live", "/health/ready", "/", "/packet-voice", "/favicon.ico"])
async def test_what_is_public_says_little(path):
    """Whether it lives and is ready, and a page that tells no more than that."""
    weights = {"name": "model-of-somebody", "trained": True}
    async with small_server(LOCKED, weights=lambda: weights) as served:
        answer = await ask(served, path)
        known = await ask(served, path, headers=[BEARER])
    assert answer.status == known.status == 200
    assert b"model-of-somebody" not in answer.body
    assert (b"model-of-somebody" in known.body) is (path == "/")


@pytest.mark.parametrize("path", ["/", "/ws"])
async def test_a_session_needs_the_token(path):
    """The upgrade is refused before it happens and takes no lane; with the token it is served."""
    async with small_server(LOCKED) as served:
        for headers in ([], [WRONG]):
            assert (await upgrade(served, path, *headers)).status == 401
        assert served.engine.health()["lanes"]["open"] == 0
        async with talker(served, path, headers=[tuple(part.encode() for part in BEARER)]) as client:
            assert len(await client.speak(speech(3))) == 2


async def test_a_page_exchanges_the_token_for_a_cookie():
    """POST once; then the cookie alone opens pages and sessions, and nothing holds the token."""
    async with small_server(LOCKED) as served:
        origin = ("Origin", f"http://{served.host}")
        answer = await log_in(served, headers=[origin])
        assert (answer.status, answer.body) == (204, b"")
        assert "content-length" not in answer.headers
        cookie = answer.headers["set-cookie"]
        assert TOKEN not in cookie
        assert {"HttpOnly", "SameSite=Strict"} <= set(cookie.split("; "))
        jar = ("Cookie", cookie.split("; ")[0])
        assert (await ask(served, "/health", headers=[jar, origin])).status == 200
        async with talker(served, headers=[jar, origin]) as page:
            assert len(await page.speak(speech(3))) == 2


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
async def test_no_other_body_is_worth_a_cookie(body, status):
    """What is not the token, or not a token, gets an error in JSON."""
    async with small_server(LOCKED) as served:
        answer = await ask(served, "/api/session", method="POST", body=body)
    assert answer.status == status
    assert "set-cookie" not in answer.headers
    assert answer.error


async def test_the_exchange_is_closed_to_other_sites():
    """A page elsewhere cannot log a browser in, not even with the right token."""
    async with small_server(LOCKED) as served:
        answer = await log_in(served, headers=[("Origin", "http://evil.example")])
    assert (answer.status, answer.error) == (403, "origin_refused")


async def test_without_a_token_there_is_nothing_to_exchange():
    """A server that wants none says so by taking anything."""
    async with small_server() as served:
        answer = await log_in(served)
    assert (answer.status, "set-cookie" in answer.headers) == (204, False)


async def test_guessing_is_slowed_down():
    """After so many wrong tokens none is looked at, not even the right one, and public answers go on."""
    settings = limited(Server(port=0, token=TOKEN), failures_per_minute=3)
    async with small_server(settings) as served:
        assert [(await ask(served, "/health", headers=[WRONG])).status for _ in range(2)] == [401, 401]
        assert (await log_in(served, "wrong")).status == 401
        for answer in (
            await ask(served, "/health", headers=[BEARER]),
            await log_in(served),
        ):
            assert (answer.status, answer.error) == (429, "too_many_attempts")
            assert 0 < int(answer.headers["retry-after"]) <= 20
        assert (await upgrade(served, "/ws", BEARER)).status == 429
        assert (await ask(served, "/health/live")).status == 200
        assert served.limiter.rejected["token"] == 3
        assert served.limiter.failures["token"] == 3


async def test_guessing_does_not_lock_out_who_is_in():
    """A page with its cookie goes on while its neighbour at the same address guesses."""
    settings = limited(Server(port=0, token=TOKEN), failures_per_minute=1)
    async with small_server(settings) as served:
        jar = ("Cookie", (await log_in(served)).headers["set-cookie"].split("; ")[0])
        assert (await ask(served, "/health", headers=[WRONG])).status == 401
        assert (await ask(served, "/health", headers=[BEARER])).status == 429
        assert (await ask(served, "/health", headers=[jar])).status == 200
        assert (await ask(served, "/health")).status == 401


async def test_asking_without_a_token_is_no_guess():
    """A page that has yet to log in may ask as often as it likes."""
    settings = limited(Server(port=0, token=TOKEN), failures_per_minute=1)
    async with small_server(settings) as served:
        assert {(await ask(served, "/health")).status for _ in range(5)} == {401}
        assert (await ask(served, "/health", headers=[BEARER])).status == 200


async def test_sessions_are_served_through_tls(certified):
    """HTTP and WebSocket as in the clear; the address says https, the agreed protocol is HTTP/1.1."""
    async with tls_server(certified) as served:
        assert served.address.url == f"https://127.0.0.1:{served.port}"
        assert (await ask(served, "/health")).json["status"] == "ready"
        async with talker(served, headers=[("Origin", f"https://{served.host}")]) as client:
            assert len(await client.speak(speech(5))) == 4
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
async def test_behind_tls_origins_are_https(certified, origin, status):
    """A page that came in the clear is another origin."""
    async with tls_server(certified) as served:
        headers = [] if origin is None else [("Origin", origin.format(port=served.port))]
        assert (await ask(served, "/health", headers=headers)).status == status
        evil = await ask(served, "/health", headers=headers, host=f"evil.example:{served.port}")
        assert evil.status == 421


async def test_the_cookie_of_tls_stays_on_tls(certified):
    """Behind TLS the cookie is Secure, bound to this host, and opens a session."""
    async with tls_server(certified, token=TOKEN) as served:
        cookie = (await log_in(served)).headers["set-cookie"]
        assert cookie.startswith("__Host-")
        assert "Secure" in cookie.split("; ")
        async with talker(served, headers=[("Cookie", cookie.split("; ")[0])]) as page:
            assert len(await page.speak(speech(3))) == 2


async def test_the_talking_client_shows_its_token(certified):
    """Over TLS, with its authority and its token, the command's client is served; without, it is told why."""
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


async def test_a_certificate_of_its_own_is_served(tmp_path):
    """Its authority is there for all to fetch; who trusts that one is served under each of its names."""
    server = Server(port=0, host="0.0.0.0", tls="auto", tls_folder=str(tmp_path / "lan"))
    listen = ListenConfig.from_settings(server)
    client = ssl.create_default_context(cafile=str(listen.credentials.authority_file))
    bearer = ("Authorization", f"Bearer {listen.token}")
    settings = Settings(server=server, limits=SETTINGS.limits, drain_s=1.0)
    async with small_server(settings, tls=client) as served:
        authority = await ask(served, "/authority.crt")
        assert authority.headers["content-type"] == "application/x-x509-ca-cert"
        assert authority.body == listen.credentials.authority_file.read_bytes()
        assert (await ask(served, "/health")).status == 401
        for host in listen.credentials.hosts.all():
            named = f"{host}:{served.port}"
            origin = ("Origin", f"https://{named}")
            assert (await ask(served, "/health", headers=[bearer, origin], host=named)).status == 200
        evil = f"evil.local:{served.port}"
        assert (await ask(served, "/health", headers=[bearer], host=evil)).status == 421
        landing = await ask(served, "/", headers=[bearer])
        assert f"wss://{served.host}/ws".encode() in landing.body


async def test_who_brought_a_certificate_gives_no_authority(certified):
    """What is not ours to give is not there."""
    async with tls_server(certified) as served:
        assert (await ask(served, "/authority.crt")).status == 404


async def test_a_goodbye_through_tls_is_whole(certified):
    """The close frame is followed by TLS's own goodbye, without which a peer must think it was cut off."""
    async with tls_server(certified) as served:
        tcp = await trio.open_tcp_stream("127.0.0.1", served.port)
        async with trio.SSLStream(tcp, certified.client, server_hostname="127.0.0.1") as stream:
            await stream.send_all(HANDSHAKE % (b"/ws", served.host.encode(), b""))
            await stream.send_all(b"\x81\x80" + bytes(4))  # a text frame, which no client may send
            heard = b""
            while chunk := await stream.receive_some():  # raises where TCP ends before TLS does
                heard += chunk
    assert b"\x03\xeb" in heard  # 1003


async def test_failed_handshakes_are_slowed_down(certified):
    """An address that fails too often at TLS is disconnected unheard, even where it would succeed."""
    files = {"tls_cert": str(certified.cert), "tls_key": str(certified.key)}
    settings = limited(Server(port=0, **files), failures_per_minute=2)
    async with small_server(settings, tls=certified.client) as served:
        for failures in (1, 2):
            async with await trio.open_tcp_stream("127.0.0.1", served.port) as stream:
                await stream.send_all(b"GET / HTTP/1.1\r\n\r\n")
                await read_to_end(stream)
            await until(lambda: served.limiter.failures["handshake"] == failures)  # noqa: B023
        async with await trio.open_tcp_stream("127.0.0.1", served.port) as stream:
            assert await read_to_end(stream) == b""
        assert served.limiter.rejected == {"handshake": 1}
        assert served.limiter.connections == 0


async def test_who_does_not_believe_the_certificate_may_come_again(certified):
    """Browsers do, on every new connection of a user who made an exception: it is counted, and no misdeed."""
    files = {"tls_cert": str(certified.cert), "tls_key": str(certified.key)}
    settings = limited(Server(port=0, **files), failures_per_minute=2)
    sceptic = ssl.create_default_context()
    async with small_server(settings, tls=certified.client) as served:

        def disbelieve():  # with the sockets of the standard library, which say why they leave
            with socket.create_connection(("127.0.0.1", served.port)) as tcp:
                sceptic.wrap_socket(tcp, server_hostname="127.0.0.1")

        for _ in range(5):
            with pytest.raises(ssl.SSLCertVerificationError):
                await trio.to_thread.run_sync(disbelieve)
        await until(lambda: served.limiter.failures["distrust"] == 5)
        assert (await ask(served, "/health")).status == 200
        assert served.limiter.failures == {"distrust": 5}
        assert not served.limiter.rejected


@pytest.mark.parametrize("noise", [b"GET / HTTP/1.1\r\n\r\n", bytes(100), b"\x16\x03\x01\xff\xff", b""])
async def test_who_does_not_speak_tls_is_let_go(certified, noise):
    """Anything but TLS ends its own connection, unanswered, counted and not logged."""
    async with tls_server(certified) as served:
        with structlog.testing.capture_logs() as logs:
            async with await trio.open_tcp_stream("127.0.0.1", served.port) as stream:
                await stream.send_all(noise)
                await stream.send_eof()
                heard = await read_to_end(stream)
        assert not heard.startswith(b"HTTP")
        await until(lambda: served.limiter.failures["handshake"] == 1)
        assert (await ask(served, "/health")).status == 200
    assert logs == []


async def test_old_tls_is_not_spoken(certified):
    """TLS 1.1 has been over since 2021 (RFC 8996)."""
    context = ListenConfig.from_settings(Server(tls_cert=str(certified.cert), tls_key=str(certified.key))).tls
    assert context.minimum_version >= ssl.TLSVersion.TLSv1_2


async def test_silence_in_place_of_tls_is_given_up(certified, monkeypatch):
    """A client that connects and says nothing is closed at the deadline of a request's head."""
    monkeypatch.setattr("web.server.serve.KEEP_ALIVE_S", 0.05)
    async with tls_server(certified) as served:
        async with await trio.open_tcp_stream("127.0.0.1", served.port) as stream:
            assert await read_to_end(stream) == b""
        await until(lambda: served.limiter.failures["handshake"] == 1)


async def test_the_end_does_not_wait_for_a_handshake(certified):
    """A server that is asked to end closes who has not finished TLS, at once."""
    async with (
        tls_server(certified) as served,
        await trio.open_tcp_stream("127.0.0.1", served.port) as stream,
    ):
        await until(lambda: served.limiter.connections == 1)
        served.shutdown.set()
        await served.ended.wait()
        assert await read_to_end(stream) == b""


async def test_a_head_that_drips_is_given_up(monkeypatch):
    """The deadline is that of the whole head: a byte now and then does not prolong it."""
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


async def test_a_body_that_drips_is_given_up(monkeypatch):
    """A promised body that does not come is answered 408 at its deadline."""
    monkeypatch.setattr(app_module, "REQUEST_BODY_S", 0.1)
    async with small_server(LOCKED) as served, await connect(served) as stream:
        client = h11.Connection(h11.CLIENT)
        headers = [("Host", served.host), ("Content-Length", "100")]
        request = client.send(h11.Request(method="POST", target="/api/session", headers=headers))
        await stream.send_all(request + b"{")
        answer = await read_answer(client, stream)
    assert (answer.status, answer.error) == (408, "request_timeout")


async def test_one_address_has_so_many_connections():
    """One too many is closed unanswered and counted; when one leaves, the next is served."""
    async with small_server(limited(connections_per_address=2)) as served:
        async with await connect(served), await connect(served) as second:
            await until(lambda: served.limiter.connections == 2)
            async with await connect(served) as third:
                assert await read_to_end(third) == b""
            await second.aclose()
            await until(lambda: served.limiter.connections == 1)
            assert (await ask(served, "/health/live")).status == 200
        assert served.limiter.rejected == {"address": 1}


async def test_tokens_are_never_logged(monkeypatch):
    """Neither the bearer's nor one to resume with stands in any log line, whatever went wrong."""
    resume = "resume-token-of-somebody"

    def broken(*_):
        raise ZeroDivisionError

    async with small_server(LOCKED) as served:
        with structlog.testing.capture_logs() as logs:
            monkeypatch.setattr(served.engine, "health", broken)
            for headers in ([BEARER], [WRONG]):
                await ask(served, f"/health?resume={resume}", headers=headers)
            await log_in(served)
            monkeypatch.setattr(served.engine, "admit", broken)
            assert (await upgrade(served, f"/ws?resume={resume}", BEARER)).status == 500
    assert {entry["event"] for entry in logs} == {"request_failed"}, logs
    assert [entry["path"] for entry in logs] == ["/health", "/ws"]
    told = "".join(f"{entry!r}" for entry in logs)
    assert resume not in told
    assert TOKEN not in told
    assert "wrong-horse" not in told


async def until(condition):
    """Let the server work until so; the test's own deadline says for how long."""
    while not condition():
        await trio.lowlevel.checkpoint()
