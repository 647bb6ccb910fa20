"""One TCP connection never waits for its peer without a deadline.

Hypercorn's HTTP/1.1 protocol objects do the speaking; this is their way to the socket. It
takes the place of `hypercorn.trio.tcp_server`, whose writes are shielded from cancellation
without a deadline, so that one client that does not read holds the whole server at its end.

* A write that is not through within `send_timeout_s` aborts the connection: half a frame was
  written, nothing can follow it. Until then it is shielded, for the same reason. An answer may ask
  for more patience (`Connection.be_patient`): its writes are not shielded, and abort when cancelled.
* Between requests a connection is idle, from its first byte (that of TLS, where it is spoken) to
  the last of a request's head; it is closed after `keep_alive_timeout`, or when the server ends.
* After the last byte it is closed gracefully (`web.server.socket_stream`), which takes a moment.

Neighbours: `web.server.socket_stream` (the socket), `web.server.websocket` (HTTP and WebSocket on these
bytes), `web.server.serve` (accepts).
"""

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

from actors.sessions.transport import SlowPeerError, TransportClosedError
from pipeline.errors import BrokenInvariantError
from web.server.socket_stream import Wire
from web.server.websocket import Http11Protocol

PATIENCE = "be_patient"  # in an ASGI scope's state
APP_END_S = 5.0  # an application that goes on this long after its peer has gone is cancelled

Say = Callable[[ASGISendEvent | None], Awaitable[None]]
Tell = Callable[[ASGIReceiveEvent], Awaitable[None]]

log = structlog.get_logger()


class Connection:
    """The socket of one client and the requests it carries; Hypercorn's `TaskGroup` for them."""

    _nursery: trio.Nursery
    _protocol: Http11Protocol

    def __init__(
        self,
        app: ASGIFramework,
        config: Config,
        context: WorkerContext,
        wire: Wire,
        *,
        send_timeout_s: float,
    ) -> None:
        self._app = app
        self._config = config
        self._context = context
        self._wire = wire
        self._send_timeout_s = send_timeout_s
        self._write_turn = trio.Lock()
        self._reading = trio.CancelScope()
        self._idle = True
        self._ended = False  # nothing more is said
        self._aborted = False
        self._patience_s: float | None = None

    async def run(self) -> None:
        """Speak until either side ends; the socket is closed on every way out.

        One of the two places that supervise: what goes wrong here ends this connection alone,
        except a broken invariant.
        """
        try:
            async with trio.open_nursery() as self._nursery:
                self._protocol = self._speak_http()
                await self._read()
                if self._ended and not self._aborted:
                    await self._wire.part()
                await self._protocol.handle(Closed())
                self._nursery.cancel_scope.deadline = trio.current_time() + APP_END_S
        except* BrokenInvariantError:
            raise
        except* (TransportClosedError, OSError):
            pass  # the peer left; its session, if it had one, said so
        except* Exception:
            log.exception("connection_failed")
        finally:
            await self._wire.close()

    def end_if_idle(self) -> None:
        """Close at once between requests; never blocks."""
        if self._idle:
            self._reading.cancel()

    def be_patient(self, patience_s: float) -> None:
        """A write of the answer that is being given may wait this long: its peer works on what it has.

        The answer is no conversation: nothing is lost that would have to be told when it is cut.
        """
        self._patience_s = patience_s

    async def spawn_app(self, app: AppWrapper, config: Config, scope: Scope, send: Say) -> Tell:  # noqa: ARG002
        """Start the application on one request; what is told to one that has ended is dropped."""
        to_app, from_peer = trio.open_memory_channel[ASGIReceiveEvent](config.max_app_queue_size)
        self._nursery.start_soon(self._run_app, scope, from_peer, send)

        async def tell(event: ASGIReceiveEvent) -> None:
            try:
                await to_app.send(event)
            except trio.BrokenResourceError:
                await trio.lowlevel.checkpoint()

        return tell

    def _speak_http(self) -> Http11Protocol:
        sock = self._wire.socket
        # As far as a task group is used: the rest of one is for pings, and none are sent.
        tasks: TaskGroup = cast("TaskGroup", self)
        return Http11Protocol(
            cast("AppWrapper", self._app),  # handed back to `spawn_app`, which needs no wrapper
            self._config,
            self._context,
            tasks,
            ConnectionState({PATIENCE: self.be_patient}),
            self._wire.is_tls,
            parse_socket_addr(sock.family, sock.getpeername()),
            parse_socket_addr(sock.family, sock.getsockname()),
            self._handle,
        )

    async def _run_app(
        self, scope: Scope, from_peer: trio.MemoryReceiveChannel[ASGIReceiveEvent], send: Say
    ) -> None:
        try:
            with from_peer:
                await self._app(scope, from_peer.receive, send)
        finally:
            await send(None)

    async def _read(self) -> None:
        self._set_idle(idle=True)
        with self._reading:
            if not await self._wire.shake_hands():
                return
            while not self._ended and (data := await self._wire.receive()):
                await self._protocol.handle(RawData(data))

    def _set_idle(self, *, idle: bool) -> None:
        self._idle = idle
        self._patience_s = None
        wait_s = self._config.keep_alive_timeout if idle else math.inf
        self._reading.deadline = trio.current_time() + wait_s

    async def _handle(self, event: Event) -> None:
        """Do what the protocol asks of the socket."""
        if isinstance(event, RawData):
            await self._write(event.data)
        elif isinstance(event, Updated):
            self._set_idle(idle=event.idle)
        elif isinstance(event, Closed):
            await self._end()
            await self._protocol.handle(Closed())

    async def _write(self, data: bytes) -> None:
        wait_s, shield = self._patience_s or self._send_timeout_s, self._patience_s is None
        with trio.move_on_after(wait_s, shield=shield):
            async with self._write_turn:
                if self._ended:
                    raise TransportClosedError
                try:
                    await self._wire.send(data)
                except (TransportClosedError, trio.Cancelled):
                    self._abort()
                    raise
            return
        self._abort()
        raise SlowPeerError

    async def _end(self) -> None:
        """This was all: once it is written, stop reading."""
        if self._ended:
            return
        self._ended = True
        with trio.move_on_after(self._send_timeout_s, shield=True):
            async with self._write_turn:
                self._reading.cancel()

    def _abort(self) -> None:
        """Close without waiting, and drop what the peer did not take."""
        if not self._aborted:
            self._ended = self._aborted = True
            self._wire.abort()
