"""What clients believe of a certificate of this machine's own, and what they do not."""

from datetime import timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID
from hypothesis import given, settings
from hypothesis import strategies as st
from support.lan.reaches import HOME, NOW, distrust, reach

from pipeline.lan.authority import (
    AUTHORITY_FOR,
    CERTIFICATE_FOR,
    RENEWED_BEFORE,
    Identity,
    issue,
    make_authority,
    may_sign,
    speaks_for,
)


@pytest.fixture(scope="module")
def authority():
    return make_authority(HOME, NOW)


@pytest.fixture(scope="module")
def server(authority):
    return issue(authority, HOME, NOW)


@pytest.mark.parametrize("host", ["box.local", "box", "localhost", "192.168.1.20", "127.0.0.1", "::1"])
def test_who_trusts_the_authority_believes_every_name(authority, server, host, tmp_path):
    """A TLS client with strict rules takes the certificate for each name and address it holds."""
    assert server.lasts(NOW)
    assert distrust(server.pem(), authority.public_pem(), host, tmp_path) is None


def test_it_is_believed_for_nothing_else(authority, server, tmp_path):
    """Another name, and another authority, are refused."""
    assert "mismatch" in distrust(server.pem(), authority.public_pem(), "192.168.1.21", tmp_path)
    other = make_authority(HOME, NOW)
    assert distrust(server.pem(), other.public_pem(), "box.local", tmp_path) is not None


@pytest.mark.parametrize("host", ["bank.example", "box.local.example", "8.8.8.8", "2001:db8::1"])
def test_a_stolen_authority_poses_as_no_site(authority, host, tmp_path):
    """What it signs for the world is refused: the limit is written into the authority itself."""
    assert not may_sign(authority, reach(host))
    forged = issue(authority, reach(host), NOW)
    assert "permitted subtree" in distrust(forged.pem(), authority.public_pem(), host, tmp_path)


@pytest.mark.parametrize(
    "host", ["printer.local", "10.1.2.3", "172.20.0.1", "100.64.1.1", "fd12::1", "fe80::1"]
)
def test_it_may_sign_what_is_private(authority, host, tmp_path):
    """So a machine that moves to another network needs another certificate and no other authority."""
    assert may_sign(authority, reach(host))
    moved = issue(authority, reach(host), NOW)
    assert distrust(moved.pem(), authority.public_pem(), host, tmp_path) is None


@pytest.mark.parametrize("host", ["203.0.113.7", "2001:db8::7", "voice.home.example", "box.fritz.box"])
def test_it_may_sign_what_it_was_made_for(host, tmp_path):
    """A public address or a name with a domain is permitted where the machine has it."""
    there = reach(host)
    authority = make_authority(there, NOW)
    assert may_sign(authority, there)
    assert not may_sign(authority, reach("bank.example"))
    assert not may_sign(authority, reach("8.8.8.8"))
    assert distrust(issue(authority, there, NOW).pem(), authority.public_pem(), host, tmp_path) is None


def test_phones_accept_its_form(authority, server):
    """Apple's rules: an authority that is no server, serverAuth, P-256 or better, at most 398 days."""
    certificate = server.certificate
    lasts = certificate.not_valid_after_utc - certificate.not_valid_before_utc
    assert lasts == CERTIFICATE_FOR < timedelta(days=398)
    usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usage) == [ExtendedKeyUsageOID.SERVER_AUTH]
    for identity in (authority, server):
        assert isinstance(identity.key.curve, ec.SECP256R1)
        assert identity.certificate.signature_hash_algorithm.name == "sha256"
    assert authority.certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert not certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca


def test_it_is_renewed_before_it_ends(authority, server):
    """It lasts from a day ago, for clocks that differ, until a month before its end."""
    for identity, whole in ((authority, AUTHORITY_FOR), (server, CERTIFICATE_FOR)):
        begins = NOW - timedelta(days=1)
        last = begins + whole - RENEWED_BEFORE
        assert [identity.lasts(now) for now in (begins, last)] == [True, True]
        second = timedelta(seconds=1)
        assert [identity.lasts(now) for now in (begins - second, last + second)] == [False, False]


def test_a_certificate_that_covers_more_is_kept(authority):
    """An interface that goes away is no reason for every phone to ask again; one that comes is."""
    large = issue(authority, reach("box.local", "192.168.1.20", "172.17.0.1"), NOW)
    assert speaks_for(large, authority, reach("box.local", "192.168.1.20"))
    assert not speaks_for(large, authority, reach("box.local", "192.168.1.21"))
    assert not speaks_for(large, authority, reach("other.local"))
    assert not speaks_for(large, make_authority(HOME, NOW), reach("box.local"))


HOSTS = st.lists(
    st.one_of(
        st.from_regex(r"[a-z][a-z0-9-]{0,8}[a-z0-9](\.local|\.example)?", fullmatch=True),
        st.ip_addresses().map(str),
    ),
    max_size=4,
    unique=True,
)


@settings(max_examples=30)
@given(HOSTS)
def test_an_authority_may_sign_for_its_own_machine(hosts):
    """Whatever a machine is called: what is made for it permits it, and speaks for it."""
    there = reach(*hosts)
    authority = make_authority(there, NOW)
    assert may_sign(authority, there)
    assert speaks_for(issue(authority, there, NOW), authority, there)


def test_one_file_holds_both(server):
    """What is written is read again; the key is in the one, and not in the other."""
    assert Identity.read(server.pem()).fingerprint == server.fingerprint
    assert b"PRIVATE KEY" in server.pem()
    assert b"PRIVATE KEY" not in server.public_pem()
    assert len(server.fingerprint) == 32 * 3 - 1


def test_what_is_no_identity_is_a_value_error(authority, server):
    """Noise, halves, a key of another certificate, a locked key and one of another kind."""
    locked = server.key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"sesame"),
    )
    foreign = rsa.generate_private_key(65537, 2048).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    mixed = authority.pem().partition(b"-----BEGIN CERT")[0] + server.public_pem()
    whole = server.pem()
    parts = [whole[: len(whole) * n // 10] for n in range(10)]
    for pem in (
        b"",
        b"noise",
        server.public_pem(),
        mixed,
        *parts,
        *(k + server.public_pem() for k in (locked, foreign)),
    ):
        with pytest.raises(ValueError, match=r".*"):
            Identity.read(pem)
