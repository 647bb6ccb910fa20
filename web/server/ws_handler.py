"""A session hears its whole connection, in order, and the end of it as the last thing.

Quart's WebSocket as the `Transport` of `actors`: messages in and out, close codes for
farewells. Quart-Trio delivers an empty binary message as None and cancels the handler when
its peer goes, with whatever is still unread; here an empty message stays one, and the end
waits its turn behind what came before it.

Neighbours: `web.app` accepts and admits; `web.server.websocket` holds the frames to their rules. What does
not belong here: packets, which are `pipeline.protocol`'s.
"""

import re
import time
from collections.abc import Mapping
from typing import Any, cast

import trio
from hypercorn.typing import ASGIReceiveCallable
from quart import Response, Websocket
from quart_trio.asgi import TrioASGIWebsocketConnection

from actors.engine import Line
from actors.sessions.transport import TransportClosedError
from pipeline.config import Settings
from pipeline.errors import RefusedError
from pipeline.protocol import outgoing
from pipeline.protocol.close_reason import Farewell
from pipeline.protocol.conversation import Conversation
from pipeline.protocol.faults import Fault, RemoteProtocolError
from pipeline.protocol.metadata import ErrorNotice
from web.responses import refused
from web.server.websocket import closed_by

# RFC 6455 §7.4.1; 1012 to 1014 are in IANA's registry; 4000 and above are private.
CLOSE_CODES: Mapping[Farewell, int] = {
    Farewell.NORMAL: 1000,
    Farewell.GOING_AWAY: 1001,
    Farewell.PROTOCOL_ERROR: 1002,
    Farewell.UNSUPPORTED_DATA: 1003,
    Farewell.TOO_BIG: 1009,
    Farewell.INTERNAL_ERROR: 1011,
    Farewell.TRY_AGAIN_LATER: 1013,
    Farewell.REPLACED: 4001,
}
_NO_WAIT = re.compile(r"(^|[,;\s])wait=0($|[,;\s])", re.IGNORECASE)
_SENTENCES: Mapping[Fault, str] = {
    Fault.TOO_BIG: "a message was over the size limit",
    Fault.BAD_FRAME: "what came is no WebSocket frame",
}


class OrderedWebsocketConnection(TrioASGIWebsocketConnection):
    """What Quart-Trio makes of one connection, ending after its last message instead of in front of it."""

    async def handle_messages(  # type: ignore[override]  # so in Quart-Trio, of Quart
        self,
        nursery: trio.Nursery,  # noqa: ARG002 -- cancelling it is what this does without
        receive: ASGIReceiveCallable,
    ) -> None:
        """Pass messages on until the peer is gone; then end what the session reads from."""
        async with self.send_channel:
            while (event := await receive())["type"] != "websocket.disconnect":
                if event["type"] == "websocket.receive":
                    data = event["bytes"]
                    await self.send_channel.send(event["text"] or "" if data is None else data)
            fault = cast("Mapping[str, Fault | None]", event)["reason"]
            end = closed_by(event["code"]) if fault is None else RemoteProtocolError(fault, _SENTENCES[fault])
            await self.send_channel.send(cast("Any", end))


async def converse(line: Line, settings: Settings, websocket: Websocket) -> Response | None:
    """Admit or resume, upgrade, hold one session; an answer is returned only where there was no upgrade.

    A browser cannot read the answer to an upgrade that was refused, so a page (it sends an
    Origin) is upgraded, told, and closed with 1013. A balancer that would rather ask another
    server says so by `Prefer: wait=0` (RFC 7240 §4.3), and is refused whoever it speaks for.
    """
    transport = WebSocketTransport(websocket)
    is_impatient = _NO_WAIT.search(websocket.headers.get("Prefer", "")) is not None
    try:
        ticket = line.admit(websocket.args.get("resume"), may_wait=not is_impatient)
    except RefusedError as refusal:
        if is_impatient or "Origin" not in websocket.headers:
            return refused(refusal)
        await websocket.accept()
        await _tell_refusal(transport, refusal, settings)
        return None
    with ticket:
        await websocket.accept()
        try:
            await line.converse(transport, ticket)
        except Exception:
            await transport.close(Farewell.INTERNAL_ERROR)
            raise
    return None


async def _tell_refusal(transport: "WebSocketTransport", refusal: RefusedError, settings: Settings) -> None:
    conversation = Conversation(
        "server",
        heartbeat_every_s=settings.heartbeat.every_s,
        heartbeat_timeout_s=settings.heartbeat.timeout_s,
        now_s=trio.current_time(),
    )
    notice = ErrorNotice(refusal.code, str(refusal), refusal.retry_after_ms)
    await transport.send(conversation.number(outgoing.metadata(notice), timestamp_ms=time.time() * 1000))
    await transport.close(Farewell.TRY_AGAIN_LATER)


class WebSocketTransport:
    """One accepted WebSocket, as the actors know it."""

    def __init__(self, websocket: Websocket) -> None:
        self._websocket = websocket
        self._closed = False
        self.peer = _address(websocket)

    async def receive(self) -> bytes | str:
        """The next message.

        Raises:
            TransportClosedError: after the last one; it says whether the peer parted or was lost.
            RemoteProtocolError: it was malformed or over the size limit; the peer was told, and is gone.
        """
        try:
            message: object = await self._websocket.receive()
        except trio.EndOfChannel:
            raise TransportClosedError from None
        if isinstance(message, RemoteProtocolError | TransportClosedError):
            raise message
        assert isinstance(message, bytes | str)
        return message

    async def send(self, message: bytes) -> None:
        """Write one message; the deadline is the connection's (`web.server.connection`).

        Raises:
            TransportClosedError: the peer closed, or is lost.
            SlowPeerError: it does not read.
        """
        if self._closed:
            raise TransportClosedError
        await self._websocket.send(message)

    async def close(self, farewell: Farewell) -> None:
        """Say why, and end; where nobody is left to hear it, nothing happens."""
        if self._closed:
            return
        self._closed = True
        try:
            await self._websocket.close(CLOSE_CODES[farewell], farewell.value)
        except TransportClosedError:
            await trio.lowlevel.checkpoint()


def _address(websocket: Websocket) -> str:
    """`host:port` of the other end; the port tells two clients on one machine apart."""
    host, port = cast("tuple[str, int]", websocket.scope["client"])[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
