"""TLS clients accept the generated certificates for this machine, and for nothing else."""

from datetime import timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID
from hypothesis import given, settings
from hypothesis import strategies as st
from support.lan.certificates import HOME, NOW, hosts, verify_error

from pipeline.lan.authority import (
    AUTHORITY_LIFETIME,
    CERTIFICATE_LIFETIME,
    RENEW_BEFORE,
    Identity,
    can_sign,
    covers,
    issue,
    make_authority,
)


@pytest.fixture(scope="module")
def authority():
    return make_authority(HOME, NOW)


@pytest.fixture(scope="module")
def server(authority):
    return issue(authority, HOME, NOW)


@pytest.mark.parametrize("host", ["box.local", "box", "localhost", "192.168.1.20", "127.0.0.1", "::1"])
def test_a_client_that_trusts_the_authority_accepts_every_host(authority, server, host, tmp_path):
    """A strict TLS client accepts the certificate for each name and address it contains."""
    assert server.is_current(NOW)
    assert verify_error(server.pem(), authority.public_pem(), host, tmp_path) is None


def test_other_hosts_and_other_authorities_are_rejected(authority, server, tmp_path):
    """A host outside the certificate and a certificate of another authority fail verification."""
    assert "mismatch" in verify_error(server.pem(), authority.public_pem(), "192.168.1.21", tmp_path)
    other = make_authority(HOME, NOW)
    assert verify_error(server.pem(), other.public_pem(), "box.local", tmp_path) is not None


@pytest.mark.parametrize("host", ["bank.example", "box.local.example", "8.8.8.8", "2001:db8::1"])
def test_a_stolen_authority_cannot_impersonate_a_public_site(authority, host, tmp_path):
    """Clients reject what it signs for public hosts, because of its name constraints."""
    assert not can_sign(authority, hosts(host))
    forged = issue(authority, hosts(host), NOW)
    assert "permitted subtree" in verify_error(forged.pem(), authority.public_pem(), host, tmp_path)


@pytest.mark.parametrize(
    "host", ["printer.local", "10.1.2.3", "172.20.0.1", "100.64.1.1", "fd12::1", "fe80::1"]
)
def test_the_authority_can_sign_for_private_hosts(authority, host, tmp_path):
    """A machine that moves to another network needs a new certificate, but not a new authority."""
    assert can_sign(authority, hosts(host))
    moved = issue(authority, hosts(host), NOW)
    assert verify_error(moved.pem(), authority.public_pem(), host, tmp_path) is None


@pytest.mark.parametrize("host", ["203.0.113.7", "2001:db8::7", "voice.home.example", "box.fritz.box"])
def test_the_authority_can_sign_for_the_public_hosts_it_was_created_with(host, tmp_path):
    """A public address or a domain name is permitted if the machine had it at creation."""
    there = hosts(host)
    authority = make_authority(there, NOW)
    assert can_sign(authority, there)
    assert not can_sign(authority, hosts("bank.example"))
    assert not can_sign(authority, hosts("8.8.8.8"))
    assert verify_error(issue(authority, there, NOW).pem(), authority.public_pem(), host, tmp_path) is None


def test_the_certificates_meet_the_rules_of_phones(authority, server):
    """Apple's rules: a separate authority, serverAuth, P-256 or better, at most 398 days."""
    certificate = server.certificate
    lasts = certificate.not_valid_after_utc - certificate.not_valid_before_utc
    assert lasts == CERTIFICATE_LIFETIME < timedelta(days=398)
    usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usage) == [ExtendedKeyUsageOID.SERVER_AUTH]
    for identity in (authority, server):
        assert isinstance(identity.key.curve, ec.SECP256R1)
        assert identity.certificate.signature_hash_algorithm.name == "sha256"
    assert authority.certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert not certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca


def test_a_certificate_is_renewed_before_it_expires(authority, server):
    """It is current from a day ago, to allow for clock skew, until 30 days before it expires."""
    for identity, whole in ((authority, AUTHORITY_LIFETIME), (server, CERTIFICATE_LIFETIME)):
        begins = NOW - timedelta(days=1)
        last = begins + whole - RENEW_BEFORE
        assert [identity.is_current(now) for now in (begins, last)] == [True, True]
        second = timedelta(seconds=1)
        assert [identity.is_current(now) for now in (begins - second, last + second)] == [False, False]


def test_a_certificate_that_covers_more_hosts_is_kept(authority):
    """A removed interface does not make every phone trust a new certificate; an added one does."""
    large = issue(authority, hosts("box.local", "192.168.1.20", "172.17.0.1"), NOW)
    assert covers(large, authority, hosts("box.local", "192.168.1.20"))
    assert not covers(large, authority, hosts("box.local", "192.168.1.21"))
    assert not covers(large, authority, hosts("other.local"))
    assert not covers(large, make_authority(HOME, NOW), hosts("box.local"))


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
def test_an_authority_can_sign_for_its_own_machine(names):
    """For any host names, the new authority permits them and its certificate covers them."""
    there = hosts(*names)
    authority = make_authority(there, NOW)
    assert can_sign(authority, there)
    assert covers(issue(authority, there, NOW), authority, there)


def test_one_file_holds_certificate_and_key(server):
    """`read` inverts `pem`; the key is in `pem` and not in `public_pem`."""
    assert Identity.read(server.pem()).fingerprint == server.fingerprint
    assert b"PRIVATE KEY" in server.pem()
    assert b"PRIVATE KEY" not in server.public_pem()
    assert len(server.fingerprint) == 32 * 3 - 1


def test_a_malformed_identity_is_a_value_error(authority, server):
    """Noise, truncated files, a foreign key, an encrypted key and an RSA key."""
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
