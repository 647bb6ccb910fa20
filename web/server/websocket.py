"""A WebSocket message never outgrows its bound, and a peer always learns why it was cut off.

Hypercorn's HTTP/1.1 and WebSocket streams, with what a public port needs of them:

* a message over the bound closes with 1009 at once and is not gathered further;
* a malformed frame closes with the code that RFC 6455 §7.4.1 names for it, 1002 or 1007;
* the application hears the close code, and the fault where this end hung up; a send after that
  raises;
* no compression: float audio does not shrink, and a compressed message can grow a
  thousandfold before its size is known;
* a refused handshake ends its connection; HTTP/2 is not spoken.

Neighbours: `web.server.connection` moves the bytes, `web.server.ws_handler` reads the messages. What does not
belong here: packets, and who may connect.
"""

from dataclasses import replace
from typing import Any, cast

import h11
from hypercorn.protocol.events import Event, Request, StreamClosed
from hypercorn.protocol.h11 import STREAM_ID, H11Protocol, H11WSConnection
from hypercorn.protocol.ws_stream import ASGIWebsocketState, FrameTooLargeError, WSStream
from hypercorn.typing import ASGISendEvent, WebsocketDisconnectEvent
from wsproto.connection import ConnectionState
from wsproto.events import BytesMessage, CloseConnection, Ping, TextMessage
from wsproto.frame_protocol import CloseReason

from actors.sessions.transport import TransportClosedError
from pipeline.protocol.faults import Fault

# A peer that parts says so, or says nothing but does close (RFC 6455 §7.4.1); anything else is a loss.
_PARTED = (CloseReason.NORMAL_CLOSURE, CloseReason.GOING_AWAY, CloseReason.NO_STATUS_RCVD)


def closed_by(code: int) -> TransportClosedError:
    """What a close with this code means to a session."""
    return TransportClosedError(parted=code in _PARTED)


class WebSocketStream(WSStream):
    """One upgraded connection, between ASGI messages and frames."""

    _code = int(CloseReason.ABNORMAL_CLOSURE)
    _fault: Fault | None = None  # why this end hung up; None where the peer did

    async def handle(self, event: Event) -> None:
        """Take one event of the connection; the end reaches the application exactly once."""
        if isinstance(event, Request):
            await super().handle(replace(event, headers=_without_extensions(event.headers)))
        elif isinstance(event, StreamClosed):
            if not self.closed:
                self.closed = True
                if self.app_put is not None:
                    await self.app_put(_disconnect(self._code, self._fault))
        else:
            await super().handle(event)

    async def app_send(self, message: ASGISendEvent | None) -> None:
        """Send what the application says; `TransportClosedError` where nobody can hear a message."""
        if message is None and not self.closed and self.state is ASGIWebsocketState.CONNECTED:
            # The application ended without a close: it was cancelled, or it broke.
            going = self.context.terminated.is_set()
            code = CloseReason.GOING_AWAY if going else CloseReason.INTERNAL_ERROR
            await self._send_wsproto_event(CloseConnection(code=code))
            await self.send(StreamClosed(stream_id=self.stream_id))
        elif message is not None and message["type"] == "websocket.send" and self.closed:
            raise closed_by(self._code)
        else:
            await super().app_send(message)

    async def _handle_events(self) -> None:
        for event in self.connection.events():
            if isinstance(event, BytesMessage | TextMessage):
                if self.connection.state is ConnectionState.OPEN:
                    await self._gather(event)
            elif isinstance(event, Ping):
                await self._send_wsproto_event(event.response())
            elif isinstance(event, CloseConnection):
                malformed = self.connection.state is ConnectionState.OPEN
                await self._hang_up(event, Fault.BAD_FRAME if malformed else None)
            if self.closed:
                return

    async def _gather(self, event: BytesMessage | TextMessage) -> None:
        try:
            self.buffer.extend(event)
        except FrameTooLargeError:
            await self._hang_up(CloseConnection(code=CloseReason.MESSAGE_TOO_BIG), Fault.TOO_BIG)
            return
        if event.message_finished:
            await self._deliver(self.buffer.to_message())
            self.buffer.clear()

    async def _deliver(self, message: dict[str, Any]) -> None:
        assert self.app_put is not None  # frames follow an accepted handshake
        await self.app_put(message)

    async def _hang_up(self, close: CloseConnection, fault: Fault | None) -> None:
        """Answer the peer's close, or close for the `fault` in its frames."""
        self._code, self._fault = int(close.code), fault
        await self._send_wsproto_event(CloseConnection(code=close.code, reason=close.reason))
        await self.send(StreamClosed(stream_id=self.stream_id))

    async def _send_error_response(self, status_code: int) -> None:
        await super()._send_error_response(status_code)
        await self.send(StreamClosed(stream_id=self.stream_id))


class Http11Protocol(H11Protocol):
    """Requests one after another, and WebSockets that are `WebSocketStream`s."""

    async def _check_protocol(self, event: h11.Request) -> None:
        """Every request is HTTP/1.1: an offer to speak HTTP/2 may be ignored (RFC 9110 §7.8)."""

    async def _create_stream(self, request: h11.Request) -> None:
        if not _asks_for_websocket(request):
            await super()._create_stream(request)
            return
        self.stream = WebSocketStream(
            self.app,
            self.config,
            self.context,
            self.task_group,
            self.ssl,
            self.client,
            self.server,
            self.stream_send,
            STREAM_ID,
        )
        self.connection = H11WSConnection(cast("h11.Connection", self.connection))
        await self.stream.handle(
            Request(
                stream_id=STREAM_ID,
                headers=list(request.headers),
                http_version=request.http_version.decode(),
                method=request.method.decode("ascii"),
                raw_path=request.target,
                state=self.connection_state,
            )
        )


def _asks_for_websocket(request: h11.Request) -> bool:
    """Whether this is the opening handshake of RFC 6455 §4.1, well formed or not."""
    upgrades = [value.strip().lower() for name, value in request.headers if name == b"upgrade"]
    options = b",".join(value for name, value in request.headers if name == b"connection").lower()
    return (
        request.method == b"GET"
        and upgrades == [b"websocket"]
        and b"upgrade" in (option.strip() for option in options.split(b","))
    )


def _disconnect(code: int, fault: Fault | None) -> WebsocketDisconnectEvent:
    """The event with its `reason`, which ASGI has had since 2.5 and Hypercorn's type has not."""
    event = {"type": "websocket.disconnect", "code": code, "reason": fault}
    return cast("WebsocketDisconnectEvent", event)


def _without_extensions(headers: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    return [(name, value) for name, value in headers if name != b"sec-websocket-extensions"]
