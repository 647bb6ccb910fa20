"""Hypercorn's HTTP/1.1 and WebSocket streams, with what a public port needs of them.

* A message over the size limit closes with 1009 at once and is not buffered further.
* A malformed frame closes with the code that RFC 6455 §7.4.1 names for it, 1002 or 1007.
* The application receives the close code, and the fault where this end closed; a send after that
  raises.
* No compression: float audio does not shrink, and a compressed message can grow a thousandfold
  before its size is known.
* A refused handshake ends its connection; HTTP/2 is not supported.

They override private methods because Hypercorn has no setting for any of this: after a message that
is too big it continues to read, a malformed frame is not answered, and the application receives 1006
whatever the reason. Its version is pinned to a minor release in pyproject.toml for this reason.

Neighbours: `web.server.connection` moves the bytes, `web.server.ws_handler` reads the messages. What does
not belong here: packets, and access control.
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

# Codes of a deliberate close (RFC 6455 §7.4.1); with any other the peer is lost, and may resume.
_DELIBERATE = (CloseReason.NORMAL_CLOSURE, CloseReason.GOING_AWAY, CloseReason.NO_STATUS_RCVD)


def closed_by(code: int) -> TransportClosedError:
    """The error that a session gets for a close with this code."""
    return TransportClosedError(deliberate=code in _DELIBERATE)


class WebSocketStream(WSStream):
    """One upgraded connection: translates between ASGI messages and frames."""

    _code = int(CloseReason.ABNORMAL_CLOSURE)
    _fault: Fault | None = None  # why this end closed; None where the peer did

    async def handle(self, event: Event) -> None:
        """Handle one event of the connection; the application is sent exactly one disconnect."""
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
        """Send the application's message; raises `TransportClosedError` where the connection is closed."""
        if message is None and not self.closed and self.state is ASGIWebsocketState.CONNECTED:
            # The application ended without a close: it was cancelled, or it failed.
            shutting_down = self.context.terminated.is_set()
            code = CloseReason.GOING_AWAY if shutting_down else CloseReason.INTERNAL_ERROR
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
                    await self._buffer_message(event)
            elif isinstance(event, Ping):
                await self._send_wsproto_event(event.response())
            elif isinstance(event, CloseConnection):
                malformed = self.connection.state is ConnectionState.OPEN
                await self._close(event, Fault.BAD_FRAME if malformed else None)
            if self.closed:
                return

    async def _buffer_message(self, event: BytesMessage | TextMessage) -> None:
        try:
            self.buffer.extend(event)
        except FrameTooLargeError:
            await self._close(CloseConnection(code=CloseReason.MESSAGE_TOO_BIG), Fault.TOO_BIG)
            return
        if event.message_finished:
            await self._send_to_app(self.buffer.to_message())
            self.buffer.clear()

    async def _send_to_app(self, message: dict[str, Any]) -> None:
        assert self.app_put is not None  # frames follow an accepted handshake
        await self.app_put(message)

    async def _close(self, close: CloseConnection, fault: Fault | None) -> None:
        """Reply to the peer's close, or close because of the `fault` in its frames."""
        self._code, self._fault = int(close.code), fault
        await self._send_wsproto_event(CloseConnection(code=close.code, reason=close.reason))
        await self.send(StreamClosed(stream_id=self.stream_id))

    async def _send_error_response(self, status_code: int) -> None:
        await super()._send_error_response(status_code)
        await self.send(StreamClosed(stream_id=self.stream_id))


class Http11Protocol(H11Protocol):
    """Requests one after another; upgrades become `WebSocketStream`s."""

    async def _check_protocol(self, event: h11.Request) -> None:
        """Ignore offers of HTTP/2, which RFC 9110 §7.8 allows: every request is HTTP/1.1."""

    async def _create_stream(self, request: h11.Request) -> None:
        if not _is_websocket_upgrade(request):
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


def _is_websocket_upgrade(request: h11.Request) -> bool:
    """Whether this is the opening handshake of RFC 6455 §4.1, well formed or not."""
    upgrades = [value.strip().lower() for name, value in request.headers if name == b"upgrade"]
    options = b",".join(value for name, value in request.headers if name == b"connection").lower()
    return (
        request.method == b"GET"
        and upgrades == [b"websocket"]
        and b"upgrade" in (option.strip() for option in options.split(b","))
    )


def _disconnect(code: int, fault: Fault | None) -> WebsocketDisconnectEvent:
    """The event with `reason`, which ASGI 2.5 added and Hypercorn's type lacks."""
    event = {"type": "websocket.disconnect", "code": code, "reason": fault}
    return cast("WebsocketDisconnectEvent", event)


def _without_extensions(headers: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    return [(name, value) for name, value in headers if name != b"sec-websocket-extensions"]
