"""One door: whatever is sent, and to which route, is judged, counted and logged the same way."""

import json
import re

import pytest
import structlog
from support.web.small_engine import SETTINGS, small_server
from support.web.sockets import fetch

from pipeline.config import Limits, Server, Settings

TOKEN = "correct-horse-battery-staple"
RIGHT = ("Authorization", f"Bearer {TOKEN}")
WRONG = ("Authorization", "Bearer wrong-horse-battery-staple")
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
HANDSHAKE = [
    ("Upgrade", "websocket"),
    ("Connection", "Upgrade"),
    ("Sec-WebSocket-Key", "MDEyMzQ1Njc4OWFiY2RlZg=="),
    ("Sec-WebSocket-Version", "13"),
]
LINK = [("Sec-Fetch-Site", "cross-site"), ("Sec-Fetch-Mode", "navigate"), ("Sec-Fetch-Dest", "document")]


def locked(**limits):
    return Settings(
        server=Server(port=0, token=TOKEN),
        limits=Limits(
            send_timeout_s=0.3, requests_processor_share=1.0, address_processor_share=1.0, **limits
        ),
        drain_s=1.0,
    )


def paths(app):
    """One path for each route, and one that no route has."""
    return sorted({re.sub("<[^>]*>", "x", rule.rule) for rule in app.url_map.iter_rules()} | {"/no/route"})


async def test_a_wrong_token_is_counted_on_every_route():
    """Every route, public or not, every method, and every WebSocket: one 401 of one length, one count."""
    async with small_server(locked(failures_per_minute=10_000)) as served:
        expected, lengths = 0, set()
        for path in paths(served.app):
            for method in METHODS:
                answer = await fetch(served, path, method=method, headers=[WRONG])
                assert (path, method, answer.status) == (path, method, 401)
                lengths.add(len(answer.body) if method != "HEAD" else None)
                expected += 1
            assert (await fetch(served, path, headers=[*HANDSHAKE, WRONG])).status == 401
            expected += 1
        assert served.limiter.failures == {"token": expected}
    assert len(lengths - {None}) == 1


async def test_guessing_ends_on_every_route():
    """After too many wrong tokens at one route, no other route judges another one, not even the right one."""
    async with small_server(locked(failures_per_minute=3)) as served:
        for _ in range(3):
            await fetch(served, "/", headers=[WRONG])
        for path in paths(served.app):
            assert (await fetch(served, path, headers=[RIGHT])).status == 429
        body = json.dumps({"token": TOKEN}).encode()
        assert (await fetch(served, "/api/session", method="POST", body=body)).status == 429
        assert (await fetch(served, "/")).status == 200


@pytest.mark.parametrize("path", ["/", "/packet-voice", "/whisperx", "/health", "/health/live"])
async def test_a_link_from_another_site_opens_the_page(path):
    """To follow a link is harmless."""
    async with small_server() as served:
        assert (await fetch(served, path, headers=LINK)).status == 200


@pytest.mark.parametrize("path", ["/profile/lm", "/api/hf/a/b/resolve/main/c", "/api/test/packet-health"])
@pytest.mark.parametrize("site", ["cross-site", "same-site"])
async def test_another_page_cannot_make_the_server_work(path, site):
    """Neither by a link nor by a request, from another site or from another port of this machine."""
    async with small_server() as served:
        request = await fetch(served, path, headers=[("Sec-Fetch-Site", site)])
        assert request.error == "cross_site_refused"
        link = await fetch(served, path, headers=[("Sec-Fetch-Site", site), *LINK[1:]])
        assert link.status == request.status == 403  # with a page for the person who followed it


@pytest.mark.parametrize("how", [{"method": "POST"}, {"headers": [("Sec-Fetch-Dest", "iframe")]}])
async def test_only_following_a_link_is_harmless(how):
    """No form of another site, and no frame."""
    headers = [*LINK[:2], *how.get("headers", LINK[2:])]
    async with small_server() as served:
        answer = await fetch(served, "/", method=how.get("method", "GET"), headers=headers)
    assert answer.error == "cross_site_refused"


@pytest.mark.parametrize("port", [9000, 80])
async def test_a_page_opened_through_a_forwarded_port_is_our_own(port):
    """The browser names the same port in Host and Origin: then it is connected to us, as by `ssh -L`."""
    host = "localhost" if port == 80 else f"localhost:{port}"
    async with small_server() as served:
        origin = ("Origin", f"http://{host}")
        assert (await fetch(served, "/ws", host=host, headers=[*HANDSHAKE, origin])).status == 101
        other = await fetch(served, "/ws", headers=[*HANDSHAKE, origin])
        assert (other.status, other.error) == (403, "origin_refused")


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ({"host": "evil.example"}, "host_refused"),
        ({"headers": [("Origin", "https://evil.example")]}, "origin_refused"),
        ({"headers": [("Sec-Fetch-Site", "cross-site")]}, "cross_site_refused"),
        ({"headers": [WRONG]}, "unauthorized"),
        ({"path": "/api/session", "method": "POST", "body": b'{"token": "wrong"}'}, "unauthorized"),
        ({"path": "/api/session", "method": "POST", "body": b"[]"}, "bad_request"),
        ({"path": "/api/chat?text_topk=many", "headers": [*HANDSHAKE, RIGHT]}, "bad_request"),
    ],
)
async def test_a_refusal_is_logged_with_its_reason(how, reason):
    """One line for a hundred of them, with what the client sent, and what it was told says what to do."""
    request = {"path": "/health", **how}
    async with small_server(locked(failures_per_minute=1000)) as served:
        with structlog.testing.capture_logs() as logs:
            for _ in range(5):
                answer = await fetch(served, **request)
    assert answer.error == reason
    (entry,) = logs
    path, _, _ = request["path"].partition("?")
    assert (entry["event"], entry["reason"], entry["path"]) == ("request_refused", reason, path)


async def test_what_a_peer_sends_is_bounded_in_the_log():
    """Neither long nor able to control a terminal."""
    async with small_server(SETTINGS) as served:
        with structlog.testing.capture_logs() as logs:
            await fetch(served, "/health", headers=[("Origin", "\x1b[31m" + 500 * "x")])
    assert len(logs[0]["origin"]) < 200
    assert "\x1b" not in logs[0]["origin"]
