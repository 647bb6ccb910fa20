"""Hypercorn's WebSocket stream, with what a public port needs of it.

* A message over the size limit closes with 1009 at once and is not buffered further.
* A malformed frame closes with the code that RFC 6455 §7.4.1 names for it, 1002 or 1007.
* The application receives the close code, and the fault where this end closed; a send after that
  raises.
* No compression: float audio does not shrink, and a compressed message can grow a thousandfold
  before its size is known.
* Frames before the handshake is accepted are closed with 1002 once it is, unread.
* A refused handshake ends its connection.
* The application can ping its peer, and ask when the last frame came: `WEBSOCKET` in the scope's state.
* Frames are counted, and handled in fair turns (`web.server.work_budget`). A client that does not stop
  is reported to the application, which closes with 1008.
* What the library cannot parse is answered with 1002, and logged as one line.

It overrides private methods because Hypercorn has no setting for any of this: after a message that
is too big it continues to read, a malformed frame is not answered, and the application receives 1006
whatever the reason. Its version is pinned to a minor release in pyproject.toml for this reason.

Neighbours: `web.server.http11` upgrades connections, `web.server.ws_handler` reads the messages. What does
not belong here: packets, and access control.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final, NoReturn, cast

import trio
from hypercorn.protocol.events import Body, Data, Event, Request, StreamClosed
from hypercorn.protocol.ws_stream import ASGIWebsocketState, FrameTooLargeError, WSStream
from hypercorn.typing import ASGISendEvent, WebsocketAcceptEvent, WebsocketDisconnectEvent
from wsproto.connection import ConnectionState
from wsproto.events import BytesMessage, CloseConnection, Ping, TextMessage
from wsproto.frame_protocol import CloseReason

from actors.runtime.awake_clock import awake_time
from actors.sessions.transport import TransportClosedError
from pipeline.protocol.faults import Fault, RemoteProtocolError
from web.server.work_budget import ConnectionWork

WEBSOCKET: Final = "websocket"  # key in the `state` of an ASGI scope: the connection's `WebSocketStream`
_FAULTS: Mapping[Fault, str] = {
    Fault.TOO_BIG: "a message was over the size limit",
    Fault.BAD_FRAME: "a malformed WebSocket frame",
    Fault.FLOOD: "more frames than the server handles for one client, without a pause",
}
# Codes of a deliberate close (RFC 6455 §7.4.1); with any other the peer is lost, and may resume.
_DELIBERATE = (CloseReason.NORMAL_CLOSURE, CloseReason.GOING_AWAY, CloseReason.NO_STATUS_RCVD)


def closed_by(code: int) -> TransportClosedError:
    """The error that a session gets for a close with this code."""
    return TransportClosedError(deliberate=code in _DELIBERATE)


def fault_error(fault: Fault) -> RemoteProtocolError:
    """The error that a session gets for a fault in its client's frames."""
    return RemoteProtocolError(fault, _FAULTS[fault])


class WebSocketStream(WSStream):
    """One upgraded connection: translates between ASGI messages and frames."""

    def __init__(self, *args: Any, work: ConnectionWork) -> None:  # noqa: ANN401 - Hypercorn's arguments
        super().__init__(*args)
        self._work = work
        self._code = int(CloseReason.ABNORMAL_CLOSURE)
        self._fault: Fault | None = None  # why this end closed; None where the peer did
        self.received_s = awake_time()  # when any frame came last
        self._spoke_early = False  # frames came before the handshake was accepted

    async def handle(self, event: Event) -> None:
        """Handle one event of the connection; the application is sent exactly one disconnect."""
        if self.closed:
            return
        if isinstance(event, Request):
            await super().handle(replace(event, headers=_without_extensions(event.headers)))
        elif isinstance(event, Data | Body) and not self.handshake.accepted:
            self._spoke_early = True
        elif isinstance(event, StreamClosed):
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
            raise closed_by(self._code) if self._fault is None else fault_error(self._fault)
        else:
            await super().app_send(message)

    def charge(self, processor_s: float) -> None:
        """Work for the peer that a thread has done, of which the event loop's meter knows nothing."""
        self._work.charge(processor_s)

    async def ping(self) -> None:
        """Ask the peer for a pong; raises `TransportClosedError` where the connection is closed."""
        if self.closed:
            raise closed_by(self._code) if self._fault is None else fault_error(self._fault)
        if self.state is ASGIWebsocketState.CONNECTED:
            await self._send_wsproto_event(Ping())

    async def _accept(self, message: WebsocketAcceptEvent) -> None:
        await super()._accept(message)
        self._work.upgrade()
        if self._spoke_early:
            reason = "frames before the handshake was complete"
            self._work.report_bad_input("websocket", "early_frames", reason)
            await self._close(
                CloseConnection(code=CloseReason.PROTOCOL_ERROR, reason=reason), Fault.BAD_FRAME
            )

    async def _handle_events(self) -> None:
        for event in self.connection.events():
            self.received_s = awake_time()
            if isinstance(event, BytesMessage | TextMessage):
                if self.connection.state is ConnectionState.OPEN:
                    await self._buffer_message(event)
            elif isinstance(event, Ping):
                await self._send_wsproto_event(event.response())
            elif isinstance(event, CloseConnection):
                malformed = self.connection.state is ConnectionState.OPEN
                if malformed:
                    self._work.report_bad_input("websocket", "malformed_frame", event.reason or "")
                await self._close(event, Fault.BAD_FRAME if malformed else None)
            if self.closed:
                return
            if not await self._work.after_event():
                await self._report_flood()

    async def _report_flood(self) -> NoReturn:
        """Have the session inform its client and close; nothing more is read."""
        await self._send_to_app({"type": "websocket.receive", "fault": Fault.FLOOD})
        await trio.sleep_forever()

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


def _disconnect(code: int, fault: Fault | None) -> WebsocketDisconnectEvent:
    """The event with `reason`, which ASGI 2.5 added and Hypercorn's type lacks."""
    event = {"type": "websocket.disconnect", "code": code, "reason": fault}
    return cast("WebsocketDisconnectEvent", event)


def _without_extensions(headers: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    return [(name, value) for name, value in headers if name != b"sec-websocket-extensions"]
