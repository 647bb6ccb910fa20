"""The host names and addresses under which other machines reach a server."""

import ipaddress
import re
import socket

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.lan.addresses import Hosts
from web.security.origin import OriginPolicy


def own(family):
    """Every address of every interface."""
    entries = [entry for each in psutil.net_if_addrs().values() for entry in each]
    return {ipaddress.ip_address(e.address.partition("%")[0]) for e in entries if e.family == family}


@pytest.mark.parametrize(("wildcard", "family"), [("0.0.0.0", socket.AF_INET), ("::", socket.AF_INET6)])
def test_a_wildcard_stands_for_the_addresses_of_the_interfaces(wildcard, family):
    """Of its address family, and loopback; each once, and none that a URL cannot contain."""
    found = Hosts.of(wildcard).addresses
    assert len(set(found)) == len(found)
    for address in found:
        assert address.is_loopback or address in own(family)
        assert address.version == 4 or not address.is_link_local
    assert {str(address) for address in found} >= {"127.0.0.1", "::1"}


@pytest.mark.parametrize("address", ["127.0.0.1", "192.168.1.20", "voice.example", "::1"])
def test_an_address_that_is_bound_is_the_one_to_open(address):
    """It is what the user configured."""
    assert Hosts.of(address).reachable(address) == address


@pytest.mark.parametrize("wildcard", ["0.0.0.0", "::"])
def test_a_wildcard_is_opened_at_another_address(wildcard):
    """At the first that other machines can use, or where there is none at this machine's own name."""
    hosts = Hosts.of(wildcard)
    assert hosts.reachable(wildcard) == next(iter(hosts.external(wildcard)), "localhost")
    assert Hosts(("localhost",), ()).reachable(wildcard) == "localhost"


def test_one_address_stands_for_itself_and_loopback():
    """The host names of the machine are included."""
    hosts = Hosts.of("192.168.1.20")
    assert [str(address) for address in hosts.addresses] == ["192.168.1.20", "127.0.0.1", "::1"]
    assert hosts.external("192.168.1.20") == ("192.168.1.20",)
    assert "localhost" in hosts.names


def test_loopback_has_no_external_host():
    """Other machines cannot reach a server on loopback."""
    assert Hosts.of("127.0.0.1").external("127.0.0.1") == ()


def test_a_configured_name_comes_first():
    """A server bound to a name is reached by that name."""
    hosts = Hosts.of("Voice.Home.Example")
    assert hosts.names[0] == "voice.home.example"
    assert hosts.external("voice.home.example") == ("voice.home.example",)


def test_an_ipv6_address_is_in_brackets():
    """As in a URL and a Host header, without the zone identifier."""
    assert Hosts.of("fd00::2").all()[0] == "[fd00::2]"
    assert Hosts.of("fe80::2%eth0").all()[0] == "[fe80::2]"


@pytest.mark.parametrize(
    ("hostname", "names"),
    [
        ("box", ["localhost", "box.local", "box"]),
        ("Annas-Mac.local", ["localhost", "annas-mac.local", "annas-mac"]),
        ("box.fritz.box", ["localhost", "box.local", "box", "box.fritz.box"]),
        ("localhost", ["localhost"]),
        ("localhost.localdomain", ["localhost"]),
        ("my_box", ["localhost"]),
        ("", ["localhost"]),
    ],
)
def test_a_machine_has_several_names(monkeypatch, hostname, names):
    """Its host name, the first label of it, and its mDNS name."""
    monkeypatch.setattr(socket, "gethostname", lambda: hostname)
    assert list(Hosts.of("127.0.0.1").names) == names


@given(st.text(max_size=300))
def test_every_name_is_a_valid_host_name(hostname):
    """Invalid host names are left out; the origin policy accepts all others."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket, "gethostname", lambda: hostname)
        hosts = Hosts.of("127.0.0.1").all()
    policy = OriginPolicy(hosts, scheme="https")
    for host in hosts:
        assert re.fullmatch(r"[a-z0-9.:\[\]-]{1,253}", host)
        assert policy.denial(hosts=[f"{host}:1"], origins=[], fetch_sites=[], port=1) is None
