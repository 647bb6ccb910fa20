"""Accepting connections: those that may not be are closed at once, many in a turn.

A client can open connections as fast as this loop can accept them. With one for each turn of the event
loop, the others' new connections would wait behind thousands of them in the system's queue. So many are
accepted in a turn, and the loop has a share of the processor of its own: beyond it, connections wait.

Neighbours: `web.server.serve` says which may be, and serves them. What does not belong here: bytes.
"""

import errno
import os
import socket
import time
from collections.abc import Callable
from typing import Final

import trio

from pipeline.system.command import shortage
from web.security.throttled_log import ThrottledLog
from web.server.work_budget import Allowance

AT_ONCE: Final = 64
# Of one core. Where it is too small for a flood of connections, the system's queue overflows, and whoever
# connects then is tried again by their system a second later.
PROCESSOR_SHARE: Final = 0.35
PAUSE_S: Final = 0.1  # where the system has no room for another connection
_NO_ROOM: Final = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
_NOT_NOW: Final = (errno.EAGAIN, errno.EWOULDBLOCK)


async def accept_connections(
    listener: trio.SocketListener,
    accept: Callable[[socket.socket], None],
    *,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Call `accept`, which never waits, with each new connection, until cancelled.

    Once it has started, it needs no other file than those of the connections.
    """
    allowance, log = Allowance(PROCESSOR_SHARE), ThrottledLog()
    # Trio's own socket accepts one connection for each of its checkpoints.
    with socket.socket(fileno=os.dup(listener.socket.fileno())) as listening:
        listening.settimeout(0)
        task_status.started()
        while True:
            await trio.lowlevel.wait_readable(listening)
            began_s = time.thread_time()
            no_room = _accept_waiting(listening, accept)
            allowance.spend(time.thread_time() - began_s)
            if no_room is not None:
                problem = shortage(OSError(no_room, os.strerror(no_room)))
                log.warning("cannot_accept", reason=errno.errorcode[no_room], problem=problem)
            await trio.sleep(PAUSE_S if no_room is not None else allowance.wait_s())


def _accept_waiting(listening: socket.socket, accept: Callable[[socket.socket], None]) -> int | None:
    """Accept what waits; the error number where there is no room for more."""
    for _ in range(AT_ONCE):
        try:
            accepted, _ = listening.accept()
        except OSError as error:
            if error.errno in _NO_ROOM:
                return error.errno
            if error.errno in _NOT_NOW:
                return None
            continue  # that client has left meanwhile
        accept(accepted)
    return None
