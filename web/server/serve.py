"""Listen, serve, and shut down within a bounded time, whatever the clients do.

One task accepts connections (`web.server.accept`), one more serves each (`web.server.connection`).
Shutting down: no new connections, `drain_s` and one write for the sessions to finish, then cancellation,
in which each connection may take one more write.

Neighbours: `pipeline.run` calls `serve`; `web.app` handles requests. What does not belong here: signals.
"""

import errno
import socket
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import trio
from hypercorn.config import Config
from hypercorn.trio.worker_context import WorkerContext
from quart_trio import QuartTrio

from actors.runtime import awake_clock
from pipeline.config import Server, Settings
from pipeline.errors import ConfigError, PortInUseError
from web.security.listen import ListenConfig
from web.security.rate_limit import RateLimiter, address_of
from web.server.accept import accept_connections
from web.server.connection import Connection
from web.server.socket_stream import LINGER_S, SocketStream, abort
from web.server.work_budget import ConnectionWork, Reports, WorkBudgets

REQUEST_HEAD_BYTES = 16 * 1024
KEEP_ALIVE_S = 5.0
QUEUED_MESSAGES = 64  # between the socket and ingress, which takes each at once


@dataclass(frozen=True, slots=True)
class Address:
    """Where the server listens; `port` is the actual one where 0 was requested."""

    scheme: str
    host: str
    port: int

    @property
    def url(self) -> str:
        """The address as a URL."""
        return f"{self.scheme}://{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}"


async def serve(
    app: QuartTrio,
    settings: Settings,
    *,
    shutdown: trio.Event,
    drain: Callable[[], Awaitable[None]],
    limiter: RateLimiter,
    listen: ListenConfig | None = None,
    task_status: trio.TaskStatus[Address] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve until `shutdown` is set and the sessions have ended, or until cancelled.

    `drain` makes the sessions finish and returns when they have. The task has started once the
    address is bound. `listen`: what the files of the settings hold, if they have been read.

    Raises:
        PortInUseError: another process listens there.
        ConfigError: the address is not one of this machine, or needs TLS and a token.
    """
    listen = listen or ListenConfig.from_settings(settings.server)
    listener = await bind(settings.server, listen)
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
    budgets = WorkBudgets(settings.limits)

    def accept(accepted: socket.socket) -> None:
        host = peer_host(accepted)
        if host is None or (work := _admit(host, limiter, budgets)) is None:
            abort(accepted)
            return
        stream = trio.SocketStream(trio.socket.from_stdlib_socket(accepted))
        connections.start_soon(handle, stream, host, work)

    async def handle(accepted: trio.SocketStream, host: str, work: ConnectionWork) -> None:
        stream = SocketStream(accepted, listen.tls)
        connection = connect(stream, work)
        open_connections.add(connection)
        try:
            await connection.run()
        finally:
            open_connections.remove(connection)
            limiter.disconnect(host)
            if stream.certificate_rejected:
                limiter.record_forgiven("distrust")
                limiter.log.warning("handshake_failed", reason="certificate_rejected", peer=host)
            elif stream.is_plain_http:
                limiter.record_forgiven("plain_http")
                limiter.log.warning("handshake_failed", reason="plain_http", peer=host)
            elif listen.tls is not None and not stream.handshake_done and not stream.left_silently:
                limiter.record_failure("handshake", host)
                limiter.log.warning("handshake_failed", reason="no_tls", peer=host)

    with budgets.meter.running():
        async with listener, trio.open_nursery() as connections:
            async with trio.open_nursery() as accepting:
                await accepting.start(accept_connections, listener, accept)
                task_status.started(Address(listen.scheme, name[0], name[1]))
                await shutdown.wait()
                accepting.cancel_scope.cancel()
            await listener.aclose()
            # `drain` bounds itself by the first two; the last is for connections to close.
            end_s = settings.drain_s + settings.limits.send_timeout_s + LINGER_S
            clock = awake_clock.install()
            clock.track(connections.cancel_scope)  # for as long as the process lives
            connections.cancel_scope.deadline = trio.current_time() + end_s
            await context.terminated.set()
            for connection in tuple(open_connections):
                connection.close_if_idle()
            await drain()


def _admit(host: str, limiter: RateLimiter, budgets: WorkBudgets) -> ConnectionWork | None:
    """Count a new connection; None, and counted as rejected, where there may be no more."""

    def bad_input(protocol: str, kind: str, detail: str) -> None:
        limiter.log.warning("bad_input", reason=f"{protocol}_{kind}", peer=host, detail=detail)

    # Behind a proxy the clients of one address are many; it names that of each request.
    is_proxy = limiter.is_proxy(host)
    address = None if is_proxy else address_of(host)
    if address is not None and budgets.is_hopeless(address):
        limiter.reject(host, "work")
        return None
    if not limiter.connect(host):
        return None
    reports = Reports(partial(limiter.reject, host, "work"), bad_input)
    return budgets.connection(address, reports, partial(limiter.client_of, host) if is_proxy else None)


async def bind(server: Server, listen: ListenConfig) -> trio.SocketListener:
    """Listen on exactly the configured address.

    Raises:
        PortInUseError: another process listens there.
        ConfigError: the address is not one of this machine.
    """
    with bind_errors(server.host, server.port, host_key="pipeline.server"):
        listener, *others = await trio.open_tcp_listeners(server.port, host=listen.address)
    for other in others:  # a name with several addresses: keep the first
        await other.aclose()
    return listener


@contextmanager
def bind_errors(host: str, port: int, *, host_key: str, port_key: str = "server.port") -> Iterator[None]:
    """Turn a failure to bind into the start-up error that names the key to change."""
    try:
        yield
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise PortInUseError(host, port, port_key) from None
        raise ConfigError(host_key, f"cannot listen on {host}:{port} ({error.strerror})") from None


def peer_host(accepted: socket.socket) -> str | None:
    """The client's address; None where it is gone already."""
    try:
        host: str = accepted.getpeername()[0]
    except OSError:
        return None
    return host


def hypercorn_config(settings: Settings) -> Config:
    """Hypercorn's limits; its logs are off, because `web` has its own."""
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
