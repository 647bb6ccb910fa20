"""Real sockets for the tests of `web`: a served app, HTTP requests, WebSockets by library and by hand."""

import json
import socket
import ssl
import struct
from contextlib import asynccontextmanager
from dataclasses import dataclass

import h11
import trio
import trio_websocket

from web.security.rate_limit import RateLimiter
from web.server.serve import serve

HANDSHAKE = (
    b"GET %s HTTP/1.1\r\nHost: %s\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\nSec-WebSocket-Version: 13\r\n%s\r\n"
)
HANG_S = 120  # no guarantee depends on it: it turns a hang into a failure


@dataclass
class Served:
    """A server that listens; `shutdown` ends it as SIGTERM would, `stop` as a crash would."""

    address: object
    shutdown: trio.Event
    stop: trio.CancelScope
    ended: trio.Event
    tls: ssl.SSLContext | None = None  # what its clients trust, where it speaks TLS

    @property
    def port(self):
        return self.address.port

    @property
    def host(self):
        return f"127.0.0.1:{self.port}"


@asynccontextmanager
async def serving(app, settings, drain=None, limiter=None, tls=None):
    """Serve `app` on a port of its own while the block runs."""

    async def nothing_to_drain():
        await trio.lowlevel.checkpoint()

    served = Served(None, trio.Event(), trio.CancelScope(), trio.Event(), tls)

    async def run(task_status):
        with served.stop:
            await serve(
                app,
                settings,
                shutdown=served.shutdown,
                drain=drain or nothing_to_drain,
                limiter=limiter or RateLimiter(settings.limits),
                task_status=task_status,
            )
        served.ended.set()

    with trio.fail_after(HANG_S):
        async with trio.open_nursery() as nursery:
            served.address = await nursery.start(run)
            yield served
            served.stop.cancel()


@dataclass
class Response:
    status: int
    headers: dict
    body: bytes

    @property
    def json(self):
        return json.loads(self.body)

    @property
    def error(self):
        return self.json["error"]["code"]


async def connect(served):
    """A new connection, after the TLS handshake if there is TLS."""
    stream = await trio.open_tcp_stream("127.0.0.1", served.port)
    if served.tls is None:
        return stream
    stream = trio.SSLStream(stream, served.tls, server_hostname="127.0.0.1", https_compatible=True)
    await stream.do_handshake()
    return stream


async def fetch(served, path, *, method="GET", headers=(), host=None, body=b""):
    """One HTTP request on a connection of its own."""
    client = h11.Connection(h11.CLIENT)
    all_headers = [("Host", served.host if host is None else host), ("Connection", "close"), *headers]
    if body:
        all_headers.append(("Content-Length", str(len(body))))
    async with await connect(served) as stream:
        await stream.send_all(
            client.send(h11.Request(method=method, target=path, headers=all_headers))
            + (client.send(h11.Data(data=body)) if body else b"")
            + client.send(h11.EndOfMessage())
        )
        return await read_response(client, stream)


async def read_response(client, stream):
    """The whole response that `client` is waiting for."""
    response = None
    while True:
        event = client.next_event()
        if event is h11.NEED_DATA:
            client.receive_data(await stream.receive_some())
        elif isinstance(event, h11.InformationalResponse):
            return Response(event.status_code, {}, b"")  # 101: what follows is not HTTP
        elif isinstance(event, h11.Response):
            headers = {name.decode(): value.decode() for name, value in event.headers}
            response = Response(event.status_code, headers, b"")
        elif isinstance(event, h11.Data):
            response.body += event.data
        elif isinstance(event, h11.EndOfMessage | h11.ConnectionClosed):
            return response


@asynccontextmanager
async def websocket(served, path="/ws", *, headers=()):
    """A client of trio-websocket; its socket is closed at the end, whoever closed first."""
    async with await connect(served) as stream, trio.open_nursery() as nursery:
        connection = await trio_websocket.wrap_client_stream(
            nursery, stream, served.host, path, extra_headers=list(headers)
        )
        async with connection:
            yield connection


async def close_code(connection):
    """The code that this connection is closed with; other messages are ignored."""
    try:
        while True:
            await connection.get_message()
    except trio_websocket.ConnectionClosed as closed:
        return closed.reason.code


@asynccontextmanager
async def raw_websocket(served, path="/ws", *, receive_buffer_bytes=None):
    """An upgraded connection for frames made by hand; it reads nothing by itself."""
    sock = trio.socket.socket()
    if receive_buffer_bytes is not None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer_bytes)
    await sock.connect(("127.0.0.1", served.port))
    async with trio.SocketStream(sock) as stream:
        await stream.send_all(HANDSHAKE % (path.encode(), served.host.encode(), b""))
        head = b""
        while b"\r\n\r\n" not in head:
            head += await stream.receive_some(1)
        assert head.startswith(b"HTTP/1.1 101"), head
        yield stream


def frame(opcode, payload, *, final=True, masked=True, reserved=0):
    """One WebSocket frame (RFC 6455 §5.2), with a mask of zeros."""
    size = len(payload)
    mask_bit = 0x80 if masked else 0
    if size < 126:
        length = struct.pack("!B", mask_bit | size)
    elif size < 1 << 16:
        length = struct.pack("!BH", mask_bit | 126, size)
    else:
        length = struct.pack("!BQ", mask_bit | 127, size)
    return bytes([(0x80 if final else 0) | reserved | opcode]) + length + bytes(4 * masked) + payload


async def pour(stream, data):
    """Send `data` over and over, until the other end has closed for good."""
    while True:
        await stream.send_all(data)


async def until_health(served, holds):
    """Wait until what `/health` shows of the engine `holds`; bounded by the test's own deadline.

    Asked in this process: as requests, as fast as they are answered, the questions would be a flood.
    """
    while not holds(served.engine.health()):  # noqa: ASYNC110 - there is no event for it
        await trio.sleep(0.01)


async def until_lanes_open(served, count):
    """Wait until so many lanes are in use."""
    await until_health(served, lambda health: health["lanes"]["open"] == count)


async def until_closed(served):
    """Wait until every session has left its lane."""
    await until_lanes_open(served, 0)


async def read_to_end(stream):
    """Everything up to the end of the connection."""
    data = bytearray()
    try:
        async for chunk in stream:
            data += chunk
    except trio.BrokenResourceError:
        pass
    return bytes(data)


async def read_refused(served):
    """What a new connection that the server closes at once gets; it may be reset while it connects."""
    try:
        async with await connect(served) as stream:
            return await read_to_end(stream)
    except OSError:
        return b""


async def read_frames(stream):
    """Every (opcode, payload) up to the end of the connection."""
    return frames_of(await read_to_end(stream))


def frames_of(received):
    """Every (opcode, payload) in these bytes."""
    data = bytearray(received)
    frames = []
    while data:
        size, at = data[1] & 0x7F, 2
        if size == 126:
            size, at = struct.unpack_from("!H", data, 2)[0], 4
        elif size == 127:
            size, at = struct.unpack_from("!Q", data, 2)[0], 10
        frames.append((data[0] & 0x0F, bytes(data[at : at + size])))
        del data[: at + size]
    return frames


def closing_code(frames):
    """The code of the close frame, or None if there was none."""
    codes = [struct.unpack_from("!H", payload)[0] for opcode, payload in frames if opcode == 8]
    return codes[0] if codes else None
