"""Floods: one client sends what is legal as fast as it can, and the others must not notice.

Each flood runs beside one normal client, on one server, from a process of its own and, where the system
has one, from an address of its own. Whatever the server ends, it begins again. What counts is the
neighbour: how many of its frames are answered, and how late the latest answer is; and how long
`/health/live` takes. A frame that is still on its way when the time is up is waited for, while the flood
goes on, for as long as an answer may be late.

All processes share this machine's cores, which a server under a real flood does not. So the time that the
server's event loop waited for a processor is reported beside the violations; it does not excuse them.

Neighbours: `pipeline.loadtest.misbehaving` breaks rules; a flood breaks none. What does not belong
here: the budget that bounds it (`web.server.work_budget`).
"""

import socket
import ssl
import struct
import subprocess
import sys
import time
from array import array
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cache, partial
from typing import Any, Final

import trio

from pipeline.audio.noise import noise_frames
from pipeline.client.scripts import scripts
from pipeline.loadtest.client import LoadClient, connect_client
from pipeline.loadtest.monitor import error_lines
from pipeline.loadtest.server_process import ServerProcess
from pipeline.percentiles import percentile
from pipeline.protocol.dialect import Message
from pipeline.protocol.moshi.ogg import SERIAL as OGG_SERIAL
from pipeline.protocol.moshi.ogg import OggWriter, checksum
from pipeline.protocol.packets import MESSAGE_BYTES, Packet, PacketType, Priority, encode

CALM_S: Final = 4.0  # before the flood, for comparison
FLOOD_S: Final = 6.0
FREE_S: Final = 60.0
PROBE_EVERY_S: Final = 0.05
PIECE_BYTES: Final = 2**16
CONNECTIONS: Final = 32  # of one flood at once
_OK: Final = b" 200 "
FLOOD_ADDRESS: Final = "127.0.0.2"
ANSWERED_PERCENT: Final = 98.0
LATER_MS: Final = 500.0  # than the latest answer without a flood
LIVE_S: Final = 1.0
BUSY_PERCENT: Final = 10.0  # of the time waiting for a processor: the machine is not this server's alone


@dataclass(frozen=True, slots=True)
class Target:
    """Where a server listens, and whether it speaks TLS."""

    port: int
    tls: bool


Flood = Callable[[Target], Awaitable[None]]


def _frame(opcode: int, payload: bytes = b"", *, final: bool = True) -> bytes:
    """A WebSocket frame (RFC 6455 §5.2), masked with zeros."""
    first, size = (0x80 if final else 0) | opcode, len(payload)
    if size < 126:
        return struct.pack("!BB4x", first, 0x80 | size) + payload
    if size < 1 << 16:
        return struct.pack("!BBH4x", first, 0x80 | 126, size) + payload
    return struct.pack("!BBQ4x", first, 0x80 | 127, size) + payload


_HEARTBEAT: Final = encode(Packet(PacketType.HEARTBEAT, Priority.LOW, 0, 0.0, b""))


async def _pour(stream: trio.SocketStream, unit: bytes, *, piece_bytes: int = PIECE_BYTES) -> None:
    """Send as fast as the server reads, and discard what it sends, until it closes."""
    piece = unit * max(1, piece_bytes // len(unit))

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


async def _connect(server: Target) -> trio.SocketStream:
    """A connection from the address of the flood."""
    return await trio.open_tcp_stream("127.0.0.1", server.port, local_address=_flood_address())


@cache
def _flood_address() -> str | None:
    """An address other than the neighbour's, so that they share no budget; None where there is none."""
    with socket.socket() as probe:
        try:
            probe.bind((FLOOD_ADDRESS, 0))
        except OSError:  # as on macOS, where 127.0.0.1 is the only address of loopback
            return None
    return FLOOD_ADDRESS


def _request(server: Target, path: str, headers: str = "", *, method: str = "GET") -> bytes:
    return f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\n{headers}\r\n".encode()


async def _open_websocket(server: Target, path: str = "/ws") -> trio.SocketStream:
    stream = await _connect(server)
    await stream.send_all(
        _request(
            server,
            path,
            "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
            "Sec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\n",
        )
    )
    return stream


def _again_and_again(once: Flood, *, tasks: int = 1) -> Flood:
    """The same over and over, however the server ends it, from several tasks at once."""

    async def repeat(server: Target) -> None:
        while True:
            with suppress(OSError, trio.BrokenResourceError):
                await once(server)
            await trio.lowlevel.checkpoint()

    async def flood(server: Target) -> None:
        async with trio.open_nursery() as nursery:
            for _ in range(tasks):
                nursery.start_soon(repeat, server)

    return flood


def _of_frames(unit: bytes, first: bytes = b"") -> Flood:
    async def flood(server: Target) -> None:
        async with await _open_websocket(server) as stream:
            await stream.receive_some(1)  # the response to the handshake has begun
            await stream.send_all(first)
            await _pour(stream, unit)

    return flood


def _of_audio(dialect: str) -> Flood:
    """A client of this dialect whose audio never pauses."""

    async def flood(server: Target) -> None:
        (script,) = (each for each in scripts(noise_frames(1)) if each.dialect == dialect)
        opening, unit = b"".join(map(_of_message, script.opening)), _of_message(script.frames[0])
        async with await _open_websocket(server, script.path) as stream:
            await stream.receive_some(1)
            await stream.send_all(opening)
            await _pour(stream, unit)

    return flood


def _of_message(message: Message) -> bytes:
    return _frame(1, message.encode()) if isinstance(message, str) else _frame(2, message)


def _tiny_packets() -> bytes:
    """An Ogg page (RFC 3533) of as many packets as it can have, each of one byte and invalid."""
    head = b"OggS" + bytes(10) + OGG_SERIAL.to_bytes(4, "little") + bytes(4)
    tail = bytes([255]) + b"\x01" * 255 + b"\xff" * 255
    return head + checksum(head + bytes(4) + tail).to_bytes(4, "little") + tail


async def tiny_packets(server: Target) -> None:
    """Messages with as many Opus packets as they can hold: a decoder would look at each."""
    page = _tiny_packets()
    unit = _of_message(b"\x01" + page * (MESSAGE_BYTES // len(page)))
    async with await _open_websocket(server, "/api/chat") as stream:
        await stream.receive_some(1)
        await stream.send_all(_of_message(b"\x01" + OggWriter().headers()))
        await _pour(stream, unit)


async def pipelined_requests(server: Target) -> None:
    """Requests, without waiting for the responses."""
    async with await _connect(server) as stream:
        await _pour(stream, _request(server, "/health/live"))


async def tiny_chunks(server: Target) -> None:
    """A body in chunks of one byte."""
    async with await _connect(server) as stream:
        head = _request(server, "/api/session", "Transfer-Encoding: chunked\r\n", method="POST")
        await stream.send_all(head)
        await _pour(stream, b"1\r\na\r\n")


async def single_bytes(server: Target) -> None:
    """A head that does not end, in segments of one byte."""
    async with await _connect(server) as stream:
        stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        await stream.send_all(_request(server, "/")[:-2] + b"X: ")
        await _pour(stream, b"x", piece_bytes=1)


async def requests_one_by_one(server: Target) -> None:
    """One request on a connection of its own."""
    async with await _connect(server) as stream:
        await stream.send_all(_request(server, "/health/live", "Connection: close\r\n"))
        while await stream.receive_some(PIECE_BYTES):
            pass


async def bare_connections(server: Target) -> None:
    """A connection that is closed at once."""
    async with await _connect(server):
        pass


async def tls_handshakes(server: Target) -> None:
    """A handshake that succeeds, and nothing after it."""
    async with await _connect(server) as stream:
        encrypted = trio.SSLStream(stream, _believing(), https_compatible=True)
        await encrypted.do_handshake()


@cache
def _believing() -> ssl.SSLContext:
    """It costs a client nothing to believe any certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


FLOODS: Final[Mapping[str, Flood]] = {
    "pongs": _again_and_again(_of_frames(_frame(10))),
    "pings": _again_and_again(_of_frames(_frame(9))),
    "continuations": _again_and_again(_of_frames(_frame(0, final=False), _frame(2, final=False))),
    "heartbeats": _again_and_again(_of_frames(_frame(2, _HEARTBEAT))),
    "packets_audio": _again_and_again(_of_audio("packets")),
    "live_audio": _again_and_again(_of_audio("live")),
    "realtime_audio": _again_and_again(_of_audio("realtime")),
    "moshi_audio": _again_and_again(_of_audio("moshi")),
    "moshi_packets": _again_and_again(tiny_packets),
    "websockets": _again_and_again(_of_frames(_frame(10)), tasks=CONNECTIONS),
    "chunks": _again_and_again(tiny_chunks, tasks=CONNECTIONS),
    "requests": _again_and_again(pipelined_requests, tasks=CONNECTIONS),
    "bytes": _again_and_again(single_bytes, tasks=CONNECTIONS),
    "connections": _again_and_again(requests_one_by_one, tasks=CONNECTIONS),
    "bare": _again_and_again(bare_connections, tasks=CONNECTIONS),
    "handshakes": _again_and_again(tls_handshakes, tasks=CONNECTIONS),
}
NEED_TLS: Final = ("handshakes",)
# A process of its own, which stands for another machine: it takes no processor time that others want.
_ELSEWHERE: Final = """
import os, sys, trio
from pipeline.loadtest.flooding import FLOODS, Target

name, port, tls = sys.argv[1:]
os.nice(19)
print("begins", flush=True)
trio.run(FLOODS[name], Target(int(port), tls == "tls"))
"""


async def measure_floods(server: ServerProcess, names: list[str]) -> dict[str, Any]:
    """Each flood in turn: the neighbour's figures before and during it, and the violations."""
    floods = {name: await _measure(server, name) for name in names}
    violations = [f"{name}: {each}" for name, figures in floods.items() for each in _violations(figures)]
    logged = [f"logged: {line[:400]}" for line in error_lines(server.logged())]
    return {"floods": floods, "violations": violations + logged}


async def _wait_until_free(server: ServerProcess) -> None:
    """Wait until no session of the flood before has a lane or a place in the queue any more."""
    with trio.fail_after(FREE_S):
        while True:
            _, state = await trio.to_thread.run_sync(server.get, "/health")
            if not state["lanes"]["open"] and not state["lanes"]["queued"]:
                return
            await trio.sleep(PROBE_EVERY_S)


async def _flood(server: ServerProcess, name: str, task_status: trio.TaskStatus[None]) -> None:
    """Run a flood elsewhere until cancelled; started once it has begun."""
    arguments = [name, str(server.port), "tls" if server.tls is not None else "plain"]
    async with trio.open_nursery() as nursery:
        run = partial(trio.run_process, stdout=subprocess.PIPE, check=False)
        process: trio.Process = await nursery.start(run, [sys.executable, "-c", _ELSEWHERE, *arguments])
        assert process.stdout is not None
        await process.stdout.receive_some(1)
        task_status.started()


async def _measure(server: ServerProcess, name: str) -> dict[str, float]:
    live_s = array("d")
    await _wait_until_free(server)
    async with connect_client(server.port, tls=server.tls) as neighbour, trio.open_nursery() as nursery:
        nursery.start_soon(neighbour.send_audio)
        nursery.start_soon(_probe, server, live_s)
        await trio.sleep(CALM_S)
        await nursery.start(_flood, server, name)
        calm = _Mark(server, neighbour, live_s)
        await trio.sleep(FLOOD_S)
        flooded = _Mark(server, neighbour, live_s)
        await trio.sleep(LATER_MS / 1000)
        nursery.cancel_scope.cancel()
    during_ms = neighbour.counts.answers[2 * calm.answered + 1 :: 2]
    before_ms = neighbour.counts.answers[1 : 2 * calm.answered : 2]
    sent, answered = flooded.sent - calm.sent, neighbour.counts.frames_out - calm.answered
    waited_percent = 100 * (flooded.processor_wait_s - calm.processor_wait_s) / (flooded.at_s - calm.at_s)
    return {
        "answered_before_percent": _percent(calm.answered, calm.sent),
        "answered_percent": _percent(answered, sent),
        "p50_before_ms": round(float(percentile(before_ms, 50)), 1) if len(before_ms) else -1.0,
        "p50_ms": round(float(percentile(during_ms, 50)), 1) if len(during_ms) else -1.0,
        "worst_before_ms": round(max(before_ms, default=0.0), 1),
        "worst_ms": round(max(during_ms, default=1000 * FLOOD_S), 1),
        "live_before_s": round(max(live_s[: calm.probes], default=0.0), 3),
        "live_s": round(max(live_s[calm.probes :], default=FLOOD_S), 3),
        "put_back": neighbour.put_back_total,
        "processor_wait_percent": round(waited_percent, 1),
    }


def _percent(answered: int, sent: int) -> float:
    """One frame may be on its way at either end."""
    return round(min(100.0, 100 * (answered + 1) / max(1, sent)), 1)


class _Mark:
    """How far the neighbour, the probes and the server have come."""

    def __init__(self, server: ServerProcess, neighbour: LoadClient, live_s: "array[float]") -> None:
        self.at_s = time.monotonic()
        self.sent, self.answered = neighbour.counts.frames_in, neighbour.counts.frames_out
        self.probes = len(live_s)
        self.processor_wait_s = server.processor_wait_s()


async def _probe(server: ServerProcess, live_s: "array[float]") -> None:
    """Request /health/live over and over; the times until it was answered, `FLOOD_S` where it was not."""
    while True:
        began_s, answer = time.monotonic(), b""
        with suppress(OSError, trio.BrokenResourceError):
            async with await trio.open_tcp_stream("127.0.0.1", server.port) as plain:
                stream: trio.abc.Stream = plain
                if server.tls is not None:
                    stream = trio.SSLStream(
                        plain, server.tls, server_hostname="127.0.0.1", https_compatible=True
                    )
                target = Target(server.port, server.tls is not None)
                await stream.send_all(_request(target, "/health/live", "Connection: close\r\n"))
                while part := await stream.receive_some(PIECE_BYTES):
                    answer += part
        live_s.append(time.monotonic() - began_s if _OK in answer else FLOOD_S)
        await trio.sleep(PROBE_EVERY_S)


def _violations(figures: Mapping[str, float]) -> list[str]:
    found = []
    if figures["answered_percent"] < ANSWERED_PERCENT:
        found.append(f"{figures['answered_percent']} % of a neighbour's frames were answered")
    if figures["worst_ms"] > figures["worst_before_ms"] + LATER_MS:
        found.append(f"a neighbour's latest answer came after {figures['worst_ms']} ms")
    if figures["put_back"]:  # what it would have sent meanwhile is not in the other figures
        found.append("a neighbour was put back into the queue")
    if figures["live_s"] > LIVE_S:
        found.append(f"/health/live took {figures['live_s']} s")
    waited = figures["processor_wait_percent"]
    if waited <= BUSY_PERCENT:
        return found
    busy = f"the machine was busy: the server waited for a processor {waited} % of the time"
    return [f"{violation} ({busy})" for violation in found]
