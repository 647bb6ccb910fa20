"""Hypercorn's HTTP/1.1 protocol, with what a public port needs of it.

* A refused handshake ends its connection; HTTP/2 is not supported.
* Chunks and requests are counted, and handled in fair turns (`web.server.work_budget`).
* What the libraries cannot parse is answered with 400, and logged as one line. Every refusal has a body like
  the application's, so that people and programs learn the reason.
* Nothing is sent after a refusal, a failed write or the end of a response. An application learns of
  these at its next checkpoint only; until then h11 would refuse what it sends with an exception.

It overrides private methods because Hypercorn has no setting for any of this. Its version is pinned to a
minor release in pyproject.toml for this reason.

Neighbours: `web.server.connection` moves the bytes, `web.server.websocket` handles upgraded connections.
What does not belong here: access control.
"""

import json
from http import HTTPStatus
from typing import Any, Final, cast
from urllib.parse import unquote, urlparse

import h11
import trio
from hypercorn.events import Closed, RawData, Updated
from hypercorn.protocol.events import Body, Data, EndBody, Request, StreamClosed
from hypercorn.protocol.h11 import STREAM_ID, H11Protocol, H11WSConnection
from hypercorn.protocol.http_stream import HTTPStream
from hypercorn.typing import ASGISendEvent, H11SendableEvent

from actors.sessions.transport import TransportClosedError
from web.responses import error_fields, retry_after
from web.server.websocket import WEBSOCKET, WebSocketStream
from web.server.work_budget import REQUEST_PATIENCE_S, ConnectionWork

BAD_REQUEST: Final = 400
TOO_MANY_REQUESTS: Final = 429
_HANDSHAKE_HEADERS: Final = (b"connection", b"upgrade", b"sec-websocket-protocol")


class HttpStream(HTTPStream):
    """One request and its response."""

    _has_begun = False  # the response, whether any of it could be written or not

    async def app_send(self, message: ASGISendEvent | None) -> None:
        """Send the application's message; None: it has ended, with a whole response or without."""
        if self.closed:
            return
        if message is None and self._has_begun:  # what is incomplete ends with the connection
            await self.send(StreamClosed(stream_id=self.stream_id))
            return
        self._has_begun = True
        await super().app_send(message)


class Http11Protocol(H11Protocol):
    """Requests one after another; upgrades become `WebSocketStream`s."""

    def __init__(self, *args: Any, work: ConnectionWork) -> None:  # noqa: ANN401 - Hypercorn's arguments
        super().__init__(*args)
        self._work = work
        self._write_failed = False
        self._is_head = False

    @property
    def is_responding(self) -> bool:
        """Whether a request has arrived whole, and its response is not complete yet."""
        whole = (h11.DONE, h11.MUST_CLOSE)
        return isinstance(self.stream, HttpStream) and self.connection.their_state in whole

    async def _check_protocol(self, event: h11.Request) -> None:
        """Ignore offers of HTTP/2, which RFC 9110 §7.8 allows: every request is HTTP/1.1."""

    async def _handle_events(self) -> None:
        """Handle what has arrived, as Hypercorn does, in turns."""
        while True:
            if self.connection.they_are_waiting_for_100_continue:
                headers = self.config.response_headers("h11")
                await self._send_h11_event(h11.InformationalResponse(status_code=100, headers=headers))
            try:
                event = self.connection.next_event()
            except h11.RemoteProtocolError as error:
                await self._refuse(error.error_status_hint, str(error))
                return
            if event is h11.PAUSED:  # until the response to the request before is complete
                await self.can_read.clear()
                await self.can_read.wait()
            elif not await self._handle_event(event):
                return

    async def _handle_event(self, event: object) -> bool:
        """Handle one event; False where there is nothing more to handle now."""
        if isinstance(event, h11.Request):
            await self._start_request(event)
        elif isinstance(event, h11.ConnectionClosed) or event is h11.NEED_DATA or self.stream is None:
            return False
        elif isinstance(event, Data):
            await self.stream.handle(event)  # counts the frames in it itself
        elif not await self._work.after_event():
            await self._refuse(TOO_MANY_REQUESTS, "too many chunks")
            return False
        else:
            await self._handle_body(event)
        return True

    async def _handle_body(self, event: object) -> None:
        """Pass a part of a body on, unless the response was complete before it."""
        if self.stream is None:
            return
        if isinstance(event, h11.Data):
            await self.stream.handle(Body(stream_id=STREAM_ID, data=bytes(event.data)))
        elif isinstance(event, h11.EndOfMessage):
            await self.stream.handle(EndBody(stream_id=STREAM_ID))

    async def _start_request(self, request: h11.Request) -> None:
        await self.send(Updated(idle=False))
        self._is_head = request.method == b"HEAD"
        self._work.begin_request(request.headers)
        if not await self._work.wait_for_request_turn():
            await self._refuse(TOO_MANY_REQUESTS, "too many requests")
        elif not _is_ascii(request):
            await self._refuse(BAD_REQUEST, "a header of the handshake is not ASCII")
        elif not _has_valid_host(request):
            await self._refuse(BAD_REQUEST, "the Host header is not a host")
        elif not _has_valid_target(request):
            await self._refuse(BAD_REQUEST, "the request target is not a path")
        else:
            await self._create_stream(request)

    async def _refuse(self, status: int, reason: str) -> None:
        """Answer what cannot be handled, and close."""
        self._work.report_bad_input("http", str(status), reason)
        await self._close_stream()  # an application that runs already sends nothing more
        if self.connection.our_state in {h11.IDLE, h11.SEND_RESPONSE}:
            await self._send_refusal(status, reason)
        await self.send(Closed())

    async def _send_refusal(self, status: int, reason: str) -> None:
        code = HTTPStatus(status).phrase.lower().replace(" ", "_")
        retry_ms = round(1000 * REQUEST_PATIENCE_S) if status == TOO_MANY_REQUESTS else None
        body = json.dumps(error_fields(code, reason, retry_ms)).encode()
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(body)).encode()),
            (b"connection", b"close"),
            *([] if retry_ms is None else [(b"retry-after", retry_after(retry_ms).encode())]),
            *self.config.response_headers("h11"),
        ]
        await self._send_h11_event(h11.Response(status_code=status, headers=headers))
        if not self._is_head:
            await self._send_h11_event(h11.Data(data=body))
        await self._send_h11_event(h11.EndOfMessage())

    async def _send_h11_event(self, event: H11SendableEvent) -> None:
        """Write one event; raises `TransportClosedError` where an earlier write has failed."""
        if self._write_failed:
            raise TransportClosedError
        try:
            data = self.connection.send(event)
        except h11.LocalProtocolError:
            if self.connection.their_state != h11.ERROR:
                raise
            return  # the response to a request that turned out to be malformed
        try:
            await self.send(RawData(data=data))
        except (TransportClosedError, trio.Cancelled):
            self._write_failed = True
            raise

    async def _create_stream(self, request: h11.Request) -> None:
        stream = (
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
        if _is_websocket_upgrade(request):
            self.stream = WebSocketStream(*stream, work=self._work)
            self.connection_state[WEBSOCKET] = self.stream
            self.connection = H11WSConnection(cast("h11.Connection", self.connection))
        else:
            self.stream = HttpStream(*stream)
        await self.stream.handle(
            Request(
                stream_id=STREAM_ID,
                headers=list(request.headers),
                http_version=request.http_version.decode(),
                method=request.method.decode("ascii").upper(),
                raw_path=request.target,
                state=self.connection_state,
            )
        )
        self.keep_alive_requests += 1


def _is_websocket_upgrade(request: h11.Request) -> bool:
    """Whether this is the opening handshake of RFC 6455 §4.1, well formed or not."""
    upgrades = [value.strip().lower() for name, value in request.headers if name == b"upgrade"]
    options = b",".join(value for name, value in request.headers if name == b"connection").lower()
    return (
        request.method == b"GET"
        and upgrades == [b"websocket"]
        and b"upgrade" in (option.strip() for option in options.split(b","))
    )


def _is_ascii(request: h11.Request) -> bool:
    """Whether Hypercorn's handshake can parse the headers that it takes to be ASCII."""
    return all(value.isascii() for name, value in request.headers if name in _HANDSHAKE_HEADERS)


def _has_valid_host(request: h11.Request) -> bool:
    """Whether Werkzeug, which encodes the Host as a name of the DNS, can do so."""
    try:
        for name, value in request.headers:
            if name == b"host":
                value.decode("latin-1").lower().encode("idna")
    except UnicodeError:
        return False
    return True


def _has_valid_target(request: h11.Request) -> bool:
    """Whether Quart, which decodes the target before it parses it, finds a path in it."""
    path = unquote(request.target.partition(b"?")[0].decode("ascii"))
    try:
        return bool(path.startswith("/") or urlparse(path).geturl())
    except ValueError:
        return False
