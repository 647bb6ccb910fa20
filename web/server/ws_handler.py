"""The handler of WebSockets, whatever their dialect: one session, on Quart's WebSocket as its `Transport`.

A session receives every message of its connection in order, and the disconnect last. Quart-Trio
itself delivers an empty binary message as None, and cancels the handler when the peer disconnects,
with messages still unread; here an empty message stays one, and the disconnect is queued after the
messages before it.

Neighbours: `web.app` checks access; `web.server.websocket` enforces the rules of frames. What does not
belong here: packets (`pipeline.protocol`).
"""

import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast

import trio
from hypercorn.typing import ASGIReceiveCallable
from quart import Response, Websocket
from quart_trio.asgi import TrioASGIWebsocketConnection

from actors.engine import Engine
from actors.sessions.transport import TransportClosedError
from pipeline.errors import SessionRefusedError
from pipeline.protocol import outgoing
from pipeline.protocol.close_reason import CloseReason
from pipeline.protocol.dialect import ConnectionParameters, Dialect
from pipeline.protocol.faults import Fault, RemoteProtocolError
from pipeline.protocol.metadata import ErrorNotice
from pipeline.protocol.packet_dialect import PacketDialect
from web.responses import session_refused
from web.security.throttled_log import ThrottledLog
from web.server.websocket import WEBSOCKET, WebSocketStream, closed_by, fault_error

# RFC 6455 §7.4.1; 1012 to 1014 are in IANA's registry; 4000 and above are private.
CLOSE_CODES: Mapping[CloseReason, int] = {
    CloseReason.NORMAL: 1000,
    CloseReason.GOING_AWAY: 1001,
    CloseReason.PROTOCOL_ERROR: 1002,
    CloseReason.UNSUPPORTED_DATA: 1003,
    CloseReason.POLICY_VIOLATION: 1008,
    CloseReason.TOO_BIG: 1009,
    CloseReason.INTERNAL_ERROR: 1011,
    CloseReason.TRY_AGAIN_LATER: 1013,
    CloseReason.REPLACED: 4001,
}
_NO_WAIT = re.compile(r"(^|[,;\s])wait=0($|[,;\s])", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Disconnected:
    """The end of a connection, queued after its last message; `error` is what the session gets."""

    error: TransportClosedError | RemoteProtocolError


Incoming = bytes | str | Disconnected


class OrderedWebsocketConnection(TrioASGIWebsocketConnection):
    """Quart-Trio's connection, with the disconnect after the last message instead of before it."""

    send_channel: trio.MemorySendChannel[Incoming]

    async def handle_messages(  # type: ignore[override]  # so in Quart-Trio, of Quart
        self,
        nursery: trio.Nursery,  # noqa: ARG002 - Quart-Trio cancels it at the disconnect; this does not
        receive: ASGIReceiveCallable,
    ) -> None:
        """Queue messages for the session until the peer disconnects; then queue that, and close."""
        async with self.send_channel:
            while (event := await receive())["type"] != "websocket.disconnect":
                if event["type"] == "websocket.receive":
                    await self.send_channel.send(_incoming(cast("Mapping[str, Any]", event)))
            fault = cast("Mapping[str, Fault | None]", event)["reason"]
            error = closed_by(event["code"]) if fault is None else fault_error(fault)
            await self.send_channel.send(Disconnected(error))


def _incoming(event: Mapping[str, Any]) -> Incoming:
    """A message, or the fault for which the session has to close the connection itself."""
    if (fault := event.get("fault")) is not None:
        return Disconnected(fault_error(fault))
    data: bytes | None = event["bytes"]
    return event["text"] or "" if data is None else data


async def handle_websocket(
    engine: Engine,
    websocket: Websocket,
    refusals: ThrottledLog,
    speak: Callable[[ConnectionParameters], Dialect] = PacketDialect,
    *,
    resume: str | None = None,
) -> Response | None:
    """Admit or resume a session, upgrade, and run it; returns a response where there was no upgrade.

    A browser cannot read the response to a refused upgrade, so a page (it sends an Origin) is
    upgraded, sent the error, and closed with 1013. A load balancer that would rather try another
    server sends `Prefer: wait=0` (RFC 7240 §4.3) and gets the response, page or not.

    `speak` makes the dialect of the connection; `resume` is the token of the session to resume.
    """
    transport = WebSocketTransport(websocket)
    no_wait = _NO_WAIT.search(websocket.headers.get("Prefer", "")) is not None
    try:
        reservation = engine.admit(resume, may_wait=not no_wait)
    except SessionRefusedError as refusal:
        refusals.warning("session_refused", reason=refusal.code, peer=transport.peer)
        if no_wait or "Origin" not in websocket.headers:
            return session_refused(refusal)
        await websocket.accept()
        await _send_refusal(transport, refusal, speak(engine.connection_parameters()))
        return None
    with reservation:
        await websocket.accept()
        try:
            await engine.serve(transport, reservation, speak)
        except Exception:
            await transport.close(CloseReason.INTERNAL_ERROR)
            raise
    return None


async def _send_refusal(
    transport: "WebSocketTransport", refusal: SessionRefusedError, dialect: Dialect
) -> None:
    notice = outgoing.metadata(ErrorNotice(refusal.code, str(refusal), refusal.retry_after_ms))
    for message in dialect.messages(notice, timestamp_ms=time.time() * 1000):
        await transport.send(message)
    await transport.close(CloseReason.TRY_AGAIN_LATER)


class WebSocketTransport:
    """One accepted WebSocket, as the `Transport` of `actors`."""

    def __init__(self, websocket: Websocket) -> None:
        self._websocket = websocket
        self._stream: WebSocketStream = websocket.scope["state"][WEBSOCKET]
        self._closed = False
        self.peer = _address(websocket)

    @property
    def received_s(self) -> float:
        """When a frame came last from the peer, a pong included."""
        return self._stream.received_s

    def charge(self, processor_s: float) -> None:
        """Charge the client's budget with time that a thread has spent for it."""
        self._stream.charge(processor_s)

    async def ping(self) -> None:
        """Send a ping frame, which every client has to answer (RFC 6455 §5.5.2).

        Raises:
            TransportClosedError: the peer closed, or is lost.
            SlowPeerError: it does not read.
        """
        await self._stream.ping()

    async def receive(self) -> bytes | str:
        """The next message.

        Raises:
            TransportClosedError: after the last one; whether the peer closed on purpose or was lost.
            RemoteProtocolError: it was malformed or over the size limit; the connection is closed.
        """
        try:
            message: object = await self._websocket.receive()
        except trio.EndOfChannel:
            raise TransportClosedError from None
        if isinstance(message, Disconnected):
            raise message.error
        assert isinstance(message, bytes | str)
        return message

    async def send(self, message: bytes | str) -> None:
        """Write one message; the deadline is the connection's (`web.server.connection`).

        Raises:
            TransportClosedError: the peer closed, or is lost.
            SlowPeerError: it does not read.
        """
        if self._closed:
            raise TransportClosedError
        await self._websocket.send(message)

    async def close(self, close_reason: CloseReason) -> None:
        """Close with the code of `close_reason`; does nothing where the connection is closed already."""
        if self._closed:
            return
        self._closed = True
        try:
            await self._websocket.close(CLOSE_CODES[close_reason], close_reason.value)
        except TransportClosedError:
            await trio.lowlevel.checkpoint()


def _address(websocket: Websocket) -> str:
    """`host:port` of the client; the port distinguishes two clients on one machine."""
    host, port = cast("tuple[str, int]", websocket.scope["client"])[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
