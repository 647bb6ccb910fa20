"""HAProxy's agent check: one line per connection with the sessions that there is room for now.

HAProxy may send a query: `lanes`, sessions that would run at once, or `queue`, sessions that could wait;
without one, the reply is about lanes. It is a percentage
of the weight in the load balancer's configuration: with 1 there, `up ready 1200%` is twelve. Source:
HAProxy 2.6, configuration manual, §5.2 "agent-check".

Neighbours: `actors.sessions.admission` has the numbers, `configs/haproxy.cfg` queries them. What does not
belong here: liveness, which is /health/live, over HTTP.
"""

import socket
from typing import Final

import structlog
import trio

from actors.engine import Engine
from pipeline.config import Server
from web.server.accept import accept_connections
from web.server.serve import bind_errors

QUERY_TIMEOUT_S: Final = 0.1  # a query arrives with the first segment
REPLY_TIMEOUT_S: Final = 1.0
QUERY_BYTES: Final = 16
MAX_CONNECTIONS: Final = 32  # of all load balancers; each connects once a second, and closes

log = structlog.get_logger()


def agent_reply(engine: Engine, query: bytes) -> bytes:
    """The line that HAProxy parses."""
    admission = engine.admission
    if engine.stalled:
        return b"fail #stalled\n"
    if admission.closed_for == "draining":
        return b"drain\n"
    if admission.closed_for is not None:
        return b"down #not_ready\n"
    now = admission.statistics()
    room = now.queue_room if query.strip() == b"queue" else now.room
    # `ready` cancels the `drain` of the previous process.
    return b"up ready %d%%\n" % (100 * room)


async def serve_agent(
    server: Server, engine: Engine, *, task_status: trio.TaskStatus[int] = trio.TASK_STATUS_IGNORED
) -> None:
    """Reply on `server.agent_port` until cancelled; the task has started, with the port, once it is bound.

    Raises:
        PortInUseError: another process listens there.
        ConfigError: the address is not one of this machine.
    """
    open_connections = 0

    def accept(accepted: socket.socket) -> None:
        nonlocal open_connections
        if open_connections >= MAX_CONNECTIONS:
            accepted.close()
            return
        open_connections += 1
        nursery.start_soon(handle, trio.SocketStream(trio.socket.from_stdlib_socket(accepted)))

    async def handle(stream: trio.SocketStream) -> None:
        nonlocal open_connections
        try:
            await _reply(stream, engine)
        finally:
            open_connections -= 1
            await trio.aclose_forcefully(stream)

    async def listen(listener: trio.SocketListener, task_status: trio.TaskStatus[None]) -> None:
        async with listener:
            await accept_connections(listener, accept, task_status=task_status)

    listeners = await _bind(server)
    port: int = listeners[0].socket.getsockname()[1]
    log.info("agent_listening", host=server.agent_host, port=port)
    async with trio.open_nursery() as nursery:
        for listener in listeners:
            await nursery.start(listen, listener)
        task_status.started(port)


async def _reply(stream: trio.SocketStream, engine: Engine) -> None:
    query = b""
    try:
        with trio.move_on_after(QUERY_TIMEOUT_S):
            query = await stream.receive_some(QUERY_BYTES)
        with trio.move_on_after(REPLY_TIMEOUT_S):
            await stream.send_all(agent_reply(engine, query))
            await stream.send_eof()
            # Closing a socket with unread input resets it, and the reply is lost.
            await stream.receive_some(QUERY_BYTES)
    except trio.BrokenResourceError:
        pass  # it did not wait for the reply


async def _bind(server: Server) -> list[trio.SocketListener]:
    assert server.agent_port is not None, "no agent port is configured"
    host = server.agent_host.removeprefix("[").removesuffix("]")
    host_key, port_key = "pipeline.server.agent_host", "server.agent_port"
    with bind_errors(server.agent_host, server.agent_port, host_key=host_key, port_key=port_key):
        return await trio.open_tcp_listeners(server.agent_port, host=host)
