"""However a connection ends while an application responds, the server's log has no traceback of it."""

import socket
import struct
from contextlib import asynccontextmanager

import pytest
import structlog
import trio
from msgspec.structs import replace
from quart import Response, request
from quart_trio import QuartTrio
from support.web.small_engine import SETTINGS as ENGINE_SETTINGS
from support.web.small_engine import packet_client, small_server
from support.web.sockets import (
    HANDSHAKE,
    closing_code,
    connect,
    fetch,
    frame,
    frames_of,
    read_to_end,
    serving,
)

from pipeline.config import Lanes, Limits, Server, Settings
from web.server.connection import EXTEND_SEND_TIMEOUT, HALF_CLOSED_S
from web.server.socket_stream import SocketStream
from web.server.work_budget import ConnectionWork
from web.server.ws_handler import OrderedWebsocketConnection

SETTINGS = Settings(server=Server(port=0), limits=Limits(send_timeout_s=0.2))
RESET = struct.pack("ii", 1, 0)  # SO_LINGER: on, 0 s
GET = b"GET %s HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
BODY_BEGUN = b"%s %s HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n\r\n" + 2 * b"1\r\na\r\n"


class EndingApp(QuartTrio):
    """Responds late, endlessly, or not to the end."""

    asgi_websocket_class = OrderedWebsocketConnection

    def __init__(self):
        super().__init__(__name__, static_folder=None)
        self.asked = trio.Event()
        self.may_respond = trio.Event()
        self.post("/late")(self.respond_late)
        self.get("/endless")(self.respond_endlessly)
        self.get("/fails")(self.fail_halfway)

    async def respond_late(self):
        self.asked.set()
        await self.may_respond.wait()
        return "late"

    async def respond_endlessly(self):
        async def body():
            while True:
                yield bytes(2**16)

        request.scope["state"][EXTEND_SEND_TIMEOUT](60.0)
        response = Response(body())
        self.asked.set()
        return response

    async def fail_halfway(self):
        async def body():
            yield b"half"
            raise ZeroDivisionError

        return Response(body())


@asynccontextmanager
async def quiet_server(*expected):
    """A server; nothing is logged but these events, and it goes on answering."""
    app = EndingApp()
    with structlog.testing.capture_logs() as logs:
        async with serving(app, SETTINGS) as served:
            yield app, served
            assert (await fetch(served, "/none")).status == 404
    assert [entry["event"] for entry in logs] == list(expected)


@asynccontextmanager
async def plain_socket(served, receive_buffer_bytes=None):
    """A socket that the application may close."""
    with socket.socket() as sock:
        if receive_buffer_bytes is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer_bytes)
        sock.connect(("127.0.0.1", served.port))
        yield sock


@pytest.mark.parametrize(
    "sent", [2 * (GET % b"/"), HANDSHAKE % (b"/", b"127.0.0.1", b"")], ids=["two", "websocket"]
)
async def test_a_client_that_is_gone_before_the_response(sent):
    """The head of a response that cannot be written is not followed by another response.

    Of two requests the second waits, so that the server learns from its write alone that the client has gone.
    """
    ended = trio.Event()

    async def app(scope, receive, send):
        """An application of ASGI without a checkpoint between the end of its client and its response."""
        await receive()
        kind = "http.response.start" if scope["type"] == "http" else "websocket.http.response.start"
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        client.close()
        try:
            await send({"type": kind, "status": 403, "headers": []})
            await send({"type": kind.replace("start", "body"), "body": b"no", "more_body": False})
        finally:
            ended.set()

    with structlog.testing.capture_logs() as logs:
        async with serving(app, SETTINGS) as served:
            with socket.create_connection(("127.0.0.1", served.port)) as client:
                client.sendall(sent)
                await ended.wait()
                await trio.testing.wait_all_tasks_blocked()
    assert logs == []


@pytest.mark.parametrize("pieces", [[b"", b""], [b"a", b""], [b"", b"a"]], ids=["none", "before", "after"])
async def test_a_client_that_ends_its_side_gets_the_response(pieces):
    """As `nc -N` and some health checkers do: after a request with or without a body, and after another."""
    head = b"%s %s HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: %d\r\n\r\n"
    async with quiet_server() as (app, served), await connect(served) as stream:
        for piece in pieces:
            await stream.send_all(head % (b"POST", b"/late", len(piece)) + piece)
        await stream.send_eof()
        await app.asked.wait()
        await trio.testing.wait_all_tasks_blocked()
        app.may_respond.set()
        answer = await read_to_end(stream)
    assert answer.count(b"HTTP/1.1 200") == 2
    assert answer.endswith(b"late")


async def test_a_client_that_ends_its_side_within_a_request_has_left():
    """What it began is not completed: the application learns of it, and nothing is sent."""
    gone = trio.Event()

    async def app(scope, receive, send):
        while (await receive())["type"] != "http.disconnect":
            pass
        gone.set()

    async with serving(app, SETTINGS) as served, await connect(served) as stream:
        await stream.send_all(b"POST / HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 9\r\n\r\nhalf")
        await stream.send_eof()
        await gone.wait()
        assert await read_to_end(stream) == b""


async def test_a_response_that_nobody_may_want_is_not_waited_for_without_end(autojump_clock):
    """A client that has ended its side and one that has left look the same until something is written."""
    gone = trio.Event()

    async def app(scope, receive, send):
        while (await receive())["type"] != "http.disconnect":
            pass
        gone.set()

    async with serving(app, SETTINGS) as served, await connect(served) as stream:
        await stream.send_all(GET % b"/")
        await stream.send_eof()
        await gone.wait()
        assert trio.current_time() >= HALF_CLOSED_S


async def test_a_client_that_ends_its_side_may_download_for_long(autojump_clock):
    """As long as there is progress."""

    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": [(b"connection", b"close")]})
        for more in (True, True, True, False):
            await trio.sleep(0.6 * HALF_CLOSED_S)
            await send({"type": "http.response.body", "body": b"part", "more_body": more})

    async with serving(app, SETTINGS) as served, await connect(served) as stream:
        await stream.send_all(GET % b"/")
        await stream.send_eof()
        assert (await read_to_end(stream)).count(b"part") == 4


async def test_a_refusal_while_the_application_responds(monkeypatch):
    """A request that is refused for its chunks gets this one response, whatever the application sends."""
    async with quiet_server("bad_input") as (app, served), await connect(served) as stream:

        async def after_event(_):
            app.may_respond.set()
            return False

        await stream.send_all((BODY_BEGUN % (b"POST", b"/late"))[: -2 * len(b"1\r\na\r\n")])
        await app.asked.wait()
        with monkeypatch.context() as patched:
            patched.setattr(ConnectionWork, "after_event", after_event)
            await stream.send_all(b"1\r\na\r\n")
            answer = await read_to_end(stream)
    assert answer.startswith(b"HTTP/1.1 429")
    assert b"late" not in answer


async def test_a_bad_request_while_a_response_does_not_get_through():
    """A client that does not read and breaks a rule is disconnected after one write's time."""
    async with quiet_server("bad_input") as (app, served), plain_socket(served, 4096) as sock:
        sock.sendall(BODY_BEGUN % (b"GET", b"/endless"))
        await app.asked.wait()
        await trio.testing.wait_all_tasks_blocked(0.05)  # the response fills every buffer
        sock.sendall(b"not the size of a chunk\r\n")
        while not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            await trio.lowlevel.checkpoint()


async def test_a_response_that_fails_halfway_is_not_completed():
    """The client sees that it is incomplete, and the log has the application's error, nothing else."""
    async with quiet_server("connection_failed") as (_, served), await connect(served) as stream:
        await stream.send_all(GET % b"/fails")
        answer = await read_to_end(stream)
    assert b"half" in answer
    assert not answer.endswith(b"0\r\n\r\n")


async def test_a_bad_frame_of_a_page_that_is_refused():
    """A page without a lane that speaks too early gets 1002, and no internal error."""
    full = replace(ENGINE_SETTINGS, lanes=Lanes(queue=0))
    async with small_server(full, lanes=1) as served, packet_client(served):
        with structlog.testing.capture_logs() as logs:
            async with await connect(served) as stream:
                origin = f"Origin: http://{served.host}\r\n".encode()
                early = HANDSHAKE % (b"/ws", served.host.encode(), origin) + frame(2, b"early")
                await stream.send_all(early)
                answer = await read_to_end(stream)
    assert closing_code(frames_of(answer.partition(b"\r\n\r\n")[2])) == 1002
    assert sorted(entry["event"] for entry in logs) == ["bad_input", "session_refused"]


@pytest.mark.parametrize(
    "target", [b"?x", b"http://[", b"http://[::1/", b"//[", b"*", b"x", b"http://%5B/", b"a:80"]
)
async def test_a_target_without_a_path_is_refused(target):
    """Whatever a request asks for: a status of 4xx, and no internal error."""
    with structlog.testing.capture_logs() as logs:
        async with small_server() as served, await connect(served) as stream:
            await stream.send_all(GET.replace(b"\r\nHost", b"\r\nConnection: close\r\nHost") % target)
            answer = await read_to_end(stream)
    assert answer.startswith(b"HTTP/1.1 4"), answer
    assert {entry["event"] for entry in logs} <= {"bad_input", "connection_rejected"}


async def test_a_socket_can_be_aborted_in_any_state():
    """An option that the system refuses does not matter: the connection is closed anyway."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        stream = await trio.open_tcp_stream("127.0.0.1", listener.getsockname()[1])
        server_side = SocketStream(stream, None)
        server_side.abort()
        server_side.abort()
    assert server_side.socket.fileno() == -1
