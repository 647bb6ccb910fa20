"""Listen, speak, and end on time, whatever the clients do.

One task accepts, one more per connection (`web.server.connection`). The end has a bound that no peer
can move: no new connections, `drain_s` and one write for the sessions to finish, then
cancellation, in which each connection may use up one more write.

Neighbours: `pipeline.run` calls `serve`; `web.app` answers. What does not belong here: signals.
"""

import errno
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial

import trio
from hypercorn.config import Config
from hypercorn.trio.worker_context import WorkerContext
from quart_trio import QuartTrio

from pipeline.config import Server, Settings
from pipeline.errors import ConfigError, PortInUseError
from web.security.listen import Door
from web.security.rate_limit import Turnstile
from web.server.connection import Connection
from web.server.socket_stream import LINGER_S, Wire

REQUEST_HEAD_BYTES = 16 * 1024
KEEP_ALIVE_S = 5.0
QUEUED_MESSAGES = 64  # ahead of ingress, which takes them at once: a stall of 64 packets, not of the socket


@dataclass(frozen=True, slots=True)
class Address:
    """Where the server listens; `port` is the real one where 0 was asked for."""

    scheme: str
    host: str
    port: int

    @property
    def url(self) -> str:
        """The address as a browser takes it."""
        return f"{self.scheme}://{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}"


async def serve(
    app: QuartTrio,
    settings: Settings,
    *,
    shutdown: trio.Event,
    drain: Callable[[], Awaitable[None]],
    turnstile: Turnstile,
    task_status: trio.TaskStatus[Address] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve until `shutdown` is set and the sessions have ended, or until cancelled.

    `drain` asks the sessions to finish and returns when they have. The task has started once
    the address is bound.

    Raises:
        PortInUseError: another process listens there.
        ConfigError: the address is not this machine's own, or may not be listened on.
    """
    door = Door.of(settings.server)
    listener = await bind(settings.server, door)
    name = listener.socket.getsockname()
    context = WorkerContext(max_requests=None)
    connect = partial(
        Connection,
        app,
        hypercorn_config(settings),
        context,
        send_timeout_s=settings.limits.send_timeout_s,
    )
    open_connections: set[Connection] = set()

    async def handle(stream: trio.SocketStream) -> None:
        wire = Wire(stream, door.tls)
        host = peer_host(stream)
        if host is None or not turnstile.enter(host):
            wire.abort()
            return
        connection = connect(wire)
        open_connections.add(connection)
        try:
            await connection.run()
        finally:
            open_connections.remove(connection)
            turnstile.leave(host)
            if wire.is_distrusted:
                turnstile.count_distrust()
            elif door.tls is not None and not wire.is_agreed:
                turnstile.fail("handshake", host)

    async with listener, trio.open_nursery() as connections:
        async with trio.open_nursery() as accepting:
            accepting.start_soon(
                partial(trio.serve_listeners, handle, [listener], handler_nursery=connections)
            )
            task_status.started(Address(door.scheme, name[0], name[1]))
            await shutdown.wait()
            accepting.cancel_scope.cancel()
        await listener.aclose()
        # `drain` bounds itself by the first two; the last is for connections to close.
        end_s = settings.drain_s + settings.limits.send_timeout_s + LINGER_S
        connections.cancel_scope.deadline = trio.current_time() + end_s
        await context.terminated.set()
        for connection in tuple(open_connections):
            connection.end_if_idle()
        await drain()


async def bind(server: Server, door: Door) -> trio.SocketListener:
    """Listen on exactly the address asked for.

    Raises:
        PortInUseError: another process listens there.
        ConfigError: the address is not this machine's own.
    """
    try:
        listener, *others = await trio.open_tcp_listeners(server.port, host=door.address)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise PortInUseError(server.host, server.port) from None
        raise ConfigError(
            "pipeline.server", f"cannot listen on {server.host}:{server.port} ({error.strerror})"
        ) from None
    for other in others:  # of a name with several addresses, the first
        await other.aclose()
    return listener


def peer_host(stream: trio.SocketStream) -> str | None:
    """The address of the other end; None where it is gone already."""
    try:
        host: str = stream.socket.getpeername()[0]
    except OSError:
        return None
    return host


def hypercorn_config(settings: Settings) -> Config:
    """Hypercorn's bounds; its logs stay silent, because `web` keeps its own."""
    return Config.from_mapping(
        accesslog=None,
        errorlog=None,
        include_server_header=False,
        h11_max_incomplete_size=REQUEST_HEAD_BYTES,
        keep_alive_timeout=KEEP_ALIVE_S,
        max_app_queue_size=QUEUED_MESSAGES,
        websocket_max_message_size=settings.limits.message_bytes,
        websocket_ping_interval=None,  # the packet protocol has heartbeats of its own
    )
