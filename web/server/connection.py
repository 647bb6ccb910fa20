"""One TCP connection; every wait for its peer has a deadline.

Connects Hypercorn's HTTP/1.1 protocol objects to the socket, in place of `hypercorn.trio.tcp_server`:
that one shields writes from cancellation without a deadline, so one client that does not read would
keep the whole server from shutting down.

* A write that takes longer than `send_timeout_s` aborts the connection: part of a frame was written,
  so nothing can follow. Until then it is shielded, for the same reason. A response may allow itself
  more time (`Connection.extend_send_timeout`): its writes are not shielded, and abort when cancelled.
* Between requests a connection is idle, from its first byte (of TLS, if there is TLS) to the last of
  a request's head; it is closed after `keep_alive_timeout`, or when the server shuts down.
* A client may end its side after a request (`nc -N`, some health checkers); the response is still sent.
* After the last byte it is closed gracefully (`web.server.socket_stream`).

Neighbours: `web.server.socket_stream` (the socket), `web.server.http11` (HTTP and WebSocket on these
bytes), `web.server.serve` (accepts).
"""

import contextlib
import math
from collections.abc import Awaitable, Callable
from typing import cast

import structlog
import trio
from hypercorn.config import Config
from hypercorn.events import Closed, Event, RawData, Updated
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import (
    AppWrapper,
    ASGIFramework,
    ASGIReceiveEvent,
    ASGISendEvent,
    ConnectionState,
    Scope,
    TaskGroup,
)
from hypercorn.utils import parse_socket_addr

from actors.runtime import awake_clock
from actors.sessions.transport import SlowPeerError, TransportClosedError
from pipeline.errors import BrokenInvariantError, PeerError
from web.server.http11 import Http11Protocol
from web.server.socket_stream import READ_BYTES, SocketStream
from web.server.work_budget import ConnectionWork

EXTEND_SEND_TIMEOUT = "extend_send_timeout"  # key in the `state` of an ASGI scope
HALF_CLOSED_S = 30.0  # for the next part of a response whose client has ended its side, and may have left
APP_END_S = 5.0  # an application still running this long after its client has gone is cancelled
_USE_HTTPS = b"This server is reached over HTTPS: open the same address with https:// in place of http://.\n"
USE_HTTPS = (
    b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain; charset=utf-8\r\n"
    b"Content-Length: %d\r\nConnection: close\r\n\r\n%b" % (len(_USE_HTTPS), _USE_HTTPS)
)

AppSend = Callable[[ASGISendEvent | None], Awaitable[None]]
AppReceive = Callable[[ASGIReceiveEvent], Awaitable[None]]

log = structlog.get_logger()


class Connection:
    """One client's socket and the requests on it; also Hypercorn's `TaskGroup` for them."""

    _nursery: trio.Nursery
    _protocol: Http11Protocol | None = None  # until something has arrived: many only connect

    def __init__(
        self,
        app: ASGIFramework,
        config: Config,
        context: WorkerContext,
        stream: SocketStream,
        work: ConnectionWork,
        *,
        send_timeout_s: float,
    ) -> None:
        self._app = app
        self._config = config
        self._context = context
        self._stream = stream
        self._work = work
        stream.before_read = work.before_read
        self._send_timeout_s = send_timeout_s
        self._write_lock = trio.Lock()
        self._reading = trio.CancelScope()
        self._idle = True
        self._responded = trio.Event()  # nothing more is to be written
        self._writes = 0
        self._ended = False  # nothing more is written
        self._aborted = False
        self._extended_timeout_s: float | None = None

    async def run(self) -> None:
        """Serve requests until either side closes; the socket is closed whatever happens.

        One of the two places that supervise: a failure ends this connection alone, unless it is a
        broken invariant.
        """
        clock = awake_clock.install()
        try:
            async with trio.open_nursery() as self._nursery:
                await self._read_loop()
                if self._ended and not self._aborted:
                    await self._stream.close_gracefully()
                if self._protocol is not None:
                    await self._protocol.handle(Closed())
                clock.track(self._nursery.cancel_scope)
                self._nursery.cancel_scope.deadline = trio.current_time() + APP_END_S
        except* BrokenInvariantError:
            raise
        except* (PeerError, OSError):
            pass  # the peer left or broke a rule; its session, if it had one, has logged that
        except* Exception:
            log.exception("connection_failed")
        finally:
            clock.forget(self._nursery.cancel_scope)
            await self._stream.aclose()

    def close_if_idle(self) -> None:
        """Close at once between requests; never blocks."""
        if self._idle:
            self._reading.cancel()

    def extend_send_timeout(self, timeout_s: float) -> None:
        """Let writes of the current response wait this long, for a client that pauses between reads."""
        self._extended_timeout_s = timeout_s

    async def spawn_app(self, app: AppWrapper, config: Config, scope: Scope, send: AppSend) -> AppReceive:  # noqa: ARG002
        """Start the application on one request; events for one that has ended are dropped."""
        to_app, from_peer = trio.open_memory_channel[ASGIReceiveEvent](config.max_app_queue_size)
        self._nursery.start_soon(self._run_app, scope, from_peer, send)

        async def send_to_app(event: ASGIReceiveEvent) -> None:
            try:
                await to_app.send(event)
            except trio.BrokenResourceError:
                await trio.lowlevel.checkpoint()

        return send_to_app

    def _make_protocol(self) -> Http11Protocol:
        sock = self._stream.socket
        # Only the part of a task group that is used: the rest is for pings, which are switched off.
        tasks: TaskGroup = cast("TaskGroup", self)
        return Http11Protocol(
            cast("AppWrapper", self._app),  # handed back to `spawn_app`, which needs no wrapper
            self._config,
            self._context,
            tasks,
            ConnectionState({EXTEND_SEND_TIMEOUT: self.extend_send_timeout}),
            self._stream.is_tls,
            parse_socket_addr(sock.family, sock.getpeername()),
            parse_socket_addr(sock.family, sock.getsockname()),
            self._handle,
            work=self._work,
        )

    async def _run_app(
        self, scope: Scope, from_peer: trio.MemoryReceiveChannel[ASGIReceiveEvent], send: AppSend
    ) -> None:
        try:
            with from_peer:
                await self._app(scope, from_peer.receive, send)
        finally:
            with contextlib.suppress(TransportClosedError):  # an error of the application is the one to raise
                await send(None)

    async def _read_loop(self) -> None:
        with awake_clock.tracked(self._reading):
            self._set_idle(idle=True)
            await self._work.begin()
            if self._stream.is_tls and not await self._work.wait_for_request_turn():
                return
            self._set_idle(idle=True)
            if not await self._stream.do_handshake():
                if self._stream.is_plain_http:
                    await self._write(USE_HTTPS)
                    await self._end()
                return
            while not self._ended and (data := await self._stream.receive_some()):
                if self._protocol is None:
                    self._protocol = self._make_protocol()
                await self._protocol.handle(RawData(data))
                if len(data) < READ_BYTES:
                    self._work.caught_up()
            if not self._stream.is_broken and self._protocol is not None and self._protocol.is_responding:
                await self._finish_response()

    async def _finish_response(self) -> None:
        """Wait for the rest of a response, as long as parts of it are sent."""
        writes = -1
        while not self._responded.is_set() and writes != self._writes:
            writes = self._writes
            with awake_clock.move_on_after(HALF_CLOSED_S):
                await self._responded.wait()

    def _set_idle(self, *, idle: bool) -> None:
        self._idle = idle
        if idle:
            self._responded.set()
        elif self._responded.is_set():
            self._responded = trio.Event()
        self._extended_timeout_s = None
        wait_s = self._config.keep_alive_timeout if idle else math.inf
        self._reading.deadline = trio.current_time() + wait_s

    async def _handle(self, event: Event) -> None:
        """Apply one event of the protocol to the socket."""
        if isinstance(event, RawData):
            await self._write(event.data)
        elif isinstance(event, Updated):
            self._set_idle(idle=event.idle)
        elif isinstance(event, Closed):
            await self._end()
            if self._protocol is not None:
                await self._protocol.handle(Closed())

    async def _write(self, data: bytes) -> None:
        wait_s, shield = self._extended_timeout_s or self._send_timeout_s, self._extended_timeout_s is None
        with awake_clock.move_on_after(wait_s, shield=shield):
            async with self._write_lock:
                if self._ended:
                    raise TransportClosedError
                try:
                    await self._stream.send_all(data)
                except (TransportClosedError, trio.Cancelled):
                    self._abort()
                    raise
                self._writes += 1
            return
        self._abort()
        raise SlowPeerError

    async def _end(self) -> None:
        """Stop reading once everything has been written, or abort where that takes too long."""
        if self._ended:
            return
        self._ended = True
        self._responded.set()
        with awake_clock.move_on_after(self._send_timeout_s, shield=True):
            async with self._write_lock:
                self._reading.cancel()
            return
        self._abort()

    def _abort(self) -> None:
        """Close without waiting; unsent data is discarded."""
        if not self._aborted:
            self._ended = self._aborted = True
            self._responded.set()
            self._stream.abort()
