"""Behind a balancer, who asks is whom the balancer names, and the public address is the server's own."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.web.small_engine import SETTINGS, small_server
from support.web.sockets import ask

from pipeline.config import Limits, Server, Settings
from pipeline.errors import ConfigError
from web.security.forwarded import Front, Public
from web.security.rate_limit import Turnstile

BALANCER = "10.1.2.3"
FRONT = Front.of(Server(trusted_proxies=("10.0.0.0/8", "fd00::1")))
PUBLIC = "https://voice.example.org"


def asker(*forwarded, host=BALANCER):
    return FRONT.asker(host, [value.encode("latin-1") for value in forwarded])


@pytest.mark.parametrize(
    ("url", "origin", "port"),
    [
        ("https://voice.example.org", "https://voice.example.org", 443),
        ("https://voice.example.org/", "https://voice.example.org", 443),
        ("https://voice.example.org:443", "https://voice.example.org", 443),
        ("HTTPS://Voice.Example.org:8443", "https://voice.example.org:8443", 8443),
        ("http://[::1]:8787", "http://[::1]:8787", 8787),
    ],
)
def test_a_public_address_is_an_origin(url, origin, port):
    """As a browser spells it: lower case, a default port left out."""
    public = Public.parse(url)
    assert (public.origin, public.port) == (origin, port)


@pytest.mark.parametrize(
    "url",
    ["voice.example.org", "ftp://a", "https://", "https://a/b", "https://a?b", "https://a:99999", "x://["],
)
def test_what_is_more_or_less_than_an_origin_is_refused(url):
    """One sentence that names the key."""
    with pytest.raises(ConfigError) as error:
        Front.of(Server(public_url=url))
    assert error.value.key == "pipeline.server.public_url"


def test_a_balancer_is_an_address_or_a_network():
    """Anything else is a mistake."""
    assert [FRONT.believes(host) for host in (BALANCER, "::ffff:10.1.2.3", "fd00::1", "fd00::1%eth0")] == [
        True
    ] * 4
    assert [FRONT.believes(host) for host in ("11.0.0.1", "fd00::2", "", "localhost")] == [False] * 4
    with pytest.raises(ConfigError) as error:
        Front.of(Server(trusted_proxies=("balancer",)))
    assert error.value.key == "pipeline.server.trusted_proxies"


def test_a_stranger_speaks_for_himself():
    """X-Forwarded-For counts from balancers only."""
    assert asker("1.2.3.4", host="192.0.2.1") == "192.0.2.1"


@pytest.mark.parametrize(
    ("forwarded", "who"),
    [
        ([], BALANCER),
        (["203.0.113.9"], "203.0.113.9"),
        (["1.1.1.1, 203.0.113.9"], "203.0.113.9"),
        (["1.1.1.1", "203.0.113.9"], "203.0.113.9"),
        (["203.0.113.9, 10.9.9.9"], "203.0.113.9"),
        (["203.0.113.9", "unknown"], BALANCER),
        (["203.0.113.9, "], BALANCER),
        (["2001:db8::7"], "2001:db8::7"),
        (["10.9.9.9"], BALANCER),
    ],
)
def test_the_last_word_of_a_balancer_counts(forwarded, who):
    """What stands before it anybody may have written; what is no address counts for nothing."""
    assert asker(*forwarded) == who


@given(st.lists(st.binary(max_size=40), max_size=4))
def test_any_header_names_somebody(values):
    """It is judged, and never raises."""
    assert FRONT.asker(BALANCER, values)


def fronted(**server):
    return Settings(server=Server(port=0, trusted_proxies=("127.0.0.1",), **server), limits=SETTINGS.limits)


async def test_pages_of_the_public_address_are_the_servers_own():
    """Its origin passes, its host passes, and no other's; without TLS here its cookies demand TLS there."""
    token = "correct-horse-battery-staple"
    async with small_server(fronted(public_url=PUBLIC, token=token)) as served:
        own = [("Origin", PUBLIC)]
        body = b'{"token": "%s"}' % token.encode()
        answer = await ask(
            served, "/api/session", method="POST", host="voice.example.org", headers=own, body=body
        )
        assert answer.status == 204
        cookie = answer.headers["set-cookie"]
        assert cookie.startswith("__Host-packet-voice-443=")
        assert "Secure" in cookie
        shown = [*own, ("Cookie", cookie.partition(";")[0])]
        assert (await ask(served, "/health", host="voice.example.org", headers=shown)).status == 200
        other = [("Origin", "https://other.example.org")]
        assert (
            await ask(served, "/health", host="voice.example.org", headers=other)
        ).error == "origin_refused"
        assert (await ask(served, "/health", host="other.example.org")).error == "host_refused"


async def test_wrong_tokens_are_counted_by_who_asks():
    """One client's guesses do not lock out another that comes through the same balancer."""
    async with small_server(fronted(token="correct-horse-battery-staple")) as served:

        async def guess(who):
            headers = [("Authorization", "Bearer wrong"), ("X-Forwarded-For", who)]
            return (await ask(served, "/health", headers=headers)).status

        guesses = [
            await guess("203.0.113.9") for _ in range(served.turnstile._limits.failures_per_minute + 1)
        ]
        assert guesses[-1] == 429
        assert await guess("203.0.113.10") == 401


async def test_a_balancer_has_more_than_one_addresss_share(autojump_clock):
    """It is everybody: only the bound on all connections holds for it."""
    turnstile = Turnstile(Limits(connections=3, connections_per_address=1), FRONT)
    assert [turnstile.enter(BALANCER) for _ in range(4)] == [True, True, True, False]
    turnstile.leave(BALANCER)
    assert [turnstile.enter("192.0.2.1") for _ in range(2)] == [True, False]
    turnstile.fail("handshake", BALANCER)
    assert turnstile.turned_away == {"connections": 2}
