"""Behind a trusted proxy the client is the one it names, and the public origin is the server's own."""

import re
from ipaddress import ip_address
from urllib.parse import urljoin

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st
from support.web.small_engine import SETTINGS, small_server
from support.web.sockets import fetch

from pipeline.config import Limits, Server, Settings
from pipeline.errors import ConfigError
from web.security.forwarded import UNREADABLE, PublicOrigin, ReverseProxy
from web.security.rate_limit import RateLimiter

BALANCER = "10.1.2.3"
PROXY = ReverseProxy.from_settings(Server(trusted_proxies=("10.0.0.0/8", "fd00::1")))
PUBLIC = "https://voice.example.org"


def client(*forwarded, host=BALANCER):
    return PROXY.client_address(host, [value.encode("latin-1") for value in forwarded])


@pytest.mark.parametrize(
    ("url", "origin", "port"),
    [
        ("https://voice.example.org", "https://voice.example.org", 443),
        ("https://voice.example.org/", "https://voice.example.org", 443),
        ("https://voice.example.org:443", "https://voice.example.org", 443),
        ("HTTPS://Voice.Example.org:8443", "https://voice.example.org:8443", 8443),
        ("http://[::1]:8787", "http://[::1]:8787", 8787),
        ("https://a.example/voice/", "https://a.example", 443),
    ],
)
def test_a_public_url_is_an_origin(url, origin, port):
    """As a browser writes it: lower case, without a default port."""
    public = PublicOrigin.parse(url)
    assert (public.origin, public.port) == (origin, port)


@pytest.mark.parametrize(
    "url",
    ["voice.example.org", "ftp://a", "https://", "https://a?b", "https://a:99999", "x://["],
)
def test_a_url_that_is_not_an_origin_is_refused(url):
    """The error names the key."""
    with pytest.raises(ConfigError) as error:
        ReverseProxy.from_settings(Server(public_url=url))
    assert error.value.key == "pipeline.server.public_url"


def test_a_trusted_proxy_is_an_address_or_a_network():
    """Anything else is a configuration error."""
    assert [PROXY.trusts(host) for host in (BALANCER, "::ffff:10.1.2.3", "fd00::1", "fd00::1%eth0")] == [
        True
    ] * 4
    assert [PROXY.trusts(host) for host in ("11.0.0.1", "fd00::2", "", "localhost")] == [False] * 4
    with pytest.raises(ConfigError) as error:
        ReverseProxy.from_settings(Server(trusted_proxies=("balancer",)))
    assert error.value.key == "pipeline.server.trusted_proxies"


def test_other_clients_cannot_forward():
    """X-Forwarded-For is read from trusted proxies only."""
    assert client("1.2.3.4", host="192.0.2.1") == "192.0.2.1"


@pytest.mark.parametrize(
    ("forwarded", "who"),
    [
        ([], BALANCER),
        (["203.0.113.9"], "203.0.113.9"),
        (["1.1.1.1, 203.0.113.9"], "203.0.113.9"),
        (["1.1.1.1", "203.0.113.9"], "203.0.113.9"),
        (["203.0.113.9, 10.9.9.9"], "203.0.113.9"),
        (["203.0.113.9", "unknown"], UNREADABLE),
        (["203.0.113.9, _hidden"], UNREADABLE),
        (["203.0.113.9, 1.2.3"], UNREADABLE),
        (["203.0.113.9, "], "203.0.113.9"),
        (["203.0.113.9:4711"], "203.0.113.9"),
        (["[2001:db8::7]"], "2001:db8::7"),
        (["[2001:db8::7]:4711"], "2001:db8::7"),
        (['"[2001:db8::7]:4711"'], "2001:db8::7"),
        (["for=203.0.113.9"], "203.0.113.9"),
        (['for="203.0.113.9:4711";proto=https;by=10.1.2.3'], "203.0.113.9"),
        (['proto=https; For="[2001:DB8::7]:_obf"'], "2001:db8::7"),
        (['for=1.1.1.1, for="[2001:db8::7]"'], "2001:db8::7"),
        (["for=unknown"], UNREADABLE),
        (["203.0.113.9, [fd00::1]:80"], "203.0.113.9"),
        (["2001:db8::7"], "2001:db8::7"),
        (["10.9.9.9"], BALANCER),
    ],
)
def test_the_last_entry_that_is_not_a_proxy_is_the_client(forwarded, who):
    """Earlier entries could be forged; in every common spelling, and nothing else is a name."""
    assert client(*forwarded) == who


@given(st.lists(st.binary(max_size=40), max_size=4))
def test_any_header_gives_an_address(values):
    """No header raises."""
    address = PROXY.client_address(BALANCER, values)
    assert address == UNREADABLE or ip_address(address)


def fronted(**server):
    return Settings(server=Server(port=0, trusted_proxies=("127.0.0.1",), **server), limits=SETTINGS.limits)


async def test_pages_of_the_public_origin_are_allowed():
    """Its origin and host are allowed and no other's; its cookies are Secure: TLS ends at the proxy."""
    token = "correct-horse-battery-staple"
    async with small_server(fronted(public_url=PUBLIC, token=token)) as served:
        own = [("Origin", PUBLIC)]
        body = b'{"token": "%s"}' % token.encode()
        answer = await fetch(
            served, "/api/session", method="POST", host="voice.example.org", headers=own, body=body
        )
        assert answer.status == 204
        cookie = answer.headers["set-cookie"]
        assert cookie.startswith("__Host-packet-voice-443=")
        assert "Secure" in cookie
        shown = [*own, ("Cookie", cookie.partition(";")[0])]
        assert (await fetch(served, "/health", host="voice.example.org", headers=shown)).status == 200
        other = [("Origin", "https://other.example.org")]
        assert (
            await fetch(served, "/health", host="voice.example.org", headers=other)
        ).error == "origin_refused"
        assert (await fetch(served, "/health", host="other.example.org")).error == "host_refused"


async def test_wrong_tokens_are_counted_by_client():
    """One client's guesses do not lock out another that comes through the same balancer."""
    async with small_server(fronted(token="correct-horse-battery-staple")) as served:

        async def guess(who):
            headers = [("Authorization", "Bearer wrong"), ("X-Forwarded-For", who)]
            return (await fetch(served, "/health", headers=headers)).status

        guesses = [await guess("203.0.113.9") for _ in range(served.limiter._limits.failures_per_minute + 1)]
        assert guesses[-1] == 429
        assert await guess("203.0.113.10") == 401


async def test_a_client_that_cannot_be_told_apart_is_refused():
    """It must not share one name with all the others; the log says once what to set."""
    async with small_server(fronted()) as served:
        with structlog.testing.capture_logs() as logs:
            for _ in range(3):
                answer = await fetch(served, "/health", headers=[("X-Forwarded-For", "unknown")])
                assert (answer.status, answer.error) == (400, "client_address_unreadable")
        assert (await fetch(served, "/health", headers=[("Forwarded", "for=203.0.113.9:1")])).status == 200
    assert [(entry["event"], entry["reason"]) for entry in logs] == [
        ("request_refused", "client_address_unreadable")
    ]


@pytest.mark.parametrize("path", ["/voice/health/live", "/health/live"])
async def test_a_path_prefix_is_taken_off(path):
    """Whether or not the reverse proxy has taken it off itself."""
    async with small_server(fronted(public_url=f"{PUBLIC}/voice/")) as served:
        assert (await fetch(served, path, host="voice.example.org")).json == {"status": "live"}


async def test_a_page_under_a_path_prefix_is_complete():
    """All links of a page are relative to it, and its WebSocket is there too."""
    async with small_server(fronted(public_url=f"{PUBLIC}/voice")) as served:
        for path in ("/voice/", "/voice/packet-voice", "/voice/whisperx"):
            page = (await fetch(served, path, host="voice.example.org")).body.decode()
            links = re.findall(r'(?:href|src)="([^"#]+)"', page)
            assert links
            for link in links:
                target = urljoin(f"{PUBLIC}{path}", link).removeprefix(PUBLIC)
                assert target.startswith("/voice/")
                answer = await fetch(served, target, host="voice.example.org")
                assert answer.status == 200 or target.startswith("/voice/vendor/")
        landing = (await fetch(served, "/voice/", host="voice.example.org")).body.decode()
        assert "wss://voice.example.org/voice/ws" in landing


async def test_the_client_that_a_proxy_names_is_what_is_limited(autojump_clock):
    """An IPv6 network counts as one; the proxy itself, and a name that cannot be read, are nobody."""
    limiter = RateLimiter(Limits(), PROXY)
    header = b"x-forwarded-for"
    assert limiter.client_of("10.0.0.1", [(header, b"203.0.113.9")]) == "203.0.113.9"
    assert limiter.client_of("10.0.0.1", [(header, b"2001:db8::1")]) == "2001:db8::/64"
    assert limiter.client_of("10.0.0.1", [(header, b"somebody")]) is None
    assert limiter.client_of("10.0.0.1", []) is None


async def test_a_trusted_proxy_has_no_share_of_one_address(autojump_clock):
    """It carries many clients: only the limit on all connections applies to it."""
    limiter = RateLimiter(Limits(connections=3, connections_per_address=1), PROXY)
    assert [limiter.connect(BALANCER) for _ in range(4)] == [True, True, True, False]
    limiter.disconnect(BALANCER)
    assert [limiter.connect("192.0.2.1") for _ in range(2)] == [True, False]
    limiter.record_failure("handshake", BALANCER)
    assert limiter.rejected == {"connections": 2}
