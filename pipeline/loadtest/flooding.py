"""Floods: one client sends what is legal as fast as it can, and the others must not notice.

Each flood runs beside one normal client, on one server. What counts is the neighbour: how many of its
frames are answered, and how late the latest answer is; and how long `/health/live` takes.

Neighbours: `pipeline.loadtest.misbehaving` breaks rules; a flood breaks none. What does not belong
here: the budget that bounds it (`web.server.work_budget`).
"""

import struct
import time
from array import array
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from typing import Any, Final

import trio

from pipeline.audio.noise import noise_frames
from pipeline.client.scripts import scripts
from pipeline.loadtest.client import LoadClient, connect_client
from pipeline.loadtest.monitor import error_lines
from pipeline.loadtest.server_process import ServerProcess
from pipeline.percentiles import percentile
from pipeline.protocol.dialect import Message
from pipeline.protocol.packets import Packet, PacketType, Priority, encode

CALM_S: Final = 4.0  # before the flood, for comparison
FLOOD_S: Final = 6.0
PROBE_EVERY_S: Final = 0.05
PIECE_BYTES: Final = 2**16
CONNECTIONS: Final = 32  # of a flood of connections, at once
ANSWERED_PERCENT: Final = 98.0
LATER_MS: Final = 500.0  # than the latest answer without a flood
LIVE_S: Final = 1.0

Flood = Callable[[int], Awaitable[None]]


def _frame(opcode: int, payload: bytes = b"", *, final: bool = True) -> bytes:
    """A WebSocket frame (RFC 6455 §5.2) of less than 64 KiB, masked with zeros."""
    first, size = (0x80 if final else 0) | opcode, len(payload)
    if size < 126:
        return struct.pack("!BB4x", first, 0x80 | size) + payload
    return struct.pack("!BBH4x", first, 0x80 | 126, size) + payload


_HEARTBEAT: Final = encode(Packet(PacketType.HEARTBEAT, Priority.LOW, 0, 0.0, b""))


async def _pour(stream: trio.SocketStream, unit: bytes) -> None:
    """Send as fast as the server reads, and discard what it sends."""
    piece = unit * (PIECE_BYTES // len(unit))

    async def discard() -> None:
        while await stream.receive_some(PIECE_BYTES):
            pass
        nursery.cancel_scope.cancel()

    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(discard)
            while True:
                await stream.send_all(piece)
    except* (trio.BrokenResourceError, trio.ClosedResourceError):
        await trio.lowlevel.checkpoint()  # the server has closed


async def _open(port: int, path: str, headers: str = "", body: bytes = b"") -> trio.SocketStream:
    stream = await trio.open_tcp_stream("127.0.0.1", port)
    method = "POST" if body else "GET"
    head = f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n{headers}\r\n"
    await stream.send_all(head.encode() + body)
    return stream


async def _websocket(port: int, path: str = "/ws") -> trio.SocketStream:
    return await _open(
        port,
        path,
        "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
        "Sec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\n",
    )


def _of_frames(unit: bytes, first: bytes = b"") -> Flood:
    async def flood(port: int) -> None:
        async with await _websocket(port) as stream:
            await stream.receive_some(1)  # the response to the handshake has begun
            await stream.send_all(first)
            await _pour(stream, unit)

    return flood


def _of_audio(dialect: str) -> Flood:
    """A client of this dialect whose audio never pauses."""

    async def flood(port: int) -> None:
        (script,) = (each for each in scripts(noise_frames(1)) if each.dialect == dialect)
        opening, unit = b"".join(map(_of_message, script.opening)), _of_message(script.frames[0])
        async with await _websocket(port, script.path) as stream:
            await stream.receive_some(1)
            await stream.send_all(opening)
            await _pour(stream, unit)

    return flood


def _of_message(message: Message) -> bytes:
    return _frame(1, message.encode()) if isinstance(message, str) else _frame(2, message)


async def pipelined_requests(port: int) -> None:
    """Requests, without waiting for the responses."""
    request = f"GET /health/live HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n".encode()
    async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
        await _pour(stream, request)


async def tiny_chunks(port: int) -> None:
    """A body in chunks of one byte."""
    async with await _open(port, "/api/session", "Transfer-Encoding: chunked\r\n", b"1\r\na\r\n") as stream:
        await _pour(stream, b"1\r\na\r\n")


async def connections(port: int) -> None:
    """New connections, each with one request, from many tasks at once."""

    async def connect() -> None:
        while True:
            with suppress(OSError, trio.BrokenResourceError):
                async with await _open(port, "/health/live", "Connection: close\r\n") as stream:
                    while await stream.receive_some(PIECE_BYTES):
                        pass

    async with trio.open_nursery() as nursery:
        for _ in range(CONNECTIONS):
            nursery.start_soon(connect)


FLOODS: Final[Mapping[str, Flood]] = {
    "pongs": _of_frames(_frame(10)),
    "pings": _of_frames(_frame(9)),
    "continuations": _of_frames(_frame(0, final=False), _frame(2, final=False)),
    "heartbeats": _of_frames(_frame(2, _HEARTBEAT)),
    "packets_audio": _of_audio("packets"),
    "live_audio": _of_audio("live"),
    "realtime_audio": _of_audio("realtime"),
    "moshi_audio": _of_audio("moshi"),
    "chunks": tiny_chunks,
    "requests": pipelined_requests,
    "connections": connections,
}


async def measure_floods(server: ServerProcess, names: list[str]) -> dict[str, Any]:
    """Each flood in turn: the neighbour's figures before and during it, and the violations."""
    floods = {name: await _measure(server, FLOODS[name]) for name in names}
    violations = [f"{name}: {each}" for name, figures in floods.items() for each in _violations(figures)]
    logged = [f"logged: {line[:400]}" for line in error_lines(server.logged())]
    return {"floods": floods, "violations": violations + logged}


async def _measure(server: ServerProcess, flood: Flood) -> dict[str, float]:
    live_s = array("d")
    async with connect_client(server.port) as neighbour, trio.open_nursery() as nursery:
        nursery.start_soon(neighbour.send_audio)
        nursery.start_soon(_probe, server.port, live_s)
        await trio.sleep(CALM_S)
        calm = _Mark(neighbour, live_s)
        with trio.move_on_after(FLOOD_S):
            await flood(server.port)
            await trio.sleep_forever()  # it was closed: the neighbour goes on
        flooded = _Mark(neighbour, live_s)
        nursery.cancel_scope.cancel()
    during_ms = neighbour.counts.answers[2 * calm.answered + 1 :: 2]
    before_ms = neighbour.counts.answers[1 : 2 * calm.answered : 2]
    # One frame may be on its way at either end.
    sent, answered = flooded.sent - calm.sent, flooded.answered - calm.answered
    return {
        "answered_percent": round(min(100.0, 100 * (answered + 1) / max(1, sent)), 1),
        "p50_before_ms": round(float(percentile(before_ms, 50)), 1) if len(before_ms) else -1.0,
        "p50_ms": round(float(percentile(during_ms, 50)), 1) if len(during_ms) else -1.0,
        "worst_before_ms": round(max(before_ms, default=0.0), 1),
        "worst_ms": round(max(during_ms, default=1000 * FLOOD_S), 1),
        "live_before_s": round(max(live_s[: calm.probes], default=0.0), 3),
        "live_s": round(max(live_s[calm.probes :], default=FLOOD_S), 3),
    }


class _Mark:
    """How far the neighbour and the probes have come."""

    def __init__(self, neighbour: LoadClient, live_s: "array[float]") -> None:
        self.sent, self.answered = neighbour.counts.frames_in, neighbour.counts.frames_out
        self.probes = len(live_s)


async def _probe(port: int, live_s: "array[float]") -> None:
    """Request /health/live over and over; the times until it was answered."""
    while True:
        began_s = time.monotonic()
        with suppress(OSError, trio.BrokenResourceError):
            async with await _open(port, "/health/live", "Connection: close\r\n") as stream:
                while await stream.receive_some(PIECE_BYTES):
                    pass
        live_s.append(time.monotonic() - began_s)
        await trio.sleep(PROBE_EVERY_S)


def _violations(figures: Mapping[str, float]) -> list[str]:
    found = []
    if figures["answered_percent"] < ANSWERED_PERCENT:
        found.append(f"{figures['answered_percent']} % of a neighbour's frames were answered")
    if figures["worst_ms"] > figures["worst_before_ms"] + LATER_MS:
        found.append(f"a neighbour's latest answer came after {figures['worst_ms']} ms")
    if figures["live_s"] > LIVE_S:
        found.append(f"/health/live took {figures['live_s']} s")
    return found
