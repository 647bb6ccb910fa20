"""The certificates and token of a server for other devices: created once, renewed when necessary.

They are in one folder: `authority.pem` (the authority with its key), `authority.crt` (without the key, for
clients to trust), `server.pem` (certificate and key), `token`, and `port` of the server that started last.
Only fingerprints and paths are logged.
"""

import contextlib
import secrets
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

from pipeline.config import Server
from pipeline.errors import ConfigError
from pipeline.install import paths
from pipeline.lan import private_files
from pipeline.lan.addresses import Hosts
from pipeline.lan.authority import Identity, can_sign, covers, issue, make_authority

TOKEN_BYTES: Final = 16  # 128 bits: safe at ten guesses a minute, and short enough for a small QR code


@dataclass(frozen=True, slots=True)
class Credentials:
    """The files and their public facts. `made`: which of them were created just now."""

    folder: Path
    hosts: Hosts
    fingerprint: str
    authority_fingerprint: str
    expires: datetime
    made: tuple[str, ...]

    @property
    def server_file(self) -> Path:
        """The server's certificate and key, PEM."""
        return self.folder / "server.pem"

    @property
    def authority_file(self) -> Path:
        """The authority's certificate, which clients can trust, PEM."""
        return self.folder / "authority.crt"

    @property
    def token_file(self) -> Path:
        """The token that clients must present unless another one is configured."""
        return self.folder / "token"

    def note_port(self, port: int) -> None:
        """Leave word of where the server listens; what cannot be written is done without."""
        with contextlib.suppress(OSError):
            private_files.write(self.folder / "port", str(port).encode())

    def noted_port(self) -> int | None:
        """Where the last server with these credentials listened."""
        try:
            port = int(private_files.read(self.folder / "port") or b"")
        except (OSError, ValueError):
            return None
        return port if 0 < port < 1 << 16 else None


def prepare(server: Server, address: str, now: datetime, *, token: bool) -> Credentials:
    """Read or create the credentials of a server bound to `address`, with a token if `token`.

    Raises:
        ConfigError: the folder cannot be used.
    """
    folder = Path(server.tls_folder) if server.tls_folder else paths.data_folder() / "lan"
    try:
        with private_files.locked_folder(folder):
            return _prepare(folder, Hosts.of(address), now, token=token)
    except OSError as error:
        raise ConfigError(
            "pipeline.server.tls_folder", f"cannot store certificates in {folder} ({error.strerror})"
        ) from None


def _prepare(folder: Path, hosts: Hosts, now: datetime, *, token: bool) -> Credentials:
    made = []
    authority = _read_identity(folder / "authority.pem")
    if authority is None or not authority.is_current(now) or not can_sign(authority, hosts):
        authority = make_authority(hosts, now)
        private_files.write(folder / "authority.pem", authority.pem())
        made.append("authority")
    if private_files.read(folder / "authority.crt", public=True) != authority.public_pem():
        private_files.write(folder / "authority.crt", authority.public_pem(), public=True)
    identity = _read_identity(folder / "server.pem")
    if identity is None or not identity.is_current(now) or not covers(identity, authority, hosts):
        identity = issue(authority, hosts, now)
        private_files.write(folder / "server.pem", identity.pem())
        made.append("certificate")
    if token and not private_files.read(folder / "token"):
        private_files.write(folder / "token", f"{secrets.token_urlsafe(TOKEN_BYTES)}\n".encode())
        made.append("token")
    expires = identity.certificate.not_valid_after_utc
    return Credentials(folder, hosts, identity.fingerprint, authority.fingerprint, expires, tuple(made))


def _read_identity(path: Path) -> Identity | None:
    """The identity in a file; None if there is no file or it cannot be used."""
    pem = private_files.read(path)
    if pem is None:
        return None
    try:
        return Identity.read(pem)
    except ValueError:
        return None
