"""One accepted socket, plain or TLS, with a graceful close.

After the last byte the stream lingers: it reads and discards what the peer still sends, for at most
`LINGER_S`. Closing a socket with unread input resets it, and the peer would lose the close frame
with the reason (RFC 9112 §9.6).

Neighbours: `web.server.connection` decides what is sent and until when. What does not belong here: HTTP.
"""

import contextlib
import socket
import ssl
import struct
from collections.abc import Awaitable, Callable

import trio

from actors.sessions.transport import TransportClosedError

READ_BYTES = 2**16
LINGER_S = 1.0
_DROP_UNSENT = struct.pack("ii", 1, 0)  # SO_LINGER: on, 0 s
# The TLS alerts of a peer that rejects our certificate (RFC 8446 §6.2), as OpenSSL names them.
_DISTRUST = ("_BAD_CERTIFICATE", "_CERTIFICATE_EXPIRED", "_CERTIFICATE_UNKNOWN", "_UNKNOWN_CA")
_GONE = (trio.BrokenResourceError, trio.ClosedResourceError)


class SocketStream:
    """A byte stream over one accepted socket; one task may read while another writes.

    Attributes:
        before_read: awaited before each read of the socket, also within TLS.
        is_broken: the connection was reset, rather than ended by the peer.
    """

    before_read: Callable[[], Awaitable[None]] = staticmethod(trio.lowlevel.checkpoint)

    def __init__(self, stream: trio.SocketStream, tls: ssl.SSLContext | None) -> None:
        self.socket = stream.socket
        self.handshake_done = False
        self.left_silently = False
        self.certificate_rejected = False
        self.is_plain_http = False
        self.is_broken = False
        self._stream = stream
        self._paced = _PacedStream(self, stream)
        # `https_compatible`: end of file without a TLS close is an end of file.
        self._tls = (
            None if tls is None else trio.SSLStream(self._paced, tls, server_side=True, https_compatible=True)
        )

    @property
    def is_tls(self) -> bool:
        """Whether the stream is encrypted."""
        return self._tls is not None

    async def do_handshake(self) -> bool:
        """Complete the TLS handshake, if there is TLS; whether it succeeded.

        Sets `handshake_done`, `certificate_rejected` where the peer rejected our certificate,
        `left_silently` where it only connected, as health probes do, or `is_plain_http` where it began
        as an HTTP request does; what is sent to it then is not encrypted.
        """
        if self._tls is not None:
            try:
                first = await self.socket.recv(1, socket.MSG_PEEK)
            except OSError:
                first = b""
            if not first:
                self.left_silently = True
                return False
            if first.isalpha():  # of a method; a TLS record begins with its type, 22
                self.is_plain_http = True
                self._tls = None
                return False
            try:
                await self._tls.do_handshake()
            except _GONE as gone:
                reason = gone.__cause__.reason if isinstance(gone.__cause__, ssl.SSLError) else None
                self.certificate_rejected = reason is not None and reason.endswith(_DISTRUST)
                return False
        self.handshake_done = True
        return True

    async def receive_some(self) -> bytes:
        """The bytes that have arrived; empty at the end of the stream, whatever ended it."""
        try:
            return bytes(await (self._tls or self._paced).receive_some(READ_BYTES))
        except _GONE:
            self.is_broken = True
            return b""

    async def send_all(self, data: bytes) -> None:
        """Write all of `data`; after a cancellation nothing more can be written.

        Raises:
            TransportClosedError: the peer is gone.
        """
        try:
            await (self._tls or self._paced).send_all(data)
        except _GONE:
            raise TransportClosedError from None

    async def close_gracefully(self) -> None:
        """Send end of stream, then discard input for up to `LINGER_S`; no other task may be reading."""
        with trio.move_on_after(LINGER_S), contextlib.suppress(*_GONE):
            if self._tls is not None:
                with contextlib.suppress(*_GONE):  # data instead of its close_notify
                    await self._tls.unwrap()
            await self._stream.send_eof()
            while await self._stream.receive_some(READ_BYTES):
                pass

    def abort(self) -> None:
        """Close without waiting; unsent data is discarded."""
        abort(self.socket)

    async def aclose(self) -> None:
        """Close; what was written is still delivered."""
        await trio.aclose_forcefully(self._stream)


def abort(sock: socket.socket | trio.socket.SocketType) -> None:
    """Close a socket without waiting; unsent data is discarded."""
    with contextlib.suppress(OSError):  # macOS refuses it where the peer has reset the connection
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _DROP_UNSENT)
    sock.close()


class _PacedStream(trio.abc.Stream):
    """The socket below TLS, whose reads may have to wait for their turn."""

    def __init__(self, owner: SocketStream, stream: trio.SocketStream) -> None:
        self._owner = owner
        self._stream = stream

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        await self._owner.before_read()
        return await self._stream.receive_some(max_bytes)

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self._stream.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self._stream.wait_send_all_might_not_block()

    async def aclose(self) -> None:
        await self._stream.aclose()
