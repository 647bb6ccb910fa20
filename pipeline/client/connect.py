"""Open a WebSocket to a server, or raise an `UnreachableError` whose message is one sentence.

At an address there may be nothing, another program, a server that is not ready, or one that
never responds. Each of these is an `UnreachableError`.
"""

import json
import math
import os
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Final, Self, cast
from urllib.parse import urlsplit

import h11
import trio
from trio_websocket import ConnectionRejected, WebSocketConnection, wrap_client_stream
from wsproto.utilities import ProtocolError

from actors.runtime import awake_clock
from pipeline.errors import PeerError
from pipeline.protocol.packets import MESSAGE_BYTES

PAGE: Final = "/packet-voice"  # the paths of a server's page and of its WebSocket
SOCKET: Final = "/ws"
_WEBSOCKET: Final = {"http": "ws", "https": "wss"}
_PORTS: Final = {"ws": 80, "wss": 443}
CONNECT_S: Final = 10.0  # for the WebSocket handshake
RETRY_AFTER_MAX_S: Final = 60.0  # whatever a server says
_RETRY_AFTER_S: Final = 0.5  # where no server is there to send a Retry-After
_NO_SERVER: Final = "a proxy answers, but the server behind it does not"
_NO_LOGIN: Final = "the request was refused on its way, by a proxy that asks for a login, for example"
# By HTTP status, where the response is not one of our servers'.
_NOT_OURS: Final = {
    **dict.fromkeys((401, 403, 407), _NO_LOGIN),
    **dict.fromkeys((502, 503, 504), _NO_SERVER),
}
_QUEUED_MESSAGES: Final = 64  # between the library's reader, which then also stops answering pings, and ours


@dataclass(frozen=True, slots=True)
class Address:
    """The parts of a `ws:` or `wss:` URL; `authority` is for the Host header."""

    host: str
    port: int
    authority: str
    resource: str
    tls: bool

    @classmethod
    def of(cls, url: str) -> Self:
        """Parse a URL; a `ValueError` where it is not the address of a WebSocket.

        The address that a server prints, of itself or of its page, is that of its WebSocket: with `http`
        for `ws`, or without a scheme, and without a path or with the page's.
        """
        parts = urlsplit(url if "//" in url else f"ws://{url}")
        scheme = _WEBSOCKET.get(parts.scheme, parts.scheme)
        if scheme not in _PORTS or not parts.hostname:
            raise ValueError(f"{url!r} is not the address of a WebSocket")
        host = parts.hostname
        port = _PORTS[scheme] if parts.port is None else parts.port
        authority = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        path = parts.path.rstrip("/")
        if path.endswith(PAGE):
            path = path.removesuffix(PAGE)
            resource = f"{path}{SOCKET}"
        elif parts.scheme != scheme or "//" not in url:
            resource = path if path.endswith(SOCKET) else f"{path}{SOCKET}"
        else:
            resource = parts.path or "/"
        return cls(
            host, port, authority, resource + (f"?{parts.query}" if parts.query else ""), scheme == "wss"
        )


@dataclass(frozen=True, slots=True)
class ClientCredentials:
    """The token for the server, and the certificate authorities; `tls` None: those of the system."""

    token: str | None = field(default=None, repr=False)
    tls: ssl.SSLContext | None = None

    @property
    def headers(self) -> list[tuple[bytes, bytes]]:
        """The headers for the handshake."""
        return [] if self.token is None else [(b"Authorization", b"Bearer " + self.token.encode("ascii"))]


NO_TOKEN: Final = ClientCredentials()


class UnreachableError(PeerError):
    """There is no connection. `retry_after_s` is when to try again, None where that is of no use."""

    def __init__(self, message: str, retry_after_s: float | None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


@asynccontextmanager
async def open_websocket(
    url: str, credentials: ClientCredentials = NO_TOKEN
) -> AsyncIterator[WebSocketConnection]:
    """A WebSocket to `url` for the length of the block; at its end the socket is closed in any case.

    The closing handshake is up to the caller. What the block raises is raised unchanged.

    Raises:
        UnreachableError: no WebSocket could be opened.
        ValueError: `url` is not the address of a WebSocket.
    """
    # The library's own function leaves the socket to the garbage collector when the peer
    # closes first, and its background task running when the peer never responds.
    address = Address.of(url)
    with awake_clock.move_on_after(CONNECT_S) as connecting:
        try:
            with single_errors():
                async with await _stream(address, credentials.tls) as stream, trio.open_nursery() as nursery:
                    reader = _Reader(nursery, address.authority)
                    ws = await wrap_client_stream(
                        cast("trio.Nursery", reader),
                        stream,
                        address.authority,
                        address.resource,
                        extra_headers=credentials.headers,
                        max_message_size=MESSAGE_BYTES,
                        message_queue_size=_QUEUED_MESSAGES,
                    )
                    reader.is_open = True
                    connecting.deadline = math.inf
                    yield ws
                    nursery.cancel_scope.cancel()
        except ConnectionRejected as rejection:
            raise _rejected(url, rejection) from None
        except h11.ProtocolError:
            raise UnreachableError(f"the program at {url} does not speak HTTP", None) from None
    if connecting.cancelled_caught:
        raise UnreachableError(f"{url} did not open a WebSocket within {CONNECT_S:.0f} s", None)


class _Reader:
    """Where the library starts the task that reads.

    When the peer closes the connection during the handshake, that task ends without a word, and the library
    would wait for the handshake for ever.
    """

    def __init__(self, nursery: trio.Nursery, authority: str) -> None:
        self.is_open = False
        self._nursery = nursery
        self._authority = authority

    def start_soon(self, read: Callable[[], Awaitable[None]]) -> None:
        self._nursery.start_soon(self._run, read)

    async def _run(self, read: Callable[[], Awaitable[None]]) -> None:
        try:
            await read()
        except ProtocolError:  # the library refuses a refusal that it cannot read
            if self.is_open:
                raise
            problem = f"the program at {self._authority} does not speak HTTP"
            raise UnreachableError(problem, None) from None
        if not self.is_open:
            raise UnreachableError(f"{self._authority} closed the connection at once", _RETRY_AFTER_S)


@contextmanager
def single_errors() -> Iterator[None]:
    """Unwrap exception groups of one, as nurseries raise them."""
    try:
        yield
    except BaseExceptionGroup as group:
        raise group.exceptions[0] if len(group.exceptions) == 1 else group from None


async def _stream(
    address: Address, tls: ssl.SSLContext | None
) -> trio.SocketStream | trio.SSLStream[trio.SocketStream]:
    try:
        if not address.tls:
            return await trio.open_tcp_stream(address.host, address.port)
        stream = await trio.open_ssl_over_tcp_stream(
            address.host, address.port, https_compatible=True, ssl_context=tls
        )
        try:
            await stream.do_handshake()
        except BaseException:
            await trio.aclose_forcefully(stream)
            raise
    except trio.BrokenResourceError as error:
        problem = f"cannot connect to {address.authority}: TLS failed ({error.__cause__})"
        raise UnreachableError(problem, None) from None
    except OSError as error:
        problem = f"cannot connect to {address.authority}: {_cause(error)}"
        raise UnreachableError(problem, _RETRY_AFTER_S) from None
    return stream


def _cause(error: OSError) -> str:
    """Why there is no TCP connection, in the words of the operating system."""
    group = error.__cause__
    if isinstance(group, BaseExceptionGroup) and isinstance(group.exceptions[0], OSError):
        error = group.exceptions[0]  # one for each address tried
    if error.errno is not None and error.errno > 0:
        return os.strerror(error.errno).lower()
    return (error.strerror or str(error)).lower()  # resolver errors have numbers of their own


def _rejected(url: str, rejection: ConnectionRejected) -> UnreachableError:
    """The error in an HTTP response: our servers send `{error: {message}}` and Retry-After."""
    try:
        message = str(json.loads(rejection.body or b"")["error"]["message"])
        problem = f"the server refused: {message}"
    except (ValueError, TypeError, KeyError, RecursionError):  # not from a server of ours
        problem = _NOT_OURS.get(rejection.status_code, f"the server refused: {url} is not a WebSocket")
    problem = f"{problem} (HTTP {rejection.status_code})"
    try:
        retry_after_s = float({name.lower(): value for name, value in rejection.headers}[b"retry-after"])
    except (KeyError, ValueError):
        return UnreachableError(problem, None)
    if math.isnan(retry_after_s):
        return UnreachableError(problem, None)
    retry_after_s = min(max(retry_after_s, 0.0), RETRY_AFTER_MAX_S)
    return UnreachableError(f"{problem}; try again in {retry_after_s:g} s", retry_after_s)
