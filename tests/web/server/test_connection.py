"""One connection, with an application that follows commands in its client's messages."""

import random
import tracemalloc

import pytest
import structlog
import trio
from quart.globals import websocket_ctx
from quart_trio import QuartTrio
from support.web.sockets import (
    HANDSHAKE,
    close_code,
    closing_code,
    connect,
    fetch,
    frame,
    pour,
    raw_websocket,
    read_frames,
    read_to_end,
    serving,
    websocket,
)
from trio.testing import wait_all_tasks_blocked

from actors.sessions.transport import SlowPeerError, TransportClosedError
from pipeline.config import Limits, Server, Settings
from pipeline.protocol.close_reason import CloseReason
from pipeline.protocol.faults import Fault, RemoteProtocolError
from web.server.ws_handler import CLOSE_CODES, OrderedWebsocketConnection, WebSocketTransport

TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10
SETTINGS = Settings(server=Server(port=0), limits=Limits(send_timeout_s=0.2, message_bytes=1000))


class CommandedApp(QuartTrio):
    """Echoes messages and follows commands; records what its sessions `received` and their `ends`."""

    asgi_websocket_class = OrderedWebsocketConnection

    def __init__(self):
        super().__init__(__name__, static_folder=None)
        self.received = []
        self.ends = []
        self.ended = trio.Event()
        self.busy = trio.Event()
        self.websocket("/ws")(self.converse)
        self.get("/hello")(self.hello)

    async def hello(self):
        return "hello"

    async def converse(self):
        websocket = websocket_ctx.websocket
        await websocket.accept()
        transport = WebSocketTransport(websocket)
        try:
            while True:
                message = await transport.receive()
                self.received.append(message)
                if message == b"pour":
                    self.busy.set()
                    while True:
                        await transport.send(bytes(900))
                if message == b"leave":
                    await wait_all_tasks_blocked(0.05)  # every queue on the way is full
                    return
                if isinstance(message, bytes) and message.startswith(b"close "):
                    await transport.close(CloseReason[message[6:].decode()])
                    return
                await transport.send(message if isinstance(message, bytes) else message.encode())
        except (TransportClosedError, RemoteProtocolError) as end:
            self.ends.append(getattr(end, "fault", type(end)))
        finally:
            self.ended.set()


async def test_messages_arrive_in_order_and_complete():
    """An empty message is delivered, text stays text, and the disconnect comes last."""
    app = CommandedApp()
    async with serving(app, SETTINGS) as served:
        async with websocket(served) as client:
            for message in (b"", b"one", "two", bytes(1000)):
                await client.send_message(message)
            assert [await client.get_message() for _ in range(4)] == [b"", b"one", b"two", bytes(1000)]
        await app.ended.wait()
    assert app.received == [b"", b"one", "two", bytes(1000)]
    assert app.ends == [TransportClosedError]


async def test_messages_before_a_close_are_delivered():
    """A client that sends and closes at once loses no message."""
    app = CommandedApp()
    async with serving(app, SETTINGS) as served, raw_websocket(served) as stream:
        await stream.send_all(frame(BINARY, b"last") + frame(CLOSE, b"\x03\xe8"))
        await app.ended.wait()
    assert app.received == [b"last"]


@pytest.mark.parametrize("close_reason", CloseReason)
async def test_every_close_reason_has_its_close_code(close_reason):
    """The client reads the close code that the protocol defines for each reason."""
    async with serving(CommandedApp(), SETTINGS) as served, websocket(served) as client:
        await client.send_message(b"close " + close_reason.name.encode())
        assert await close_code(client) == CLOSE_CODES[close_reason]


@pytest.mark.parametrize(
    ("frames", "code"),
    [
        pytest.param(frame(BINARY, bytes(1001)), 1009, id="one byte too many"),
        pytest.param(frame(BINARY, bytes(2**20)), 1009, id="a mebibyte"),
        pytest.param(
            frame(BINARY, bytes(600), final=False) + frame(0, bytes(600)), 1009, id="too many in fragments"
        ),
        pytest.param(frame(BINARY, b"x", masked=False), 1002, id="not masked"),
        pytest.param(frame(BINARY, b"x", reserved=0x40), 1002, id="reserved bit, as if compressed"),
        pytest.param(frame(3, b"x"), 1002, id="reserved opcode"),
        pytest.param(frame(PING, bytes(126)), 1002, id="control frame too long"),
        pytest.param(frame(PING, b"x", final=False), 1002, id="control frame in fragments"),
        pytest.param(frame(0, b"x"), 1002, id="continuation of nothing"),
        pytest.param(frame(TEXT, b"\xff"), 1007, id="text that is not UTF-8"),
        pytest.param(frame(CLOSE, b"x"), 1002, id="half a close code"),
    ],
)
async def test_bad_frames_end_one_connection_and_say_why(frames, code):
    """An invalid frame is answered with the close code for it; another connection is not affected."""
    app = CommandedApp()
    async with serving(app, SETTINGS) as served, websocket(served) as neighbour:
        async with raw_websocket(served) as stream:
            await stream.send_all(frames)
            assert closing_code(await read_frames(stream)) == code
        await app.ended.wait()
        await neighbour.send_message(b"still here")
        assert await neighbour.get_message() == b"still here"
    assert app.received == [b"still here"]
    assert app.ends[0] == (Fault.TOO_BIG if code == 1009 else Fault.BAD_FRAME)


@pytest.mark.parametrize("upgraded", [True, False])
async def test_any_bytes_end_one_connection_at_most(upgraded):
    """Whatever a client sends, before or after the upgrade: one line of the log, the server continues."""
    rng = random.Random(7)
    app = CommandedApp()
    async with serving(app, SETTINGS) as served:
        with structlog.testing.capture_logs() as logs:
            for size in range(1, 101):
                async with raw_websocket(served) if upgraded else await connect(served) as stream:
                    await stream.send_all(rng.randbytes(size))
                    await stream.send_eof()
                    await read_to_end(stream)
        assert (await fetch(served, "/hello")).body == b"hello"
    assert {entry["event"] for entry in logs} <= {"bad_input"}
    kinds = [entry["reason"] for entry in logs]
    assert len(kinds) == len(set(kinds))


async def test_a_message_over_the_limit_is_not_buffered():
    """However much is sent, no more of a message is kept than the limit and one read."""
    app = CommandedApp()
    async with serving(app, SETTINGS) as served, raw_websocket(served) as stream:
        tracemalloc.start()
        try:
            await stream.send_all(frame(BINARY, b"")[:1] + b"\xff" + (2**40).to_bytes(8, "big") + bytes(4))
            with pytest.raises(trio.BrokenResourceError):
                await pour(stream, bytes(2**16))
            _, peak_bytes = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        await app.ended.wait()
    assert peak_bytes < 16 * 2**20


async def test_pings_are_answered():
    """A ping gets a pong with the same bytes."""
    async with serving(CommandedApp(), SETTINGS) as served, raw_websocket(served) as stream:
        await stream.send_all(frame(PING, b"there?") + frame(CLOSE, b"\x03\xe8"))
        assert await read_frames(stream) == [(PONG, b"there?"), (CLOSE, b"\x03\xe8")]


async def test_compression_is_not_negotiated():
    """An offer of permessage-deflate is ignored: the size of a message is known before it is read."""
    async with serving(CommandedApp(), SETTINGS) as served, await connect(served) as stream:
        offer = b"Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n"
        await stream.send_all(HANDSHAKE % (b"/ws", served.host.encode(), offer))
        head = await stream.receive_some()
    assert head.startswith(b"HTTP/1.1 101")
    assert b"extensions" not in head.lower()


async def test_a_peer_that_does_not_read_is_disconnected():
    """A write that does not complete raises SlowPeerError at its deadline, and the connection is closed."""
    app = CommandedApp()
    async with serving(app, SETTINGS) as served, raw_websocket(served, receive_buffer_bytes=4096) as stream:
        await stream.send_all(frame(BINARY, b"pour"))
        await app.ended.wait()
        assert app.ends == [SlowPeerError]
        await read_to_end(stream)


@pytest.mark.parametrize("how", ["shutdown", "stop"])
async def test_shutdown_does_not_wait_for_a_peer_that_does_not_read(how):
    """On shutdown and on cancellation, in the middle of a write that does not complete."""
    app = CommandedApp()
    settings = Settings(server=Server(port=0), limits=Limits(send_timeout_s=0.2), drain_s=0.1)
    async with serving(app, settings) as served, raw_websocket(served, receive_buffer_bytes=4096) as stream:
        await stream.send_all(frame(BINARY, b"pour"))
        await app.busy.wait()
        if how == "shutdown":
            served.shutdown.set()
        else:
            served.stop.cancel()
        await served.ended.wait()


async def test_a_cancelled_session_is_closed_as_going_away():
    """A session that outlasts the drain is closed with 1001, not with a broken connection."""
    settings = Settings(server=Server(port=0), limits=Limits(send_timeout_s=0.1), drain_s=0.05)
    async with serving(CommandedApp(), settings) as served, websocket(served) as client:
        served.shutdown.set()
        assert await close_code(client) == 1001


async def test_an_ended_session_does_not_keep_its_connection():
    """Unread messages do not keep a connection open once its session has ended."""
    app = CommandedApp()
    async with serving(app, SETTINGS) as served, raw_websocket(served) as stream:
        await stream.send_all(frame(BINARY, b"leave") + frame(BINARY, bytes(1000)) * 500)
        with structlog.testing.capture_logs() as logs, pytest.raises(trio.BrokenResourceError):
            await pour(stream, frame(BINARY, bytes(1000)) * 500)
    assert app.received == [b"leave"]
    assert logs == []


async def test_a_bad_handshake_is_refused_and_closed():
    """A handshake of another version is answered with 400, and its connection closes."""
    async with serving(CommandedApp(), SETTINGS) as served, await connect(served) as stream:
        handshake = HANDSHAKE % (b"/ws", served.host.encode(), b"")
        await stream.send_all(handshake.replace(b"Version: 13", b"Version: 12"))
        answer = await read_to_end(stream)
    assert answer.startswith(b"HTTP/1.1 400")


@pytest.mark.parametrize(
    "noise",
    [
        b"\x00\x01\x02\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",  # no Host
        b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"x" * 20_000,  # and no end in sight
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",  # TLS
    ],
)
async def test_what_is_not_http_is_refused_and_closed(noise):
    """Bytes that are not a request get 400 or a close; the server continues."""
    async with serving(CommandedApp(), SETTINGS) as served:
        async with await connect(served) as stream:
            await stream.send_all(noise)
            await stream.send_eof()
            answer = await read_to_end(stream)
        assert answer[9:12] in (b"", b"400", b"431")
        assert (await fetch(served, "/hello")).body == b"hello"


@pytest.mark.parametrize("headers", [[("Upgrade", "h2c"), ("HTTP2-Settings", "AAMAAABkAAQAAP__")], []])
async def test_every_request_is_answered_in_http_1_1(headers):
    """An offer of HTTP/2 is ignored."""
    async with serving(CommandedApp(), SETTINGS) as served:
        answer = await fetch(served, "/hello", headers=headers)
    assert (answer.status, answer.body) == (200, b"hello")


async def test_an_unfinished_request_times_out(monkeypatch):
    """A client that sends half a request and stops is disconnected."""
    monkeypatch.setattr("web.server.serve.KEEP_ALIVE_S", 0.05)
    async with serving(CommandedApp(), SETTINGS) as served, await connect(served) as stream:
        await stream.send_all(b"GET / HTTP/1.1\r\nHo")
        assert await stream.receive_some() == b""


async def test_an_idle_connection_does_not_delay_shutdown():
    """A connection between requests is closed at once when the server shuts down."""
    settings = Settings(server=Server(port=0), drain_s=3600.0)
    async with serving(CommandedApp(), settings) as served, await connect(served) as stream:
        await stream.send_all(b"GET /hello HTTP/1.1\r\nHost: a\r\n\r\n")
        assert (await stream.receive_some()).startswith(b"HTTP/1.1 200")
        served.shutdown.set()
        await served.ended.wait()
