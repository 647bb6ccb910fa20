"""What a server needs to let other machines in, made once and renewed when it no longer fits.

In one folder: `authority.pem` (the authority, with its key), `authority.crt` (without: this is what
clients trust), `server.pem` (certificate and key) and `token`. Nothing here is logged but
fingerprints and paths.
"""

import secrets
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

import platformdirs

from pipeline.config import Server
from pipeline.errors import ConfigError
from pipeline.lan import private_files
from pipeline.lan.addresses import Reach
from pipeline.lan.authority import Identity, issue, make_authority, may_sign, speaks_for

TOKEN_BYTES: Final = 16  # 128 bits, of which ten guesses a minute find none; a short link, a small QR code


@dataclass(frozen=True, slots=True)
class Credentials:
    """Where the files are, and what may be told of them. `made`: those that are new."""

    folder: Path
    reach: Reach
    fingerprint: str
    authority_fingerprint: str
    expires: datetime
    made: tuple[str, ...]

    @property
    def server_file(self) -> Path:
        """Certificate and key of the server, PEM."""
        return self.folder / "server.pem"

    @property
    def authority_file(self) -> Path:
        """The certificate that clients may trust, PEM."""
        return self.folder / "authority.crt"

    @property
    def token_file(self) -> Path:
        """What clients must show, if nothing else was said."""
        return self.folder / "token"


def prepare(server: Server, address: str, now: datetime, *, token: bool) -> Credentials:
    """The credentials of a server bound to `address`; a token of its own if `token`.

    Raises:
        ConfigError: the folder cannot be used.
    """
    folder = (
        Path(server.tls_folder) if server.tls_folder else platformdirs.user_data_path("packet-voice") / "lan"
    )
    try:
        with private_files.kept_in(folder):
            return _prepared(folder, Reach.of(address), now, token=token)
    except OSError as error:
        raise ConfigError(
            "pipeline.server.tls_folder", f"cannot keep a certificate in {folder} ({error.strerror})"
        ) from None


def _prepared(folder: Path, reach: Reach, now: datetime, *, token: bool) -> Credentials:
    made = []
    authority = _kept(folder / "authority.pem")
    if authority is None or not authority.lasts(now) or not may_sign(authority, reach):
        authority = make_authority(reach, now)
        private_files.write(folder / "authority.pem", authority.pem())
        made.append("authority")
    if private_files.read(folder / "authority.crt", public=True) != authority.public_pem():
        private_files.write(folder / "authority.crt", authority.public_pem(), public=True)
    identity = _kept(folder / "server.pem")
    if identity is None or not identity.lasts(now) or not speaks_for(identity, authority, reach):
        identity = issue(authority, reach, now)
        private_files.write(folder / "server.pem", identity.pem())
        made.append("certificate")
    if token and not private_files.read(folder / "token"):
        private_files.write(folder / "token", f"{secrets.token_urlsafe(TOKEN_BYTES)}\n".encode())
        made.append("token")
    expires = identity.certificate.not_valid_after_utc
    return Credentials(folder, reach, identity.fingerprint, authority.fingerprint, expires, tuple(made))


def _kept(path: Path) -> Identity | None:
    """What is there; None where nothing is, or nothing that can be used."""
    pem = private_files.read(path)
    if pem is None:
        return None
    try:
        return Identity.read(pem)
    except ValueError:
        return None
