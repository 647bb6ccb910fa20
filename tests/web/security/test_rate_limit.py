"""One address can neither take everything nor try for ever, on a virtual clock."""

import pytest
import structlog
import trio
from hypothesis import given
from hypothesis import strategies as st

from pipeline.config import Limits
from web.security import rate_limit as turnstile_module
from web.security.rate_limit import Turnstile, address_of

LIMITS = Limits(connections=5, connections_per_address=2, failures_per_minute=6)


async def test_an_address_has_its_share_of_connections(autojump_clock):
    """Two from one address and five in all; one that leaves makes room for one that enters."""
    turnstile = Turnstile(LIMITS)
    assert [turnstile.enter("10.0.0.1") for _ in range(3)] == [True, True, False]
    assert [turnstile.enter(f"10.0.0.{n}") for n in (2, 3, 4, 5)] == [True, True, True, False]
    assert turnstile.connections == 5
    assert turnstile.turned_away == {"address": 1, "connections": 1}
    turnstile.leave("10.0.0.1")
    assert [turnstile.enter("10.0.0.5"), turnstile.enter("10.0.0.1")] == [True, False]
    for host in ("10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.4", "10.0.0.5"):
        turnstile.leave(host)
    assert turnstile.connections == 0


async def test_failures_run_out_and_come_back(autojump_clock):
    """A minute's worth at once, then one each ten seconds; nobody else and no other attempt is touched."""
    turnstile = Turnstile(LIMITS)
    for _ in range(6):
        assert turnstile.wait_s("token", "10.0.0.1") == 0
        turnstile.fail("token", "10.0.0.1")
    assert turnstile.wait_s("token", "10.0.0.1") == pytest.approx(10)
    assert turnstile.wait_s("token", "10.0.0.2") == turnstile.wait_s("handshake", "10.0.0.1") == 0
    await trio.sleep(10.01)
    assert turnstile.wait_s("token", "10.0.0.1") == 0
    turnstile.fail("token", "10.0.0.1")
    assert turnstile.wait_s("token", "10.0.0.1") > 9
    await trio.sleep(1000)  # never more than a minute's worth
    for _ in range(6):
        turnstile.fail("token", "10.0.0.1")
    assert turnstile.wait_s("token", "10.0.0.1") == pytest.approx(10)
    assert turnstile.failures == {"token": 13}


async def test_who_fails_at_tls_does_not_get_in(autojump_clock):
    """Handshakes that lead nowhere cost the right to try another, not that of others."""
    turnstile = Turnstile(LIMITS)
    for _ in range(6):
        assert turnstile.enter("10.0.0.1")
        turnstile.leave("10.0.0.1")
        turnstile.fail("handshake", "10.0.0.1")
    assert not turnstile.enter("10.0.0.1")
    assert turnstile.enter("10.0.0.2")
    assert turnstile.turned_away == {"handshake": 1}


async def test_memory_of_addresses_is_bounded(autojump_clock, monkeypatch):
    """However many addresses fail, so many are known, the latest ones."""
    monkeypatch.setattr(turnstile_module, "ADDRESSES", 3)
    turnstile = Turnstile(LIMITS)
    for n in range(10):
        for _ in range(6):
            turnstile.fail("token", f"10.0.0.{n}")
    assert len(turnstile._credits) == 3
    assert turnstile.wait_s("token", "10.0.0.9") > 0
    assert turnstile.wait_s("token", "10.0.0.0") == 0


async def test_a_flood_does_not_fill_the_log(autojump_clock):
    """Of a thousand turned away one line is written, and another one ten seconds later."""
    turnstile = Turnstile(Limits(connections=1))
    turnstile.enter("10.0.0.1")
    with structlog.testing.capture_logs() as logs:
        for _ in range(1000):
            turnstile.enter("10.0.0.2")
        await trio.sleep(10)
        turnstile.enter("10.0.0.2")
    assert [entry["so_far"] for entry in logs] == [1, 1001]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("2001:db8::1", "2001:db8::ffff:2"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("fe80::1%eth0", "fe80::2%eth1"),
    ],
)
def test_what_one_client_can_choose_counts_as_one(one, other):
    """An IPv6 network is one address; an IPv4 address is itself in either spelling."""
    assert address_of(one) == address_of(other)


def test_neighbours_are_not_one():
    """Other networks, and other IPv4 addresses, are others."""
    assert (
        len({address_of(host) for host in ("192.0.2.1", "192.0.2.2", "2001:db8::1", "2001:db8:0:1::1")}) == 4
    )


@given(st.text())
def test_any_host_is_an_address(host):
    """Whatever a socket calls its other end."""
    assert isinstance(address_of(host), str)
