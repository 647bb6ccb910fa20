"""A certificate authority for this machine, and the server certificate that it issues.

There are two certificates because iOS rejects one that is both authority and server, and because a phone
that trusts the authority keeps trusting it when the server's addresses change. Name constraints (RFC 5280
§4.2.1.10) limit what the authority can sign to `localhost`, `.local`, private addresses and the names and
public addresses this machine had when the authority was created. A stolen authority key could therefore
impersonate machines of the local network, but no public site.

Sources: RFC 5280; Apple support 103769 (server certificates: at most 825 days, serverAuth, names in
subjectAltName) and 102028 (at most 398 days for public authorities, followed here too).
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

from pipeline.lan.addresses import Hosts

AUTHORITY_LIFETIME: Final = timedelta(days=3650)
CERTIFICATE_LIFETIME: Final = timedelta(days=397)
RENEW_BEFORE: Final = timedelta(days=30)
_CLOCK_SKEW: Final = timedelta(days=1)  # a certificate is valid at once on a phone whose clock is slow
_NAMES: Final = ("localhost", "local")
# Loopback, private, shared (RFC 6598, also used by Tailscale), link-local and unique local addresses.
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
    """A certificate and its private key; one PEM file holds both."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey = field(repr=False)

    @classmethod
    def read(cls, pem: bytes) -> Self:
        """Parse the output of `pem`; anything else is a `ValueError`."""
        try:
            key = serialization.load_pem_private_key(pem, password=None)
        except (TypeError, UnsupportedAlgorithm) as error:  # encrypted, or an unsupported kind of key
            raise ValueError("the private key cannot be used") from error
        certificate = x509.load_pem_x509_certificate(pem)
        if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != certificate.public_key():
            raise ValueError("the private key does not belong to the certificate")
        return cls(certificate, key)

    def pem(self) -> bytes:
        """The private key and the certificate in PEM format."""
        key = self.key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        return key + self.public_pem()

    def public_pem(self) -> bytes:
        """The certificate in PEM format, without the key, for clients to trust."""
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    @property
    def fingerprint(self) -> str:
        """The SHA-256 fingerprint as browsers and phones display it."""
        return self.certificate.fingerprint(hashes.SHA256()).hex(":").upper()

    def is_current(self, now: datetime) -> bool:
        """Whether the certificate is valid now and not due for renewal."""
        certificate = self.certificate
        return certificate.not_valid_before_utc <= now <= certificate.not_valid_after_utc - RENEW_BEFORE


def make_authority(hosts: Hosts, now: datetime) -> Identity:
    """Create an authority that can sign for private names and addresses and for `hosts`."""
    key = ec.generate_private_key(ec.SECP256R1())
    label = next((name for name in hosts.names if name != "localhost"), "localhost").partition(".")[0]
    name = _common_name(f"packet-voice on {label}, authority")
    names = dict.fromkeys([*_NAMES, *(each for each in hosts.names if not _in_subtree(each, _NAMES))])
    others = [
        ipaddress.ip_network(each)
        for each in hosts.addresses
        if not any(each in network for network in _NETWORKS)
    ]
    permitted: list[x509.GeneralName] = [x509.DNSName(each) for each in names]
    permitted += [x509.IPAddress(network) for network in (*_NETWORKS, *others)]
    builder = (
        _builder(name, name, key, now, AUTHORITY_LIFETIME)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .add_extension(
            x509.NameConstraints(permitted_subtrees=permitted, excluded_subtrees=None), critical=True
        )
    )
    return Identity(builder.sign(key, hashes.SHA256()), key)


def issue(authority: Identity, hosts: Hosts, now: datetime) -> Identity:
    """Issue a server certificate for everything in `hosts`."""
    key = ec.generate_private_key(ec.SECP256R1())
    names: list[x509.GeneralName] = [x509.DNSName(name) for name in hosts.names]
    names += [x509.IPAddress(address) for address in hosts.addresses]
    issuer = authority.certificate.subject
    builder = (
        _builder(_common_name("packet-voice"), issuer, key, now, CERTIFICATE_LIFETIME)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.key.public_key()), critical=False
        )
    )
    return Identity(builder.sign(authority.key, hashes.SHA256()), key)


def can_sign(authority: Identity, hosts: Hosts) -> bool:
    """Whether the name constraints of the authority permit every host."""
    try:
        extension = authority.certificate.extensions.get_extension_for_class(x509.NameConstraints)
    except x509.ExtensionNotFound:  # an unconstrained authority was not created here
        return False
    permitted = extension.value.permitted_subtrees or []
    names = [each.value for each in permitted if isinstance(each, x509.DNSName)]
    networks = [ipaddress.ip_network(each.value) for each in permitted if isinstance(each, x509.IPAddress)]
    return all(_in_subtree(name, names) for name in hosts.names) and all(
        any(address in network for network in networks) for address in hosts.addresses
    )


def covers(identity: Identity, authority: Identity, hosts: Hosts) -> bool:
    """Whether the authority issued this server certificate and it covers at least `hosts`."""
    try:
        identity.certificate.verify_directly_issued_by(authority.certificate)
        extension = identity.certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except (ValueError, InvalidSignature, x509.ExtensionNotFound):
        return False
    names = set(extension.value.get_values_for_type(x509.DNSName))
    addresses = set(extension.value.get_values_for_type(x509.IPAddress))
    return names.issuperset(hosts.names) and addresses.issuperset(hosts.addresses)


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, now: datetime, lifetime: timedelta
) -> x509.CertificateBuilder:
    """The fields that both kinds of certificates share."""
    begins = now - _CLOCK_SKEW
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(begins)
        .not_valid_after(begins + lifetime)
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


def _common_name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name[:_COMMON_NAME_CHARACTERS])])


def _in_subtree(name: str, permitted: Iterable[str]) -> bool:
    """Whether a permitted name is `name` or a parent domain of it (RFC 5280 §4.2.1.10)."""
    return any(name == each or name.endswith(f".{each}") for each in permitted)
