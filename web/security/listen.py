"""Where the server listens, and with what: other machines can connect only with TLS and a token.

What belongs here: the address, the TLS context and the token, read from the settings and the files
they name before a socket opens. On a loopback address both are optional. With `server.tls=auto`
they are created (`pipeline.lan`).

Neighbours: `web.server.serve` listens, `web.security.auth` checks the token. What does not belong here:
pages of other origins (`web.security.origin`).
"""

import ipaddress
import os
import re
import ssl
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Self

from pipeline.config import Server
from pipeline.errors import ConfigError
from pipeline.lan.credentials import Credentials, prepare
from pipeline.system.inputs import TOKEN_FILE_BYTES, read_bytes, read_text

# What an Authorization header can carry (RFC 6750 §2.1); 16 characters cannot be guessed.
_TOKEN = re.compile(r"[A-Za-z0-9._~+/-]{16,}=*", re.ASCII)
_PIPE_BYTES = 1 << 14  # fits in a pipe on every system
_SECTION = "pipeline.server"


@dataclass(frozen=True, slots=True)
class ListenConfig:
    """The `address` to bind, with `tls` and `token` or None, and the `hosts` a Host header may name.

    credentials: certificate and token that were created here, with `server.tls=auto`.
    """

    address: str
    tls: ssl.SSLContext | None
    token: str | None = field(repr=False)
    hosts: tuple[str, ...]
    credentials: Credentials | None = None

    @classmethod
    def from_settings(cls, server: Server) -> Self:
        """Read the settings and the files they name.

        Raises:
            ConfigError: other machines could connect without TLS or a token; a file cannot be
                read; a token is malformed.
        """
        address = _address(server.host)
        if server.tls is not None:
            return cls._with_own_certificate(server, address)
        token, tls = _token(server), _tls(server.tls_cert, server.tls_key)
        missing = [what for what, found in (("TLS", tls), ("a token", token)) if found is None]
        if missing and not _is_loopback(address):
            keys = {"TLS": "server.tls_cert", "a token": "server.token_file"}
            raise ConfigError(
                f"{_SECTION}.host",
                f"{server.host} is not a loopback address; listening for other machines requires "
                f"{' and '.join(missing)}, because without them browsers block the microphone and anyone "
                f"on the network could listen in: set server.tls=auto, which creates both, or "
                f"{' and '.join(keys[what] for what in missing)}",
            )
        return cls(address, tls, token, server.allowed_hosts)

    @classmethod
    def _with_own_certificate(cls, server: Server, address: str) -> Self:
        """Use a certificate created here; the names in it are names of the server."""
        if server.tls_cert is not None or server.tls_key is not None:
            raise ConfigError(f"{_SECTION}.tls", "set either tls or tls_cert and tls_key, not both")
        token = _token(server)
        makes_token = token is None and not _is_loopback(address)
        credentials = prepare(server, address, datetime.now(UTC), token=makes_token)
        if makes_token:
            token = _token(Server(token_file=str(credentials.token_file)))
        tls = _tls(str(credentials.server_file), None)
        return cls(address, tls, token, (*server.allowed_hosts, *credentials.hosts.all()), credentials)

    @property
    def scheme(self) -> str:
        """The scheme of the server's own URLs."""
        return "http" if self.tls is None else "https"


def _address(host: str) -> str:
    """The address to bind. Source: RFC 6761 §6.3 ("localhost" is loopback)."""
    name = host.removeprefix("[").removesuffix("]")
    if name.lower() == "localhost":
        return "127.0.0.1"
    if not name:
        raise ConfigError(f"{_SECTION}.host", "the address to listen on is empty")
    return name


def _is_loopback(address: str) -> bool:
    """False for a name: DNS can point it elsewhere. Source: RFC 1122 §3.2.1.3, RFC 4291 §2.5.3."""
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False


def _token(server: Server) -> str | None:
    """The token, from the settings or the file they name; no error message contains it."""
    if server.token is not None and server.token_file is not None:
        raise ConfigError(f"{_SECTION}.token", "set either token or token_file, not both")
    key, token = "token", server.token
    if server.token_file is not None:
        key = "token_file"
        try:
            token = read_text(Path(server.token_file), TOKEN_FILE_BYTES).strip()
        except OSError as error:
            raise ConfigError(
                f"{_SECTION}.{key}", f"cannot read {server.token_file} ({error.strerror})"
            ) from None
        except ValueError:
            token = ""  # not ASCII, so not a token either
    if token is not None and _TOKEN.fullmatch(token) is None:
        raise ConfigError(
            f"{_SECTION}.{key}", "a token needs at least 16 characters, all of them letters, digits or -._~+/"
        )
    return token


@contextmanager
def _ending(*names: str) -> Iterator[list[str]]:
    """The files, or pipes with the content of what is no regular file: OpenSSL might read on and on."""
    special = {name for name in names if Path(name).exists() and not Path(name).is_file()}
    contents = {name: read_bytes(Path(name), _PIPE_BYTES) for name in special}
    with ExitStack() as stack:
        yield [_pipe(contents[name], stack) if name in special else name for name in names]


def _pipe(content: bytes, stack: ExitStack) -> str:
    reading, writing = os.pipe()
    stack.callback(os.close, reading)
    with os.fdopen(writing, "wb") as file:
        file.write(content)
    return f"/dev/fd/{reading}"


def _tls(cert: str | None, key: str | None) -> ssl.SSLContext | None:
    if cert is None:
        if key is not None:
            raise ConfigError(f"{_SECTION}.tls_cert", "tls_key is set without tls_cert")
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.set_alpn_protocols(["http/1.1"])

    def no_passphrase() -> str:
        raise ConfigError(f"{_SECTION}.tls_key", "the key is encrypted; use an unencrypted key")

    try:
        with _ending(cert, key or cert) as (cert_file, key_file):
            context.load_cert_chain(cert_file, key_file, password=no_passphrase)
    except FileNotFoundError:
        missing = [path for path in (cert, key) if path and not Path(path).exists()]
        raise ConfigError(f"{_SECTION}.tls_cert", f"no such file: {', '.join(missing)}") from None
    except OSError as error:  # ssl.SSLError is one: not PEM, or a key of another certificate
        reason = getattr(error, "reason", None) or error.strerror or "not a PEM file"
        raise ConfigError(
            f"{_SECTION}.tls_cert", f"cannot use {cert} ({reason.lower().replace('_', ' ')})"
        ) from None
    return context
