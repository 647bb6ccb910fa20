"""What other machines may call this one."""

import ipaddress
import re
import socket

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.lan.addresses import Reach
from web.security.origin import Gate


def own(family):
    """Every address of every interface, as the system lists them."""
    entries = [entry for each in psutil.net_if_addrs().values() for entry in each]
    return {ipaddress.ip_address(e.address.partition("%")[0]) for e in entries if e.family == family}


@pytest.mark.parametrize(("wildcard", "family"), [("0.0.0.0", socket.AF_INET), ("::", socket.AF_INET6)])
def test_a_wildcard_is_the_machines_own_addresses(wildcard, family):
    """Of its family, and loopback; none that no URL can hold, none twice."""
    found = Reach.of(wildcard).addresses
    assert len(set(found)) == len(found)
    for address in found:
        assert address.is_loopback or address in own(family)
        assert address.version == 4 or not address.is_link_local
    assert {str(address) for address in found} >= {"127.0.0.1", "::1"}


def test_one_address_is_that_one_and_loopback():
    """A server bound to it is found nowhere else; what it is called on this machine stays."""
    reach = Reach.of("192.168.1.20")
    assert [str(address) for address in reach.addresses] == ["192.168.1.20", "127.0.0.1", "::1"]
    assert reach.hosts_elsewhere("192.168.1.20") == ("192.168.1.20",)
    assert "localhost" in reach.names


def test_loopback_means_nothing_elsewhere():
    """Nobody is invited to their own machine."""
    assert Reach.of("127.0.0.1").hosts_elsewhere("127.0.0.1") == ()


def test_a_name_is_taken_as_it_is():
    """Whoever binds to a name has said what the server is called."""
    reach = Reach.of("Voice.Home.Example")
    assert reach.names[0] == "voice.home.example"
    assert reach.hosts_elsewhere("voice.home.example") == ("voice.home.example",)


def test_an_ipv6_address_stands_in_brackets():
    """As a URL and a Host header need it; the part that names an interface is not part of it."""
    assert Reach.of("fd00::2").hosts()[0] == "[fd00::2]"
    assert Reach.of("fe80::2%eth0").hosts()[0] == "[fe80::2]"


@pytest.mark.parametrize(
    ("called", "names"),
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
def test_a_machine_has_its_names(monkeypatch, called, names):
    """The one it was given, the first part of it alone, and the one that mDNS gives it."""
    monkeypatch.setattr(socket, "gethostname", lambda: called)
    assert list(Reach.of("127.0.0.1").names) == names


@given(st.text(max_size=300))
def test_whatever_it_is_called_its_names_are_names(called):
    """What no certificate and no Host header can hold is left out; the gate lets all others in."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket, "gethostname", lambda: called)
        hosts = Reach.of("127.0.0.1").hosts()
    gate = Gate(hosts, scheme="https")
    for host in hosts:
        assert re.fullmatch(r"[a-z0-9.:\[\]-]{1,253}", host)
        assert gate.denial(hosts=[f"{host}:1"], origins=[], fetch_sites=[], port=1) is None
