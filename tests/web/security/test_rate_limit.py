"""Connections and failures per address are limited; on a virtual clock."""

import pytest
import structlog
import trio
from hypothesis import given
from hypothesis import strategies as st

from pipeline.config import Limits
from web.security import rate_limit as rate_limit_module
from web.security.rate_limit import RateLimiter, address_of

LIMITS = Limits(connections=5, connections_per_address=2, failures_per_minute=6)


async def test_an_address_has_its_share_of_connections(autojump_clock):
    """Two from one address and five in all; a disconnect frees a place."""
    limiter = RateLimiter(LIMITS)
    assert [limiter.connect("10.0.0.1") for _ in range(3)] == [True, True, False]
    assert [limiter.connect(f"10.0.0.{n}") for n in (2, 3, 4, 5)] == [True, True, True, False]
    assert limiter.connections == 5
    assert limiter.rejected == {"address": 1, "connections": 1}
    limiter.disconnect("10.0.0.1")
    assert [limiter.connect("10.0.0.5"), limiter.connect("10.0.0.1")] == [True, False]
    for host in ("10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.4", "10.0.0.5"):
        limiter.disconnect(host)
    assert limiter.connections == 0


async def test_failures_are_refilled_with_time(autojump_clock):
    """A minute's worth at once, then one each ten seconds; for each address and kind of attempt apart."""
    limiter = RateLimiter(LIMITS)
    for _ in range(6):
        assert limiter.wait_s("token", "10.0.0.1") == 0
        limiter.record_failure("token", "10.0.0.1")
    assert limiter.wait_s("token", "10.0.0.1") == pytest.approx(10)
    assert limiter.wait_s("token", "10.0.0.2") == limiter.wait_s("handshake", "10.0.0.1") == 0
    await trio.sleep(10.01)
    assert limiter.wait_s("token", "10.0.0.1") == 0
    limiter.record_failure("token", "10.0.0.1")
    assert limiter.wait_s("token", "10.0.0.1") > 9
    await trio.sleep(1000)  # never more than a minute's worth
    for _ in range(6):
        limiter.record_failure("token", "10.0.0.1")
    assert limiter.wait_s("token", "10.0.0.1") == pytest.approx(10)
    assert limiter.failures == {"token": 13}


async def test_failed_handshakes_block_their_address(autojump_clock):
    """After too many failed handshakes connections from that address are rejected, and from no other."""
    limiter = RateLimiter(LIMITS)
    for _ in range(6):
        assert limiter.connect("10.0.0.1")
        limiter.disconnect("10.0.0.1")
        limiter.record_failure("handshake", "10.0.0.1")
    assert not limiter.connect("10.0.0.1")
    assert limiter.connect("10.0.0.2")
    assert limiter.rejected == {"handshake": 1}


async def test_memory_of_addresses_is_bounded(autojump_clock, monkeypatch):
    """However many addresses fail, only the latest ones are kept."""
    monkeypatch.setattr(rate_limit_module, "MAX_ADDRESSES", 3)
    limiter = RateLimiter(LIMITS)
    for n in range(10):
        for _ in range(6):
            limiter.record_failure("token", f"10.0.0.{n}")
    assert len(limiter._buckets) == 3
    assert limiter.wait_s("token", "10.0.0.9") > 0
    assert limiter.wait_s("token", "10.0.0.0") == 0


async def test_a_flood_does_not_fill_the_log(autojump_clock):
    """A thousand rejected connections log one line, and another one ten seconds later."""
    limiter = RateLimiter(Limits(connections=1))
    limiter.connect("10.0.0.1")
    with structlog.testing.capture_logs() as logs:
        for _ in range(1000):
            limiter.connect("10.0.0.2")
        await trio.sleep(10)
        limiter.connect("10.0.0.2")
    assert [entry["so_far"] for entry in logs] == [1, 1001]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("2001:db8::1", "2001:db8::ffff:2"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("fe80::1%eth0", "fe80::2%eth1"),
    ],
)
def test_addresses_of_one_client_count_as_one(one, other):
    """An IPv6 /64 is one address; an IPv4 address is the same in either notation."""
    assert address_of(one) == address_of(other)


def test_other_networks_count_apart():
    """Other IPv6 networks and other IPv4 addresses are different addresses."""
    assert (
        len({address_of(host) for host in ("192.0.2.1", "192.0.2.2", "2001:db8::1", "2001:db8:0:1::1")}) == 4
    )


@given(st.text())
def test_any_host_is_an_address(host):
    """Any name that a socket gives its peer."""
    assert isinstance(address_of(host), str)
