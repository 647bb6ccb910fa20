"""A balancer learns how much room there is: one line for each connection, and nothing else.

HAProxy's agent check. It may ask with a word, `lanes` or `queue`; whoever says nothing soon is told of
lanes. A weight is a percentage of the weight that the balancer's configuration has: with 1 there,
`up ready 1200%` are twelve. Source: HAProxy 2.6, configuration manual, §5.2 "agent-check".

Neighbours: `actors.sessions.admission` knows the room, `configs/haproxy.cfg` asks. What does not belong here:
whether the process is alive, which is /health/live, over HTTP.
"""

import errno
from typing import Final

import structlog
import trio

from actors.engine import Line
from pipeline.config import Server
from pipeline.errors import ConfigError, PortInUseError

QUESTION_S: Final = 0.1  # a balancer that asks does so with its first segment
ANSWER_S: Final = 1.0
QUESTION_BYTES: Final = 16
CONNECTIONS: Final = 32  # of all balancers at once; they ask once a second, and close

log = structlog.get_logger()


def answer(line: Line, question: bytes) -> bytes:
    """The line that HAProxy reads."""
    admission = line.admission
    if line.stalled:
        return b"fail #stalled\n"
    if admission.closed_for == "draining":
        return b"drain\n"
    if admission.closed_for is not None:
        return b"down #not_ready\n"
    now = admission.statistics()
    room = now.queue_max - now.queued if question.strip() == b"queue" else now.lanes_max - now.lanes_open
    # `ready` takes back the `drain` of the process that was here before.
    return b"up ready %d%%\n" % (100 * room)


async def answer_balancers(
    server: Server, line: Line, *, task_status: trio.TaskStatus[int] = trio.TASK_STATUS_IGNORED
) -> None:
    """Answer on `server.agent_port` until cancelled; the task has started, with the port, once it is bound.

    Raises:
        PortInUseError: another process listens there.
        ConfigError: the address is not this machine's own.
    """
    open_connections = 0

    async def handle(stream: trio.SocketStream) -> None:
        nonlocal open_connections
        if open_connections >= CONNECTIONS:
            await trio.aclose_forcefully(stream)
            return
        open_connections += 1
        try:
            await _tell(stream, line)
        finally:
            open_connections -= 1
            await trio.aclose_forcefully(stream)

    listeners = await _bind(server)
    port: int = listeners[0].socket.getsockname()[1]
    log.info("agent", host=server.agent_host, port=port)
    task_status.started(port)
    await trio.serve_listeners(handle, listeners)


async def _tell(stream: trio.SocketStream, line: Line) -> None:
    question = b""
    try:
        with trio.move_on_after(QUESTION_S):
            question = await stream.receive_some(QUESTION_BYTES)
        with trio.move_on_after(ANSWER_S):
            await stream.send_all(answer(line, question))
            await stream.send_eof()
            # Closed while something unread is there, a socket is reset, and its last words with it.
            await stream.receive_some(QUESTION_BYTES)
    except trio.BrokenResourceError:
        pass  # it did not wait for the answer


async def _bind(server: Server) -> list[trio.SocketListener]:
    assert server.agent_port is not None, "there is nothing to listen on"
    host = server.agent_host.removeprefix("[").removesuffix("]")
    try:
        return await trio.open_tcp_listeners(server.agent_port, host=host)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise PortInUseError(server.agent_host, server.agent_port, "server.agent_port") from None
        raise ConfigError(
            "pipeline.server.agent_host",
            f"cannot listen on {server.agent_host}:{server.agent_port} ({error.strerror})",
        ) from None
