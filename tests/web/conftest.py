"""Certificates of an authority that exists for one test run."""

import ssl
from dataclasses import dataclass
from pathlib import Path

import pytest
import trustme


@dataclass
class Certified:
    """Files for a server at 127.0.0.1, and what makes a client believe it."""

    cert: Path
    key: Path
    other_key: Path
    client: ssl.SSLContext
    ca: Path


@pytest.fixture(scope="session")
def certified(tmp_path_factory):
    folder = tmp_path_factory.mktemp("certificates")
    authority = trustme.CA()
    issued, other = authority.issue_cert("127.0.0.1", "localhost"), authority.issue_cert("127.0.0.1")
    client = ssl.create_default_context()
    authority.configure_trust(client)
    made = Certified(
        *(folder / name for name in ("cert.pem", "key.pem", "other.pem")), client, folder / "ca.pem"
    )
    made.cert.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
    issued.private_key_pem.write_to_path(made.key)
    other.private_key_pem.write_to_path(made.other_key)
    authority.cert_pem.write_to_path(made.ca)
    return made
