"""New connections are accepted as fast as they come, within a share of the processor."""

import errno
import os
import socket

import pytest
import structlog
import trio

from web.server import accept
from web.server.accept import AT_ONCE, accept_connections


class Listening:
    """A listening socket whose `accept` has these results, and nothing after them."""

    def __init__(self, *results):
        self.results = list(results)

    def accept(self):
        result = self.results.pop(0) if self.results else BlockingIOError(errno.EAGAIN, "nothing waits")
        if isinstance(result, OSError):
            raise result
        return result, None


def test_all_that_wait_are_accepted_in_one_turn():
    """Up to a number: the others have their turn, too."""
    accepted = []
    assert accept._accept_waiting(Listening("a", "b"), accepted.append) is None
    assert accepted == ["a", "b"]
    assert accept._accept_waiting(Listening(*range(2 * AT_ONCE)), accepted.append) is None
    assert len(accepted) == 2 + AT_ONCE


def test_a_client_that_has_left_is_no_reason_to_stop():
    """The next one may still be there."""
    accepted = []
    left = OSError(errno.ECONNABORTED, os.strerror(errno.ECONNABORTED))
    assert accept._accept_waiting(Listening(left, "b"), accepted.append) is None
    assert accepted == ["b"]


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.ENOBUFS])
def test_no_room_for_another_connection_is_told(number):
    """So that the caller waits until there is."""
    assert accept._accept_waiting(Listening(OSError(number, "no room"), "b"), list) == number


async def test_a_server_without_room_goes_on_when_there_is(monkeypatch, autojump_clock):
    """One line of the log however long it takes, and the connection that waited is accepted."""
    results = iter([errno.EMFILE, errno.EMFILE, None])
    accepted = []

    def accept_waiting(_listening, accept_one):
        number = next(results)
        if number is None:
            accept_one("waited")
        return number

    def accept_one(connection):
        accepted.append(connection)
        scope.cancel()

    monkeypatch.setattr(accept, "_accept_waiting", accept_waiting)
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with listener:
        with (
            socket.create_connection(listener.socket.getsockname()),
            structlog.testing.capture_logs() as logs,
            trio.CancelScope() as scope,
        ):
            await accept_connections(listener, accept_one)
    assert accepted == ["waited"]
    (entry,) = logs
    assert (entry["event"], entry["reason"]) == ("cannot_accept", "EMFILE")
    assert "ulimit -n" in entry["problem"]
