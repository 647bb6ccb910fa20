"""An authority of this machine's own vouches for this machine, and can vouch for nothing else of worth.

Two certificates, because iOS takes none that is both authority and server, and because a phone that
trusts the authority goes on trusting when addresses change. What the authority may sign is written into
it (name constraints, RFC 5280 §4.2.1.10): `localhost`, `.local`, private addresses, and what else this
machine was called when it was made. Whoever stole its key could pose as another machine of the
network, and as no site of the world.

Sources: RFC 5280; Apple support 103769 (server certificates: at most 825 days, serverAuth, names in
subjectAltName) and 102028 (at most 398 days where the authority is a public one, kept here too).
"""

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final, Self

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from pipeline.lan.addresses import Reach

AUTHORITY_FOR: Final = timedelta(days=3650)
CERTIFICATE_FOR: Final = timedelta(days=397)
RENEWED_BEFORE: Final = timedelta(days=30)
_CLOCKS_DIFFER: Final = timedelta(days=1)  # a phone whose clock is behind must not find it too young
_NAMES: Final = ("localhost", "local")
# Loopback, private, shared (RFC 6598: also Tailscale's), link-local and unique local addresses.
_NETWORKS: Final = tuple(
    ipaddress.ip_network(network)
    for network in (
        "127.0.0.0/8",
        "10.0.0.0/8",
        "172.16.0.0/12",
        "192.168.0.0/16",
        "100.64.0.0/10",
        "169.254.0.0/16",
        "::1/128",
        "fc00::/7",
        "fe80::/10",
    )
)
_COMMON_NAME_CHARACTERS: Final = 64  # RFC 5280, ub-common-name


@dataclass(frozen=True, slots=True)
class Identity:
    """A certificate and the private key it speaks of; one PEM file holds both."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey = field(repr=False)

    @classmethod
    def read(cls, pem: bytes) -> Self:
        """Read what `pem` wrote; a `ValueError` says that it is something else."""
        try:
            key = serialization.load_pem_private_key(pem, password=None)
        except (TypeError, UnsupportedAlgorithm) as error:  # encrypted, or of a kind nobody here makes
            raise ValueError("no private key that can be used") from error
        certificate = x509.load_pem_x509_certificate(pem)
        if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != certificate.public_key():
            raise ValueError("the key is not the certificate's")
        return cls(certificate, key)

    def pem(self) -> bytes:
        """Key and certificate."""
        key = self.key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        return key + self.public_pem()

    def public_pem(self) -> bytes:
        """The certificate alone, for those who are to trust it."""
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    @property
    def fingerprint(self) -> str:
        """SHA-256, spelt as browsers and phones show it."""
        return self.certificate.fingerprint(hashes.SHA256()).hex(":").upper()

    def lasts(self, now: datetime) -> bool:
        """Whether it is good now, and not about to end."""
        certificate = self.certificate
        return certificate.not_valid_before_utc <= now <= certificate.not_valid_after_utc - RENEWED_BEFORE


def make_authority(reach: Reach, now: datetime) -> Identity:
    """An authority that may sign what is private, and `reach`."""
    key = ec.generate_private_key(ec.SECP256R1())
    label = next((name for name in reach.names if name != "localhost"), "localhost").partition(".")[0]
    name = _named(f"packet-voice on {label}, authority")
    names = dict.fromkeys([*_NAMES, *(each for each in reach.names if not _within(each, _NAMES))])
    others = [
        ipaddress.ip_network(each)
        for each in reach.addresses
        if not any(each in network for network in _NETWORKS)
    ]
    permitted: list[x509.GeneralName] = [x509.DNSName(each) for each in names]
    permitted += [x509.IPAddress(network) for network in (*_NETWORKS, *others)]
    builder = (
        _begun(name, name, key, now, AUTHORITY_FOR)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .add_extension(
            x509.NameConstraints(permitted_subtrees=permitted, excluded_subtrees=None), critical=True
        )
    )
    return Identity(builder.sign(key, hashes.SHA256()), key)


def issue(authority: Identity, reach: Reach, now: datetime) -> Identity:
    """A server's certificate for everything in `reach`."""
    key = ec.generate_private_key(ec.SECP256R1())
    names: list[x509.GeneralName] = [x509.DNSName(name) for name in reach.names]
    names += [x509.IPAddress(address) for address in reach.addresses]
    issuer = authority.certificate.subject
    builder = (
        _begun(_named("packet-voice"), issuer, key, now, CERTIFICATE_FOR)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.key.public_key()), critical=False
        )
    )
    return Identity(builder.sign(authority.key, hashes.SHA256()), key)


def may_sign(authority: Identity, reach: Reach) -> bool:
    """Whether what is written into the authority permits every name and address."""
    try:
        extension = authority.certificate.extensions.get_extension_for_class(x509.NameConstraints)
    except x509.ExtensionNotFound:  # one that may sign everything is none of ours
        return False
    permitted = extension.value.permitted_subtrees or []
    names = [each.value for each in permitted if isinstance(each, x509.DNSName)]
    networks = [ipaddress.ip_network(each.value) for each in permitted if isinstance(each, x509.IPAddress)]
    return all(_within(name, names) for name in reach.names) and all(
        any(address in network for network in networks) for address in reach.addresses
    )


def speaks_for(identity: Identity, authority: Identity, reach: Reach) -> bool:
    """Whether a server's certificate is this authority's and covers all of `reach`; it may cover more."""
    try:
        identity.certificate.verify_directly_issued_by(authority.certificate)
        extension = identity.certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except (ValueError, InvalidSignature, x509.ExtensionNotFound):
        return False
    names = set(extension.value.get_values_for_type(x509.DNSName))
    addresses = set(extension.value.get_values_for_type(x509.IPAddress))
    return names.issuperset(reach.names) and addresses.issuperset(reach.addresses)


def _begun(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, now: datetime, lasts: timedelta
) -> x509.CertificateBuilder:
    """What both kinds have."""
    begins = now - _CLOCKS_DIFFER
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(begins)
        .not_valid_after(begins + lasts)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _named(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name[:_COMMON_NAME_CHARACTERS])])


def _within(name: str, permitted: Iterable[str]) -> bool:
    """RFC 5280 §4.2.1.10: a name permits itself and whatever stands before it."""
    return any(name == each or name.endswith(f".{each}") for each in permitted)
