"""A wire carries bytes to one peer, in the clear or through TLS, and parts from it politely.

After the last byte it lingers: what the peer still sends is read and thrown away, for at most
`LINGER_S`. Closing a socket with unread input resets it, and the peer would lose the close frame
that tells it why (RFC 9112 §9.6).

Neighbours: `web.server.connection` decides what is said and until when. What does not belong here: HTTP.
"""

import contextlib
import socket
import ssl
import struct

import trio

from actors.sessions.transport import TransportClosedError

READ_BYTES = 2**16
LINGER_S = 1.0
_DROP_UNSENT = struct.pack("ii", 1, 0)  # SO_LINGER: on, 0 s
# How a peer says that it does not believe a certificate (RFC 8446 §6.2), in OpenSSL's names.
_DISTRUST = ("_BAD_CERTIFICATE", "_CERTIFICATE_EXPIRED", "_CERTIFICATE_UNKNOWN", "_UNKNOWN_CA")
_GONE = (trio.BrokenResourceError, trio.ClosedResourceError)


class Wire:
    """One accepted socket. One task may read while another writes."""

    def __init__(self, stream: trio.SocketStream, tls: ssl.SSLContext | None) -> None:
        self.socket = stream.socket
        self.is_agreed = False
        self.is_distrusted = False
        self._stream = stream
        # `https_compatible`: a peer that leaves without closing TLS has left all the same.
        self._tls = (
            None if tls is None else trio.SSLStream(stream, tls, server_side=True, https_compatible=True)
        )

    @property
    def is_tls(self) -> bool:
        """Whether nobody on the way can read along."""
        return self._tls is not None

    async def shake_hands(self) -> bool:
        """Agree on TLS, where it is spoken; whether the peer does.

        From then on `is_agreed`, or `is_distrusted` where the peer did not believe our certificate.
        """
        if self._tls is not None:
            try:
                await self._tls.do_handshake()
            except _GONE as gone:
                reason = gone.__cause__.reason if isinstance(gone.__cause__, ssl.SSLError) else None
                self.is_distrusted = reason is not None and reason.endswith(_DISTRUST)
                return False
        self.is_agreed = True
        return True

    async def receive(self) -> bytes:
        """What has come; nothing at the end, however it came about."""
        try:
            return bytes(await (self._tls or self._stream).receive_some(READ_BYTES))
        except _GONE:
            return b""

    async def send(self, data: bytes) -> None:
        """Write all of it; cancelled, nothing can follow.

        Raises:
            TransportClosedError: the peer is gone.
        """
        try:
            await (self._tls or self._stream).send_all(data)
        except _GONE:
            raise TransportClosedError from None

    async def part(self) -> None:
        """Say that this was all, and hear the peer out; nobody may be reading."""
        with trio.move_on_after(LINGER_S), contextlib.suppress(*_GONE):
            if self._tls is not None:
                with contextlib.suppress(*_GONE):  # data in place of its goodbye
                    await self._tls.unwrap()
            await self._stream.send_eof()
            while await self._stream.receive_some(READ_BYTES):
                pass

    def abort(self) -> None:
        """Close without waiting, and drop what the peer did not take."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _DROP_UNSENT)
        self.socket.close()

    async def close(self) -> None:
        """Close; what was written is still delivered."""
        await trio.aclose_forcefully(self._stream)
