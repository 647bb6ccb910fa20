"""Which requests are allowed, by Host, Origin and Sec-Fetch-Site."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.config import Server
from web.security.origin import OriginPolicy

POLICY = OriginPolicy(Server().allowed_hosts)
PORT = 8788


def code(*, hosts=("127.0.0.1:8788",), origins=(), fetch_sites=(), port=PORT):
    denial = POLICY.denial(hosts=hosts, origins=origins, fetch_sites=fetch_sites, port=port)
    return denial and denial.code


@pytest.mark.parametrize(
    "host", ["127.0.0.1:8788", "127.0.0.1", "localhost", "LocalHost:1", "[::1]", "[::1]:8788"]
)
def test_own_hosts_are_allowed_with_any_port(host):
    """The port of the Host header is ignored."""
    assert code(hosts=[host]) is None


@pytest.mark.parametrize(
    "hosts",
    [
        [],
        ["localhost", "localhost"],
        [""],
        ["evil.example:8788"],
        ["localhost.evil.example"],
        ["127.0.0.1.nip.io"],
        ["127.0.0.2"],
        ["0.0.0.0:8788"],
        ["::1"],
        ["[::2]"],
        ["[::1"],
        ["localhost:"],
        ["localhost:8788:1"],
        ["localhost:+1"],
        ["user@localhost"],
        ["localhost/"],
        ["localhost."],
        ["localhost\n"],
        ["ｌocalhost"],
    ],
)
def test_other_hosts_are_refused(hosts):
    """A name that an attacker's DNS could point at this machine is not this server."""
    assert code(hosts=hosts) == "host_refused"


@given(st.text())
def test_any_host_is_answered(host):
    """No Host header raises."""
    assert code(hosts=[host]) in (None, "host_refused")


@pytest.mark.parametrize("origin", ["http://127.0.0.1:8788", "http://localhost:8788", "http://[::1]:8788"])
def test_own_origins_are_allowed(origin):
    """A page of this server may send requests."""
    assert code(origins=[origin]) is None


@pytest.mark.parametrize(
    "origins",
    [
        ["null"],
        [""],
        ["http://evil.example"],
        ["http://localhost"],
        ["http://localhost:8789"],
        ["http://localhost:87880"],
        ["https://localhost:8788"],
        ["ws://localhost:8788"],
        ["http://localhost:8788/"],
        ["http://LOCALHOST:8788"],
        ["http://localhost:8788.evil.example"],
        ["http://evil.example:8788"],
        ["chrome-extension://localhost:8788"],
        ["http://localhost:8788", "http://localhost:8788"],
        ["http://localhost:8788, http://evil.example"],
    ],
)
def test_other_origins_are_refused(origins):
    """Only an exact match is allowed, with the port."""
    assert code(origins=origins) == "origin_refused"


def test_the_default_port_is_omitted():
    """On port 80 a browser omits the port in its Origin."""
    assert code(origins=["http://localhost"], port=80) is None
    assert code(origins=["http://localhost:80"], port=80) == "origin_refused"


@pytest.mark.parametrize("site", ["cross-site", "Cross-Site"])
def test_cross_site_requests_are_refused(site):
    """Sec-Fetch-Site is set by the browser and cannot be forged by a page."""
    assert code(fetch_sites=[site]) == "cross_site_refused"


@pytest.mark.parametrize("site", ["same-origin", "none"])
def test_own_pages_and_the_address_bar_are_allowed(site):
    """Requests of our own page, and addresses that the user typed."""
    assert code(fetch_sites=[site]) is None


def test_an_ipv6_address_may_be_configured_without_brackets():
    """`::1` in the settings is `[::1]` on the wire."""
    policy = OriginPolicy(["::1"])
    assert policy.denial(hosts=["[::1]:1"], origins=["http://[::1]:1"], fetch_sites=[], port=1) is None
