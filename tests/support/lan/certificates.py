"""Host names of a server, and a TLS handshake that verifies its certificate."""

import ipaddress
import ssl
from datetime import UTC, datetime

from pipeline.lan.addresses import Hosts

# The time that TLS clients compare with, in whole seconds as in certificates.
NOW = datetime.now(UTC).replace(microsecond=0)
LOOPBACK = ("127.0.0.1", "::1")


def hosts(*preferred):
    """These names and addresses, followed by loopback."""
    names, addresses = [], []
    for host in (*preferred, "localhost", *LOOPBACK):
        try:
            addresses.append(ipaddress.ip_address(host))
        except ValueError:
            names.append(host)
    return Hosts(tuple(names), tuple(addresses))


HOME = hosts("box.local", "box", "192.168.1.20")


def verify_error(server_pem, authority_pem, host, folder):
    """Run a TLS handshake in memory: None if the client accepts the certificate, else its message."""
    (folder / "handshake.pem").write_bytes(server_pem)
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server.load_cert_chain(folder / "handshake.pem")
    client = ssl.create_default_context(cadata=authority_pem.decode())
    client.verify_flags |= ssl.VERIFY_X509_STRICT  # the default from Python 3.13 on
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [client.wrap_bio(down, up, server_hostname=host), server.wrap_bio(up, down, server_side=True)]
    for _ in range(4):
        for end in ends:
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                continue
            except ssl.SSLCertVerificationError as error:
                return error.verify_message
    assert ends[0].version() == "TLSv1.3"
    return None
